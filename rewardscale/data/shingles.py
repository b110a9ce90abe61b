"""Hashes of words, of runs of words and of runs of characters, of many texts at once.

A word is a run of `\\w` characters in lower case, as in data/overlap.py. Its hash is a polynomial over random values
of its characters (Karp and Rabin, "Efficient randomized pattern-matching algorithms", IBM Journal of Research and
Development 31(2), 1987), modulo 2^64 and mixed. All words of a block of texts are hashed in a few passes of numpy over
its characters: six times as fast as a regular expression and a dictionary of words seen.

Two different runs of words have one hash with a probability of about 2^-64. Hashes depend on the texts alone, so
they may be stored.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

_BLOCK = 2**17  # characters hashed at once: their arrays stay in the cache
_U = np.uint64
_BASE = 0xD6E8FEB86659FD93  # odd, so it has an inverse modulo 2^64
_UNICODE = 0x110000
# In lower case: two characters; one that depends on its neighbours. All others are lowered by themselves.
_LOWERED_AS_A_TEXT = ("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "\N{GREEK CAPITAL LETTER SIGMA}")


@dataclasses.dataclass(frozen=True)
class Runs:
    """Hashes of the words, or of the runs of words, of some texts.

    Attributes:
      hashes: uint64 [n], text by text, in the order of the words.
      starts: int64 [texts + 1]: those of text i are hashes[starts[i]:starts[i + 1]].
    """

    hashes: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """int64 [texts]: how many each text has."""
        return np.diff(self.starts)


def words(texts: Sequence[str]) -> Runs:
    """The words of each text. Memory: about 20 bytes a word, and a block of characters at a time."""
    hashes, counts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for block in _blocks(texts):
        found, count = _hash_words(block)
        hashes.append(found)
        counts.append(count)
    return Runs(np.concatenate(hashes), _starts(np.concatenate(counts)))


def runs(words: Runs, n: int) -> Runs:
    """All runs of `n` words within each text, in order; none where it has fewer."""
    counts = np.maximum(words.counts - (n - 1), 0)
    if not counts.any():
        return Runs(np.zeros(0, np.uint64), np.zeros(len(counts) + 1, np.int64))
    return Runs(_windows(words.hashes, n)[_ranges(words.starts[:-1], counts)], _starts(counts))


def whole(words: Runs, shortest: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts of `shortest` to `longest` words as one run: (text numbers int64 [m], hashes uint64 [m]).

    A text of n words has the hash that `runs(words, n)` gives it.
    """
    counts, numbers, hashes = words.counts, [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for length in range(shortest, longest + 1):
        found = np.flatnonzero(counts == length)
        if len(found):
            numbers.append(found)
            each = words.hashes[words.starts[found][:, None] + np.arange(length)]
            hashes.append(_windows(each, length)[:, 0])
    order = np.argsort(np.concatenate(numbers), kind="stable")
    return np.concatenate(numbers)[order], np.concatenate(hashes)[order]


def shingles(words: Runs, n: int) -> Runs:
    """`runs` of `n` words; a text of fewer words, but at least one, has one shingle: all of it."""
    long, (short, hashes) = runs(words, n), whole(words, 1, n - 1)
    if not len(short):
        return long
    counts = long.counts
    counts[short] = 1
    starts = _starts(counts)
    out = np.empty(starts[-1], np.uint64)
    out[starts[short]] = hashes
    keep = np.ones(len(out), bool)
    keep[starts[short]] = False
    out[keep] = long.hashes
    return Runs(out, starts)


def characters(texts: Sequence[str], n: int) -> Runs:
    """All runs of `n` characters (spaces, signs) of each text in lower case, in order; none where it has fewer."""
    hashes, counts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for block in _blocks(texts):
        lowered = [text.lower() for text in block]
        lengths = np.fromiter(map(len, lowered), np.int64, len(lowered))
        codes = np.frombuffer("".join(lowered).encode("utf-32-le", "surrogatepass"), np.uint32)
        each = _finish((codes.astype(np.uint64) + _U(1)) * _U(0x9E3779B97F4A7C15))
        counts.append(np.maximum(lengths - (n - 1), 0))
        if counts[-1].any():
            hashes.append(_windows(each, n)[_ranges(_starts(lengths)[:-1], counts[-1])])
    return Runs(np.concatenate(hashes), _starts(np.concatenate(counts)))


def _mix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A hash of two, in their order."""
    mixed = first * _U(0x9E3779B97F4A7C15)
    mixed += second
    return _finish(mixed)


def _finish(hashes: np.ndarray) -> np.ndarray:
    """Spreads every bit over all, in place: a bijection of uint64."""
    hashes ^= hashes >> _U(32)
    hashes *= _U(0xD6E8FEB86659FD93)
    hashes ^= hashes >> _U(29)
    hashes *= _U(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> _U(32)
    return hashes


def _windows(hashes: np.ndarray, n: int) -> np.ndarray:
    """Hashes of all windows of `n` along the last axis [..., m - n + 1], by runs of 1, 2, 4, ... that double."""
    size = max(hashes.shape[-1] - n + 1, 0)
    power, width = hashes, 1
    window, covered = None, 0
    while width <= n:
        if n & width:
            piece = power[..., covered : covered + size]
            window = piece if window is None else _mix(window, piece)
            covered += width
        if 2 * width <= n:
            power = _mix(power[..., :-width], power[..., width:])
        width *= 2
    assert window is not None
    return window


def _starts(counts: np.ndarray) -> np.ndarray:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The indices starts[i], starts[i] + 1, ... (counts[i] of them) for each i in turn."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def _blocks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Consecutive texts of about _BLOCK characters together, or one that is longer."""
    start, size = 0, 0
    for at, text in enumerate(texts):
        if size and size + len(text) > _BLOCK:
            yield texts[start:at]
            start, size = at, 0
        size += len(text) + 1
    if texts:
        yield texts[start:]


def _hash_words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of all words uint64 [n], words of each text int64 [texts])."""
    if any(letter in text for text in texts for letter in _LOWERED_AS_A_TEXT):
        texts = [text.lower() for text in texts]
    joined = "\n".join(["", *texts, ""])  # words end at the line ends, so none crosses two texts
    if joined.isascii():
        codes = np.frombuffer(joined.encode("ascii"), np.uint8)
    else:
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    values = _values().take(codes)
    inside = values != 0
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1  # where a word begins, where it ends, in turn
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    if not len(edges):
        return np.zeros(0, np.uint64), np.zeros(len(texts), np.int64)
    powers, inverses = _powers(1 << int(len(values) - 1).bit_length())
    values *= powers[: len(values)]
    begins = edges[::2]
    hashes = np.add.reduceat(values, edges)[::2]  # sum of value(c_i) BASE^i over the word
    hashes *= inverses[begins]  # as if it began at 0
    bounds = np.searchsorted(begins, _starts(lengths + 1) + 1)
    return _finish(hashes), np.diff(bounds)


@functools.cache
def _values() -> np.ndarray:
    """uint64 [code points]: a random value for what `\\w` matches, that of its lower case; 0 for the rest."""
    values = _finish(np.arange(1, _UNICODE + 1, dtype=np.uint64) * _U(0x9E3779B97F4A7C15))
    characters = [chr(code) for code in range(_UNICODE)]
    lower = np.array([ord(c.lower()[0]) for c in characters])
    values[[not (c.isalnum() or c == "_") for c in characters]] = 0
    return values[lower]


@functools.lru_cache(maxsize=2)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(BASE^i, BASE^-i) modulo 2^64 for i < count: uint64 [count] each."""
    out = []
    for base in (_BASE, pow(_BASE, -1, 2**64)):
        powers = np.full(count, base, np.uint64)
        powers[0] = 1
        out.append(np.multiply.accumulate(powers))
    return out[0], out[1]
