"""BERT-shaped sentence encoders (Devlin et al. 2019, arXiv 1810.04805; MiniLM and its like): texts to unit vectors.

Read from the folder that sentence-transformers saves: config.json, safetensors, tokenizer.json, and where they are
there modules.json, 1_Pooling/config.json and sentence_bert_config.json. A vector is the mean of the last layer's
token states (or the first token's, where the folder says so), scaled to length 1 (Sentence-BERT, arXiv 1908.10084).

    theirs                                        ours
    embeddings.word_embeddings.weight [V, D]      words [V, D]
    encoder.layer.N.attention.self.query.weight   layers attention.self.query.weight [L, D, D]
    ...                                           ...
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from rewardscale.models.hf import find_tensors, open_tensors
from rewardscale.models.hf_config import CheckpointError

Params = dict[str, Any]
POOLING = ("mean", "cls")
_VERSION = 1  # of what the fingerprint stands for
_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLING_KEY = "pooling_mode_"
_MULTIPLE = 32  # token counts of batches: few shapes, few compilations
_LONGEST_BY_DEFAULT = 256
_BATCH_TOKENS = {
    "cpu": 2048
}  # what a layer makes of them stays in the cache: short texts at 1.7 times the speed
_TABLES = {
    "words": "embeddings.word_embeddings.weight",
    "positions": "embeddings.position_embeddings.weight",
    "types": "embeddings.token_type_embeddings.weight",
    "norm.weight": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Sizes, as config.json has them: width D, feed-forward `hidden`, vocabulary V, longest input `positions`."""

    width: int
    layers: int
    heads: int
    hidden: int
    vocab_size: int
    positions: int
    types: int
    epsilon: float
    pooling: str = "mean"


def read_config(folder: Path) -> EncoderConfig:
    """Reads config.json and how the folder pools. Raises CheckpointError for what is no encoder of this shape."""
    path = folder / "config.json"
    config = _read_json(path)
    for key, known in (
        ("model_type", ("bert",)),
        ("hidden_act", ("gelu",)),
        ("position_embedding_type", ("absolute", None)),
        ("is_decoder", (False, None)),
        ("add_cross_attention", (False, None)),
    ):
        if config.get(key) not in known:
            raise CheckpointError(
                f"{path}: {key}={config.get(key)!r} is not computed here, only {known[0]!r}: choose a sentence encoder "
                "with BERT's architecture (MiniLM, BGE, GTE and E5 in their English base forms)"
            )
    try:
        read = EncoderConfig(
            width=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            hidden=int(config["intermediate_size"]),
            vocab_size=int(config["vocab_size"]),
            positions=int(config["max_position_embeddings"]),
            types=int(config["type_vocab_size"]),
            epsilon=float(config["layer_norm_eps"]),
            pooling=_pooling(folder),
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: {error!r}: a size is missing or no number") from error
    if read.width % read.heads:
        raise CheckpointError(f"{path}: hidden_size {read.width} is no multiple of {read.heads} heads")
    return read


def _pooling(folder: Path) -> str:
    """ "mean" or "cls", by modules.json and the pooling module's own file; "mean" where there is neither."""
    path = folder / "modules.json"
    if not path.exists():
        return "mean"
    modules = {module["type"].rpartition(".")[2]: module["path"] for module in _read_json(path)}
    if unknown := [name for name in modules if name not in _MODULES]:
        raise CheckpointError(f"{path}: module {unknown[0]} is not computed here, only {', '.join(_MODULES)}")
    path = folder / modules.get("Pooling", "1_Pooling") / "config.json"
    config = _read_json(path)
    modes = [
        key.removeprefix(_POOLING_KEY) for key, on in config.items() if key.startswith(_POOLING_KEY) and on
    ]
    found = {"mean_tokens": "mean", "cls_token": "cls"}.get(modes[0]) if len(modes) == 1 else None
    if found is None or not config.get("include_prompt", True):
        raise CheckpointError(f"{path}: pooling {modes} is not computed here, only mean_tokens or cls_token")
    return found


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: {path.parent} holds no whole sentence encoder") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error


# --- weights in --------------------------------------------------------------------------------------


def load_params(folder: Path, config: EncoderConfig) -> Params:
    """The weights in float32, those of the layers stacked [layers, ...].

    Raises CheckpointError naming a tensor that is missing, of another shape than config.json says, or not finite.
    """
    files = find_tensors(folder)
    prefix = "bert." if f"bert.{_TABLES['words']}" in files else ""  # saved with a head of some kind
    handles = {file: open_tensors(file) for file in set(files.values())}

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        name = prefix + name
        if name not in files:
            raise CheckpointError(f"{folder} lacks tensor {name}, which config.json asks for")
        found = handles[files[name]].get_tensor(name)
        if found.shape != shape:
            raise CheckpointError(
                f"{files[name]}: tensor {name} has shape {found.shape}, and config.json asks for {shape}"
            )
        found = np.asarray(found, np.float32)
        if not np.isfinite(found).all():
            raise CheckpointError(f"tensor {name} holds NaN or infinite values: the checkpoint is damaged")
        return found

    d, f = config.width, config.hidden
    rows = {"words": config.vocab_size, "positions": config.positions, "types": config.types}
    tables = {
        ours: read(theirs, (rows[ours], d) if ours in rows else (d,)) for ours, theirs in _TABLES.items()
    }
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys([f"attention.self.{name}" for name in ("query", "key", "value")], (d, d)),
        "attention.output.dense": (d, d),
        "intermediate.dense": (f, d),
        "output.dense": (d, f),
        "attention.output.LayerNorm": (d,),
        "output.LayerNorm": (d,),
    }
    layers = {}
    for name, shape in shapes.items():
        for part, own in (("weight", shape), ("bias", shape[:1])):
            stacked = [read(f"encoder.layer.{i}.{name}.{part}", own) for i in range(config.layers)]
            layers[f"{name}.{part}"] = np.stack(stacked)
    if f"{prefix}encoder.layer.{config.layers}.output.dense.weight" in files:
        raise CheckpointError(f"{folder} holds more layers than the {config.layers} that config.json says")
    return {**tables, "layers": layers}


