"""An index of the runs of words of evaluation texts: found by a 64-bit hash, confirmed by the words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale import atomic
from rewardscale.data import shingles
from rewardscale.data.overlap import word_list

_PLACE = np.dtype([("text", "<u4"), ("word", "<u4"), ("words", "<u4")])
SPOT = np.dtype([("text", "<i8"), ("word", "<i8"), ("hash", "<u8")])
MATCH = np.dtype([("spot", "<i8"), ("set", "<u4"), ("text", "<u4"), ("word", "<u4"), ("words", "<u4")])


def write(
    folder: Path, ids: Sequence[str], texts: Sequence[str], *, words: int, shortest: int
) -> Mapping[str, Any]:
    """Writes the index of one evaluation set; returns counts: texts, too_short (not in it), runs (distinct).

    Runs have `words` words; a text of at least `shortest` and fewer than `words` is one run. hashes.npy is sorted,
    places.npy says where each run stands (text, first word, number of words; in a text its first place),
    texts.parquet holds ids and words.
    """
    hashed = shingles.words(texts)
    runs = shingles.runs(hashed, words)
    short, hashes = shingles.whole(hashed, shortest, words - 1)
    long = len(runs.hashes)
    places = np.zeros(long + len(short), _PLACE)
    places["text"] = np.concatenate([np.repeat(np.arange(len(texts)), runs.counts), short])
    places["word"][:long] = np.arange(long) - np.repeat(runs.starts[:-1], runs.counts)
    places["words"] = np.concatenate([np.full(long, words), hashed.counts[short]])
    hashes = np.concatenate([runs.hashes, hashes])
    order = np.lexsort((places["word"], places["text"], hashes))
    hashes, places = hashes[order], places[order]
    again = np.zeros(len(hashes), bool)
    again[1:] = (hashes[1:] == hashes[:-1]) & (places["text"][1:] == places["text"][:-1])
    np.save(folder / "hashes.npy", hashes[~again])
    np.save(folder / "places.npy", places[~again])
    table = {"id": ids, "words": [" ".join(word_list(text)) for text in texts]}
    schema = dict.fromkeys(table, pl.String)
    atomic.write_parquet(folder / "texts.parquet", pl.DataFrame(table, schema=schema))
    too_short = int((hashed.counts < min(shortest, words)).sum())
    return {"texts": len(texts), "too_short": too_short, "runs": len(np.unique(hashes))}


class Texts:
    """The words of a set's texts, read when asked for the first time."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._joined: pl.Series | None = None
        self._spelled: dict[int, list[str]] = {}

    def words(self, text: int) -> list[str]:
        """The words of text number `text`."""
        if text not in self._spelled:
            if self._joined is None:
                self._joined = pl.read_parquet(self._folder / "texts.parquet")["words"]
            self._spelled[text] = self._joined[text].split(" ")
        return self._spelled[text]


class Index:
    """The indices of several sets, opened.

    Args:
      folders: of the sets, in order. words: of a run, as the indices were written.
    """

    def __init__(self, folders: Sequence[Path], words: int):
        self._words = words
        self._hashes = [np.load(folder / "hashes.npy") for folder in folders]
        self._places = [np.load(folder / "places.npy", mmap_mode="r") for folder in folders]
        self._texts = [Texts(folder) for folder in folders]
        self._all = np.unique(np.concatenate([np.zeros(0, np.uint64), *self._hashes]))
        # A bit for each value of the first bits of a hash, at least 16 a run: nearly all lookups end here.
        bits = max(16, (16 * len(self._all)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(2**bits // 8, np.uint8)
        place = self._all >> self._shift
        np.bitwise_or.at(self._filter, place >> np.uint64(3), _bit(place))

    def holds(self, hashes: np.ndarray) -> np.ndarray:
        """bool [n]: whether a hash is in any set's index."""
        place = hashes >> self._shift
        found = (self._filter[place >> np.uint64(3)] & _bit(place)) != 0
        maybe = np.flatnonzero(found)
        if len(maybe):
            at = np.searchsorted(self._all, hashes[maybe])
            found[maybe] = self._all[np.minimum(at, len(self._all) - 1)] == hashes[maybe]
        return found

    def spots(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """(SPOT [n]: where in `texts` a run, or a whole text, has a hash of the index; how many were looked up)."""
        words = shingles.words(texts)
        runs = shingles.runs(words, self._words)
        short, hashes = shingles.whole(words, 1, self._words - 1)
        inside, whole = np.flatnonzero(self.holds(runs.hashes)), np.flatnonzero(self.holds(hashes))
        spots = np.zeros(len(inside) + len(whole), SPOT)
        number = np.searchsorted(runs.starts, inside, "right") - 1
        spots["text"] = np.concatenate([number, short[whole]])
        spots["word"][: len(inside)] = inside - runs.starts[number]
        spots["hash"] = np.concatenate([runs.hashes[inside], hashes[whole]])
        return spots[np.lexsort((spots["word"], spots["text"]))], len(runs.hashes) + len(hashes)

    def confirmed(self, texts: Sequence[str], spots: np.ndarray) -> tuple[np.ndarray, int]:
        """(MATCH [m]: the evaluation texts that hold the words of `spots`; how many have the hash and other words)."""
        of_sets = [self._matches(set_, spots) for set_ in range(len(self._hashes))]
        matches = np.concatenate([np.empty(0, MATCH), *of_sets])
        matches = matches[np.argsort(matches["spot"], kind="stable")]
        real = np.zeros(len(matches), bool)
        at = -1
        spelled: list[str] = []
        for number, (spot, set_, text, word, count) in enumerate(matches.tolist()):
            of, first, _ = spots[spot].item()
            if of != at:
                at, spelled = of, word_list(texts[int(of)])
            ours = spelled[first : first + self._words]  # of a text of fewer words: all of them
            real[number] = ours == self._texts[set_].words(text)[word : word + count]
        return matches[real], int((~real).sum())

    def _matches(self, set_: int, spots: np.ndarray) -> np.ndarray:
        hashes = self._hashes[set_]
        first, last = (np.searchsorted(hashes, spots["hash"], side) for side in ("left", "right"))
        count = last - first
        place = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
        out = np.empty(len(place), MATCH)
        out["spot"], out["set"] = np.repeat(np.arange(len(spots)), count), set_
        for name in ("text", "word", "words"):
            out[name] = self._places[set_][place][name]
        return out


def _bit(place: np.ndarray) -> np.ndarray:
    return np.uint8(1) << (place & np.uint64(7)).astype(np.uint8)
