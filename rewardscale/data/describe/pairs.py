"""Pairs to look at: drawn by source, read by row number, the difference of their responses marked word by word."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from rewardscale.data.comparison import Comparison, DataError
from rewardscale.data.corpus import Corpus

MOST_COMPARED = 6_000  # characters of a response: the comparison's time grows with the square of the words
_WORD = re.compile(r"\s*\S+|\s+\Z")
_FEW = 0.2  # below this share of words in common, what differs is not worth marking


def sample_rows(corpus: Corpus, most: int, *, seed: int) -> list[int]:
    """Row numbers of `most` random comparisons, as equally from the sources as they allow, sorted by source.

    Every source gives at least one while there are fewer than `most`. The manifest is read file by file.
    """
    scan = corpus.scan_manifest().group_by("source").len().sort("source")
    sizes = dict(scan.collect(engine="streaming").iter_rows())
    places: dict[str, np.ndarray] = {}
    left = most
    for number, (source, size) in enumerate(sorted(sizes.items(), key=lambda item: (item[1], item[0]))):
        count = min(size, -(-left // (len(sizes) - number)))
        random = np.random.default_rng([seed, *source.encode()])
        places[source] = (
            np.sort(random.choice(size, count, replace=False)) if count else np.zeros(0, np.int64)
        )
        left -= count
    rows: dict[str, list[int]] = {source: [] for source in sizes}
    passed = dict.fromkeys(sizes, 0)
    start = 0
    for path in corpus.manifests:
        sources = pl.read_parquet(path, columns=["source"])["source"]
        for source, count in sources.value_counts().sort("source").iter_rows():
            first = passed[source]
            here = places[source][(places[source] >= first) & (places[source] < first + count)] - first
            if len(here):
                of_source = np.flatnonzero((sources == source).to_numpy())
                rows[source] += (start + of_source[here]).tolist()
            passed[source] = first + count
        start += len(sources)
    return [row for source in sorted(rows) for row in rows[source]]


def read_rows(corpus: Corpus, rows: Sequence[int]) -> list[Comparison]:
    """The comparisons `rows`, in that order; no shard is read whole. Raises DataError naming one that is damaged."""
    starts = np.concatenate([[0], np.cumsum(corpus.shards.counts)])
    out = []
    for row in rows:
        shard = int(np.searchsorted(starts, row, side="right")) - 1
        record = read_record(corpus.shards.paths[shard], int(row - starts[shard]))
        out.append(Comparison.from_bytes(record))
    return out


def read_record(path: Path, number: int) -> bytes:
    """One record of a shard. Raises DataError if it cannot be read."""
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        record = reader.read([number])[0]
        reader.close()
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"{path} cannot be read ({error}): corrupt; build it again") from error
    return record


Pieces = list[tuple[str, bool]]  # consecutive pieces of a text, and whether the other text lacks them


def difference(one: str, other: str) -> tuple[Pieces, Pieces]:
    """Both texts in pieces, those marked that the other does not have in this order, word by word.

    Nothing is marked beyond MOST_COMPARED characters, nor where the texts have less than a fifth of their words in
    common. The pieces of a text, joined, are the text.
    """
    words = [_WORD.findall(text[:MOST_COMPARED]) for text in (one, other)]
    matcher = difflib.SequenceMatcher(None, *[[w.strip() for w in ws] for ws in words], autojunk=False)
    codes = matcher.get_opcodes()
    same = sum(i2 - i1 for tag, i1, i2, _, _ in codes if tag == "equal")
    marked = 2 * same >= _FEW * max(1, len(words[0]) + len(words[1]))
    pieces: tuple[Pieces, Pieces] = ([], [])
    for tag, i1, i2, j1, j2 in codes:
        for side, (start, stop) in enumerate(((i1, i2), (j1, j2))):
            text = "".join(words[side][start:stop])
            space = len(text) - len(text.lstrip()) if marked and tag != "equal" else len(text)
            split = [(text[:space], False), (text[space:], True)]
            pieces[side].extend(piece for piece in split if piece[0])
    for side, text in enumerate((one, other)):
        shown = sum(len(piece) for piece, _ in pieces[side])
        if rest := text[shown:]:
            pieces[side].append((rest, False))
    return pieces


def cut(pieces: Pieces, size: int) -> tuple[Pieces, Pieces]:
    """The first `size` characters of the pieces, and the rest."""
    head: Pieces = []
    rest: Pieces = []
    for text, marked in pieces:
        room = max(0, size - sum(len(piece) for piece, _ in head))
        head += [(text[:room], marked)] if room else []
        rest += [(text[room:], marked)] if len(text) > room else []
    return head, rest
