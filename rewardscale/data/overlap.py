"""Texts that share an n-gram of words: what must not stand on two sides of a split, or in a benchmark.

Thirteen words are the usual length (Brown et al., "Language models are few-shot learners", NeurIPS 2020,
appendix C: 13-grams of lower-cased words without punctuation).
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

WORDS = 13
_WORD = re.compile(r"\w+")


def word_list(text: str) -> list[str]:
    """The lower-cased words of `text`, in order."""
    return _WORD.findall(text.lower())


def ngrams(text: str, n: int = WORDS) -> Iterator[tuple[str, ...]]:
    """All runs of `n` lower-cased words of `text`, in order; none if it is shorter."""
    words = word_list(text)
    return zip(*(words[at:] for at in range(n)), strict=False)


def overlapping(texts: Sequence[str], reference_texts: Iterable[str], n: int = WORDS) -> np.ndarray:
    """bool [texts]: whether a text shares an n-gram with any of the reference texts (a benchmark's, say)."""
    reference = {gram for text in reference_texts for gram in ngrams(text, n)}
    return np.array([not reference.isdisjoint(ngrams(text, n)) for text in texts], bool)


def connected(texts: Sequence[str], n: int = WORDS) -> np.ndarray:
    """int64 [texts]: the group of each text, named by the lowest index in it.

    Texts that share an n-gram are in one group, and so are those that a chain of such texts links.
    """
    parent = list(range(len(texts)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    holder: dict[tuple[str, ...], int] = {}
    for index, text in enumerate(texts):
        for gram in ngrams(text, n):
            low, high = sorted((root(holder.setdefault(gram, index)), root(index)))
            parent[high] = low
    return np.array([root(index) for index in range(len(texts))], np.int64)
