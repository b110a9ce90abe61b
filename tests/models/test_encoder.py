"""Sentence encoders: against transformers' BertModel, and what is refused. Published weights: test_minilm.py."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rewardscale.config import ConfigError
from rewardscale.models.encoder import SentenceEncoder, encode, load_params, read_config
from rewardscale.models.hf_config import CheckpointError
from tests import reference
from tests.models import tiny_encoder


def vectors(folder: Path, sequences: list[list[int]]) -> np.ndarray:
    """Of token ids, all in one padded batch."""
    config = read_config(folder)
    ids = np.zeros((len(sequences), max(map(len, sequences)) + 5), np.int32)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
        row[len(sequence) :] = 7  # whatever lies there is not read
    lengths = np.array([len(s) for s in sequences], np.int32)
    return np.asarray(encode(load_params(folder, config), config, ids, lengths))


@reference.needs_reference
def test_vectors_are_those_of_transformers(tmp_path) -> None:
    random = np.random.default_rng(0)
    sequences = [random.integers(1, 90, n).tolist() for n in (1, 2, 9, 33, 60)]
    config = {
        "model_type": "bert", "vocab_size": 91, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 40, "max_position_embeddings": 70, "pad_token_id": 0, "initializer_range": 0.3,
    }  # fmt: skip
    worker = reference.Worker()
    try:
        worker.ask("make", directory=tmp_path / "theirs", config=config, seed=1, kind="encoder")
        theirs = np.array(worker.ask("embed", directory=tmp_path / "theirs", sequences=sequences)["vectors"])
    finally:
        worker.close()
    ours = vectors(tmp_path / "theirs", sequences)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert (
        np.abs(np.triu(ours @ ours.T, 1)).max() < 0.9
    )  # they differ: nothing is hidden by a common direction


def test_order_and_company_change_a_vector_by_rounding_alone(tmp_path) -> None:
    encoder = SentenceEncoder.load(tiny_encoder.write(tmp_path / "e"), batch_tokens=256)
    random = np.random.default_rng(3)
    texts = [" ".join(random.choice(tiny_encoder.WORDS, n)) for n in random.integers(0, 60, 50)]
    told: list[int] = []
    found = encoder.embed(texts, done=told.append)
    assert found.dtype == np.float32 and found.shape == (50, 16) and sum(told) == 50
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    order = random.permutation(50)
    np.testing.assert_allclose(encoder.embed([texts[i] for i in order]), found[order], atol=1e-6)
    np.testing.assert_allclose(
        np.concatenate([encoder.embed([text]) for text in texts[:5]]), found[:5], atol=1e-6
    )
    np.testing.assert_array_equal(encoder.embed(texts), found)
    assert encoder.embed([]).shape == (0, 16)
    encoder.embed(["half of a surrogate pair \ud800"])


def test_mean_of_what_is_inside_and_no_more_than_max_tokens(tmp_path) -> None:
    folder = tiny_encoder.write(tmp_path / "e")
    encoder = SentenceEncoder.load(folder, max_tokens=6)
    long, same = encoder.embed(["w1 w2 w3 w4 w5 w6 w7", "w1 w2 w3 w4 w9"])
    np.testing.assert_allclose(long, encoder.embed(["w1 w2 w3 w4"])[0], atol=1e-6)
    np.testing.assert_allclose(long, same, atol=1e-6)
    assert encoder.fingerprint != SentenceEncoder.load(folder).fingerprint
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')
    assert SentenceEncoder.load(folder).fingerprint == encoder.fingerprint


def test_first_token_where_the_folder_says_so(tmp_path) -> None:
    """One layer of zeros leaves the embeddings' norm: the vector is then that of [CLS], whatever follows."""
    folder = tiny_encoder.write(tmp_path / "e", pooling="cls_token", num_hidden_layers=1)
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if "dense" in name or "self" in name:
            tensors[name][:] = 0
    save_file(tensors, folder / "model.safetensors")
    first, second = SentenceEncoder.load(folder).embed(["w1 w2", "w9"])
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_a_copy_has_the_same_fingerprint_and_other_weights_another(tmp_path) -> None:
    folder = tiny_encoder.write(tmp_path / "e")
    shutil.copytree(folder, tmp_path / "copy")
    one = SentenceEncoder.load(folder).fingerprint
    assert SentenceEncoder.load(tmp_path / "copy").fingerprint == one
    assert SentenceEncoder.load(tiny_encoder.write(tmp_path / "f", seed=1)).fingerprint != one


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "mpnet"}, "model_type='mpnet' is not computed here"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"is_decoder": True}, "is_decoder=True"),
    ],
)
def test_other_architectures_are_refused_by_name(tmp_path, changes, says) -> None:
    folder = tiny_encoder.write(tmp_path / "e", **changes)
    with pytest.raises(CheckpointError, match=says):
        SentenceEncoder.load(folder)


def test_what_is_damaged_is_refused_by_name(tmp_path) -> None:
    def refused(says: str, **changes: object) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(tiny_encoder.CONFIG | changes))
        with pytest.raises(ConfigError, match=says):
            SentenceEncoder.load(folder)

    folder = tiny_encoder.write(tmp_path / "e")
    refused("hidden_size 16 is no multiple of 5 heads", num_attention_heads=5)
    refused("lacks tensor encoder.layer.2", num_hidden_layers=3)
    refused("holds more layers than the 1", num_hidden_layers=1)
    refused(r"has shape \(64, 16\), and config.json asks for \(128, 16\)", max_position_embeddings=128)
    refused("a size is missing or no number: .*many|many.*a size is missing", intermediate_size="many")
    refused("knows 44 tokens", vocab_size=40)
    refused("max_tokens=2", max_position_embeddings=2)
    with pytest.raises(ConfigError, match="no folder"):
        SentenceEncoder.load(tmp_path / "none")
    pooled = tiny_encoder.write(tmp_path / "max", pooling="max_tokens")
    with pytest.raises(ConfigError, match=r"pooling .*max_tokens"):
        SentenceEncoder.load(pooled)
    (pooled / "modules.json").write_text(
        '[{"type": "sentence_transformers.models.Dense", "path": "3_Dense"}]'
    )
    with pytest.raises(ConfigError, match="module Dense"):
        SentenceEncoder.load(pooled)
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][3] = np.nan
    save_file(tensors, folder / "model.safetensors")
    refused("NaN")
    (folder / "tokenizer.json").unlink()
    refused("tokenizer.json is missing")
