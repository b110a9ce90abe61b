"""Texts as unit vectors. Hashed n-grams need no weights and no training; an encoder fits behind the same protocol."""

import itertools
import re
import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rewardscale.config import ConfigError, content_hash
from rewardscale.data.comparison import Comparison
from rewardscale.data.ledger.schema import Attributes

_WORD = re.compile(r"\w+|[^\w\s]")
_SIGN = 1 << 31


class Embedder(Protocol):
    """Attributes: name: as configs name it. fingerprint: hash of all that decides its vectors."""

    name: str
    fingerprint: str

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, dimensions], rows of length 1; zeros for a text without words."""
        ...


class HashedNgrams:
    """Words and pairs of neighbouring words, hashed with a sign into `dimensions` (Weinberger et al. 2009, section 3).

    Counts enter by their logarithm. The same text has the same vector everywhere.
    """

    def __init__(self, dimensions: int = 1024):
        if dimensions < 2:
            raise ConfigError(f"hashed n-grams need 2 dimensions or more, not {dimensions}")
        self.name = f"hashed:{dimensions}"
        self.dimensions = dimensions
        self.fingerprint = content_hash(["hashed n-grams", 1, dimensions])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in zip(out, texts, strict=True):
            words = _WORD.findall(text.lower())
            grams = words + [f"{a} {b}" for a, b in itertools.pairwise(words)]
            hashes = np.array([zlib.crc32(gram.encode(errors="replace")) for gram in grams], np.int64)
            hashes, counts = np.unique(hashes, return_counts=True)
            signed = np.where(hashes & _SIGN, -1.0, 1.0) * np.log1p(counts)
            row[:] = np.bincount(hashes % _SIGN % self.dimensions, signed, self.dimensions)
        return unit(out)


def embedder(name: str) -> Embedder:
    """The embedder that a config names: "hashed" or "hashed:<dimensions>". Raises ConfigError for any other."""
    kind, _, size = name.partition(":")
    if kind != "hashed" or not (size.isdigit() or not size):
        raise ConfigError(f"embedder {name!r} is not known: use 'hashed' or 'hashed:<dimensions>'")
    return HashedNgrams(int(size)) if size else HashedNgrams()


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