# --- the forward pass --------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=1)
def encode(params: Params, config: EncoderConfig, ids: jax.Array, lengths: jax.Array) -> jax.Array:
    """float32 [texts, D], rows of length 1.

    Args:
      ids: int32 [texts, tokens]; what lies past a text's length is not read. lengths: int32 [texts], at least 1.
    """
    with jax.default_matmul_precision("highest"):
        inside = jnp.arange(ids.shape[1]) < lengths[:, None]
        x = params["words"][ids] + params["positions"][: ids.shape[1]] + params["types"][0]
        x = _layer_norm(x, params, "norm", config.epsilon)
        bias = jnp.where(inside, 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]
        x, _ = jax.lax.scan(lambda x, layer: (_layer(x, layer, bias, config), None), x, params["layers"])
        if config.pooling == "cls":
            pooled = x[:, 0]
        else:
            pooled = jnp.sum(x * inside[..., None], axis=1) / lengths[:, None]
        return pooled / jnp.maximum(jnp.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)


def _layer(x: jax.Array, layer: Mapping[str, jax.Array], bias: jax.Array, config: EncoderConfig) -> jax.Array:
    """One layer, x [texts, tokens, D] -> the same; norms come after each sum, as in BERT."""
    heads = (config.heads, config.width // config.heads)
    query, key, value = (
        _linear(x, layer, f"attention.self.{name}").reshape(*x.shape[:2], *heads)
        for name in ("query", "key", "value")
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(heads[1]) + bias
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value).reshape(x.shape)
    mixed = x + _linear(mixed, layer, "attention.output.dense")
    x = _layer_norm(mixed, layer, "attention.output.LayerNorm", config.epsilon)
    inner = jax.nn.gelu(_linear(x, layer, "intermediate.dense"), approximate=False)
    return _layer_norm(x + _linear(inner, layer, "output.dense"), layer, "output.LayerNorm", config.epsilon)


def _linear(x: jax.Array, weights: Mapping[str, jax.Array], name: str) -> jax.Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _layer_norm(x: jax.Array, weights: Mapping[str, Any], name: str, epsilon: float) -> jax.Array:
    x = x - x.mean(axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)
    return x * scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


# --- texts in ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceEncoder:
    """A loaded encoder with its tokenizer.

    Attributes:
      name: as whoever loaded it calls it. fingerprint: hash of all that decides its vectors. config, params: the model.
      tokenizer: cuts to `max_tokens`, does not pad. batch_tokens: computed in one call, padding included.
    """

    name: str
    fingerprint: str
    config: EncoderConfig
    params: Params
    tokenizer: Tokenizer
    max_tokens: int
    batch_tokens: int

    @classmethod
    def load(
        cls, folder: str | Path, *, name: str = "", max_tokens: int = 0, batch_tokens: int = 0
    ) -> "SentenceEncoder":
        """Loads a folder.

        Args:
          name: by default the folder's.
          max_tokens: longer texts lose their end; 0 means the folder's own limit (sentence_bert_config.json), or 256.
          batch_tokens: computed in one call; 0 means as many as suit the device.

        Raises CheckpointError, a ConfigError, naming what is missing or not understood.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"no folder {folder}; name the folder of a sentence encoder")
        config = read_config(folder)
        own = folder / "sentence_bert_config.json"
        limit = max_tokens or int((_read_json(own).get("max_seq_length") if own.exists() else 0) or 0)
        limit = limit or min(_LONGEST_BY_DEFAULT, config.positions)
        if not 2 < limit <= config.positions:
            raise CheckpointError(
                f"max_tokens={limit} must lie within 3..{config.positions}, what {folder} knows"
            )
        tokenizer = _tokenizer(folder / "tokenizer.json", config)
        tokenizer.enable_truncation(limit)
        params = jax.device_put(load_params(folder, config))
        return cls(
            name or str(folder),
            _fingerprint(folder, config, limit),
            config,
            params,
            tokenizer,
            limit,
            batch_tokens or _BATCH_TOKENS.get(jax.default_backend(), 8192),
        )

    def embed(self, texts: Sequence[str], *, done: Callable[[int], None] | None = None) -> np.ndarray:
        """float32 [texts, D], rows of length 1, in the order given; `done` is told the texts of each batch.

        Texts of like length are computed together, so little is padding. With which others a text is computed changes
        its vector by rounding alone (about 1e-7).
        """
        out = np.zeros((len(texts), self.config.width), np.float32)
        encodings = self.tokenizer.encode_batch_fast(
            [text.encode(errors="replace").decode() for text in texts]
        )
        lengths = np.array([len(encoding.ids) for encoding in encodings], np.int32)
        order, start = np.argsort(-lengths, kind="stable"), 0
        while start < len(order):
            width = min(-(-int(lengths[order[start]]) // _MULTIPLE) * _MULTIPLE, self.config.positions)
            rows = max(1, self.batch_tokens // width)
            some = order[start : start + rows]
            rows = min(rows, 1 << (len(some) - 1).bit_length())
            ids, sizes = np.zeros((rows, width), np.int32), np.ones(rows, np.int32)
            sizes[: len(some)] = lengths[some]
            for row, number in zip(ids, some, strict=False):
                row[: lengths[number]] = encodings[number].ids
            out[some] = np.asarray(encode(self.params, self.config, ids, sizes))[: len(some)]
            start += len(some)
            if done:
                done(len(some))
        return out


def _tokenizer(path: Path, config: EncoderConfig) -> Tokenizer:
    if not path.exists():
        raise CheckpointError(f"{path} is missing: save the tokenizer in the fast format (tokenizer.json)")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise CheckpointError(
            f"{path} knows {tokenizer.get_vocab_size()} tokens, and config.json's vocab_size is {config.vocab_size}"
        )
    tokenizer.no_padding()
    return tokenizer


def _fingerprint(folder: Path, config: EncoderConfig, max_tokens: int) -> str:
    digest = hashlib.blake2b(digest_size=10)
    digest.update(repr((_VERSION, config, max_tokens)).encode())
    for path in (folder / "tokenizer.json", *sorted(set(find_tensors(folder).values()))):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
