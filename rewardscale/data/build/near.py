"""Near duplicates: items whose texts share most of their runs of five words.

An item is the set of the 5-word shingles of its messages and responses, each taken apart: so the order of
the responses, which a single changed word turns round, says nothing. Sets whose estimated Jaccard similarity reaches
the threshold are linked, and of the items that chains of links join the first in build order stays. Stages:

    near-signatures   MinHash signatures, a file a group of parts; kept when the threshold changes
    near-bands        a hash of each band of each signature, shuffled into buckets
    near-pairs        of each bucket: items with an equal band, checked by their whole signatures
    near-details      of the linked items: signatures of the prompt and of each response
    near              the components of these pairs: memory in proportion to what is dropped

Two pairs of one long prompt are alike whatever their responses say, and so are two with one long response. So with
on="pair" the prompts and each response with its counterpart must reach the threshold too, in either order of the
responses. Items that were dropped before take no part.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale import atomic, stages
from rewardscale.config import ConfigError
from rewardscale.config.base import choice
from rewardscale.data import shingles
from rewardscale.data.build import buckets as shuffle
from rewardscale.data.build import minhash
from rewardscale.data.build import parts as build
from rewardscale.data.build.parts import Dropped, Part
from rewardscale.data.comparison import DataError

PERMUTATIONS = 128
WORDS = 5
ITEMS_AT_ONCE = 250_000  # of a signature task: a file of 128 MB
RECORDS_AT_ONCE = 4_000_000  # bands of a bucket: some 200 MB while they are worked on
ALL_PAIRS = (
    64  # of a band that so many items share, all pairs are checked; of larger ones, pairs with 64 leaders
)
_PAIRS_AT_ONCE = 50_000  # 50 MB of signatures
_RECORD = np.dtype([("key", "<u8"), ("document", "<u4")])


def run(
    work: Path,
    parts: Sequence[Part],
    *,
    dropped: Sequence[Dropped] = (),
    threshold: float = 0.8,
    on: str = "pair",
    engine: Any = "inline",
    buckets: int | None = None,
    items_at_once: int = ITEMS_AT_ONCE,
    progress: Callable[[int], None] | None = None,
) -> Dropped:
    """Finds near duplicates among the items of `parts` that are not in `dropped`.

    Args:
      work: the build's folder.
      threshold: estimated Jaccard similarity from which two items are linked; its standard error is 0.035 at 0.8.
      on: "pair" (prompt and responses), "prompt" or "responses".
      engine: what runs the tasks.
      buckets: of the shuffle; by default as many as the items need. items_at_once: of a signature task.
      progress: called with the number of tasks done, over all stages.

    The counts: items (looked at), without_words (never linked), clusters, dropped, largest, pairs (linked),
    unchecked (items of very common bands that were compared with some others only). The table "clusters" holds
    cluster, part, item and the similarity to the cluster's first item, of every item in a cluster, the first included.

    Neither buckets nor engine nor grouping change what is dropped. Raises ConfigError, DataError.
    """
    choice("on", on, build.ON)
    bands, rows = minhash.bands_and_rows(threshold, PERMUTATIONS)
    parts = build.in_build_order(parts)
    if [part.number for part in parts] != list(range(len(parts))):
        raise DataError("near: parts must be numbered 0, 1, 2, ... without a gap")
    items = sum(part.items for part in parts)
    if items >= 2**32:
        raise ConfigError(f"near duplicates among {items} items: more than 2^32 - 1; build several corpora")
    buckets = buckets or shuffle.count_for(items * bands, RECORDS_AT_ONCE)
    groups = build.grouped(parts, items_at_once)
    signed = stages.run(
        work,
        "near-signatures",
        [
            stages.Task(
                name=f"group-{number:05d}",
                function=f"{__name__}:sign",
                arguments={"parts": build.arguments(group), "on": on, "words": WORDS},
                inputs=build.inputs(group),
                paths={"folders": build.folders(group)},
            )
            for number, group in enumerate(groups)
        ],
        engine=engine,
        progress=build.after(progress, 0),
    )
    files = [str(file) for drop in dropped for file in drop.files]
    outputs = tuple(output for drop in dropped for output in drop.outputs)
    firsts = np.cumsum([0, *(sum(part.items for part in group) for group in groups)]).tolist()
    banded = stages.run(
        work,
        "near-bands",
        [
            stages.Task(
                name=f"group-{number:05d}",
                function=f"{__name__}:band",
                arguments={
                    "parts": build.arguments(group),
                    "first": firsts[number],
                    "bands": bands,
                    "rows": rows,
                    "buckets": buckets,
                },
                inputs=(signature.output, *outputs),
                paths={"signatures": str(signature.folder), "drop_files": files},
            )
            for number, (group, signature) in enumerate(zip(groups, signed, strict=True))
        ],
        engine=engine,
        progress=build.after(progress, len(signed)),
    )
    signatures = {"signatures": [str(done.folder) for done in signed]}
    paired = stages.run(
        work,
        "near-pairs",
        [
            stages.Task(
                name=f"bucket-{bucket:05d}-of-{buckets:05d}",
                function=f"{__name__}:pair",
                arguments={"bucket": bucket, "threshold": threshold, "firsts": firsts},
                inputs=tuple(done.output for done in [*banded, *signed]),
                paths={"banded": [str(done.folder) for done in banded], **signatures},
            )
            for bucket in range(buckets)
        ],
        engine=engine,
        progress=build.after(progress, len(signed) + len(banded)),
    )
    details: list[stages.Done] = []
    before = len(signed) + len(banded) + len(paired)
    if on == "pair":
        details = stages.run(
            work,
            "near-details",
            [
                stages.Task(
                    name=f"group-{number:05d}",
                    function=f"{__name__}:detail",
                    arguments={"parts": build.arguments(group), "first": firsts[number], "words": WORDS},
                    inputs=(*build.inputs(group), *(done.output for done in paired)),
                    paths={"folders": build.folders(group), "paired": [str(done.folder) for done in paired]},
                )
                for number, group in enumerate(groups)
            ],
            engine=engine,
            progress=build.after(progress, before),
        )
    (done,) = stages.run(
        work,
        "near",
        [
            stages.Task(
                name="clusters",
                function=f"{__name__}:cluster",
                arguments={
                    "items": [part.items for part in parts],
                    "firsts": firsts,
                    "threshold": threshold,
                },
                inputs=tuple(done.output for done in [*paired, *signed, *details]),
                paths={
                    "paired": [str(done.folder) for done in paired],
                    "details": [str(done.folder) for done in details],
                    **signatures,
                },
            )
        ],
        engine=engine,
        progress=build.after(progress, before + len(details)),
    )
    counts = {
        "items": sum(done.counts["items"] for done in banded),
        "without_words": sum(done.counts["without_words"] for done in banded),
        **done.counts,
        "unchecked": sum(done.counts["unchecked"] for done in paired),
        "threshold": threshold,
        "bands": bands,
        "rows": rows,
    }
    tables = {"clusters": done.folder / "clusters.parquet"}
    return Dropped((done.folder / "drop.parquet",), (done.output,), counts, tables)


def sign(
    folder: Path, *, parts: Sequence[Sequence[int]], on: str, words: int, folders: Sequence[str]
) -> Mapping[str, Any]:
    """Task: signatures.npy, uint32 [items, PERMUTATIONS], of all items of `parts`."""
    given = build.from_arguments(parts, folders)
    shape = sum(part.items for part in given), PERMUTATIONS
    if not shape[0]:
        np.save(folder / "signatures.npy", np.zeros(shape, np.uint32))
        return {"items": 0}
    out = np.lib.format.open_memmap(folder / "signatures.npy", "w+", np.uint32, shape)
    start = 0
    for part in given:
        found, starts = build.read_texts(part, on)
        sets = shingles.shingles(shingles.words(found), words)
        of_items = shingles.Runs(sets.hashes, sets.starts[starts])
        out[start : start + part.items] = minhash.signatures(of_items, PERMUTATIONS)
        start += part.items
    out.flush()
    return {"items": shape[0]}


def band(
    folder: Path,
    *,
    parts: Sequence[Sequence[int]],
    first: int,
    bands: int,
    rows: int,
    buckets: int,
    signatures: str,
    drop_files: Sequence[str],
) -> Mapping[str, Any]:
    """Task: (band's hash, document) of all items that are still there and have words, sorted into buckets.

    A document is an item's number over all parts; `first` is the first one's here.
    """
    given = build.from_arguments(parts, [""] * len(parts))
    stays = np.concatenate([np.zeros(0, bool), *build.kept(given, drop_files)])
    found = np.load(Path(signatures) / "signatures.npy", mmap_mode="r")
    empty = np.flatnonzero(found[:, 0] == minhash.NOTHING)
    empty = empty[(found[empty] == minhash.NOTHING).all(1)]
    filled = stays.copy()
    filled[empty] = False
    documents = np.flatnonzero(filled)
    records = np.empty((len(documents), bands), _RECORD)
    records["document"] = (documents + first)[:, None]
    records["key"] = minhash.band_keys(np.asarray(found[documents]), bands, rows)
    flat = records.ravel()
    shuffle.write(folder, flat, shuffle.of_hash(flat["key"], buckets), buckets)
    return {"items": int(stays.sum()), "without_words": int(stays.sum() - filled.sum())}


def pair(
    folder: Path,
    *,
    bucket: int,
    threshold: float,
    firsts: Sequence[int],
    banded: Sequence[str],
    signatures: Sequence[str],
) -> Mapping[str, Any]:
    """Task: pairs.npy, uint32 [n, 2], the linked documents of one bucket, the lower one first, sorted."""
    records = np.concatenate([np.empty(0, _RECORD), *shuffle.read([Path(path) for path in banded], bucket)])
    order = np.lexsort((records["document"], records["key"]))
    keys, documents = records["key"][order], records["document"][order]
    begins = np.flatnonzero(np.concatenate([np.ones(min(len(keys), 1), bool), keys[1:] != keys[:-1]]))
    sizes = np.diff(begins, append=len(keys))
    store = _Signatures(signatures, firsts)
    few = (sizes > 1) & (sizes <= ALL_PAIRS)
    candidates = _all_pairs(documents[np.repeat(few, sizes)], sizes[few])
    found = [store.alike(some, threshold) for some in candidates]
    unchecked = 0
    for large in np.flatnonzero(sizes > ALL_PAIRS):
        linked, left = _with_leaders(documents[begins[large] :][: sizes[large]], store, threshold)
        found.append(linked)
        unchecked += left
    pairs = np.unique(np.concatenate([np.zeros((0, 2), np.uint32), *found]), axis=0)
    np.save(folder / "pairs.npy", pairs)
    return {"pairs": len(pairs), "unchecked": unchecked}


def _all_pairs(documents: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    """All pairs within groups that lie one after the other: uint32 [n, 2] at a time, by their distance."""
    place = np.arange(len(documents)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    room = np.repeat(sizes, sizes) - place  # to the group's end
    for distance in range(1, int(sizes.max(initial=1))):
        at = np.flatnonzero(room > distance)
        yield np.stack([documents[at], documents[at + distance]], 1)


def _with_leaders(documents: np.ndarray, store: "_Signatures", threshold: float) -> tuple[np.ndarray, int]:
    """(pairs that are linked, documents that are linked to no leader).

    A leader is the first document that is linked to none before; it is compared with all. A template's million copies
    are so linked by one leader each to a million, not by half a billion pairs.
    """
    alone, found = np.ones(len(documents), bool), []
    for _ in range(ALL_PAIRS):
        if not alone.any():
            break
        leader = int(np.argmax(alone))
        others = np.delete(documents, leader)
        candidates = np.stack([np.full_like(others, documents[leader]), others], 1)
        candidates.sort(1)
        linked = store.alike(candidates, threshold)
        found.append(linked)
        alone &= ~np.isin(documents, linked)
        alone[leader] = False
    return np.concatenate(found), int(alone.sum())


class _Signatures:
    """Signatures by document number, read from the files where they lie."""

    def __init__(self, folders: Sequence[str], firsts: Sequence[int]):
        self._files = [np.load(Path(folder) / "signatures.npy", mmap_mode="r") for folder in folders]
        self._firsts = np.array(firsts)

    def read(self, documents: np.ndarray) -> np.ndarray:
        """uint32 [documents, permutations]."""
        out = np.empty((len(documents), PERMUTATIONS), np.uint32)
        file = np.searchsorted(self._firsts, documents, "right") - 1
        for number in np.unique(file):
            here = file == number
            out[here] = self._files[number][documents[here] - self._firsts[number]]
        return out

    def alike(self, pairs: np.ndarray, threshold: float) -> np.ndarray:
        """Those of `pairs` [n, 2] whose estimated similarity reaches the threshold."""
        return pairs[self.similarity(pairs) >= np.float32(threshold)]

    def similarity(self, pairs: np.ndarray) -> np.ndarray:
        """float32 [n] of `pairs` [n, 2]."""
        out = np.empty(len(pairs), np.float32)
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            some = pairs[start : start + _PAIRS_AT_ONCE]
            out[start : start + len(some)] = minhash.similarity(self.read(some[:, 0]), self.read(some[:, 1]))
        return out


def components(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the documents in `pairs` [n, 2], sorted; the lowest document that chains of pairs join each to).

    Union-find over the pairs alone: all roots of a round are hooked to the lowest they touch, then paths are halved
    until they are flat. Memory and time follow the number of pairs, not of documents.
    """
    documents, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(-1, 2)
    parent = np.arange(len(documents))
    while True:
        roots = parent[ends]
        apart = roots[:, 0] != roots[:, 1]
        if not apart.any():
            return documents, documents[parent]
        ends, roots = ends[apart], roots[apart]
        np.minimum.at(parent, roots.max(1), roots.min(1))
        while not np.array_equal(parent, halved := parent[parent]):
            parent = halved


def _read_pairs(paired: Sequence[str]) -> np.ndarray:
    """uint32 [n, 2], sorted."""
    found = [np.load(Path(folder) / "pairs.npy") for folder in paired]
    return np.unique(np.concatenate([np.zeros((0, 2), np.uint32), *found]), axis=0)


def detail(
    folder: Path,
    *,
    parts: Sequence[Sequence[int]],
    first: int,
    words: int,
    folders: Sequence[str],
    paired: Sequence[str],
) -> Mapping[str, Any]:
    """Task: the linked documents of `parts`, documents.npy uint32 [n], and what their parts are like.

    signatures.npy, uint32 [n, 3, PERMUTATIONS], is of the prompt and of both responses; of an item of more responses,
    of the prompt, of all responses and of nothing.
    """
    linked = np.unique(_read_pairs(paired)).astype(np.int64)
    found, documents, at = [np.zeros((0, 3, PERMUTATIONS), np.uint32)], [np.zeros(0, np.int64)], first
    for part in build.from_arguments(parts, folders):
        here = linked[(linked >= at) & (linked < at + part.items)]
        if len(here):
            found.append(_in_three(part, here - at, words))
            documents.append(here)
        at += part.items
    np.save(folder / "signatures.npy", np.concatenate(found))
    np.save(folder / "documents.npy", np.concatenate(documents).astype(np.uint32))
    return {"documents": sum(map(len, documents))}


def _in_three(part: Part, items: np.ndarray, words: int) -> np.ndarray:
    texts, starts = build.read_texts(part, "pair")
    responses = build.read_index(part, ["responses"])["responses"].to_list()
    chosen: list[str] = []
    bounds = [0]
    for item in items.tolist():
        begin, end = starts[item], starts[item + 1]
        middle, last = end - responses[item], end - 1 if responses[item] == 2 else end
        chosen += texts[begin:end]
        bounds += [len(chosen) - (end - middle), len(chosen) - (end - last), len(chosen)]
    sets = shingles.shingles(shingles.words(chosen), words)
    each = shingles.Runs(sets.hashes, sets.starts[np.array(bounds)])
    return minhash.signatures(each, PERMUTATIONS).reshape(len(items), 3, PERMUTATIONS)


def _alike_in_all_parts(pairs: np.ndarray, details: Sequence[str], threshold: float) -> np.ndarray:
    """Those of `pairs` whose prompts and responses are alike one by one."""
    documents = np.concatenate([np.load(Path(folder) / "documents.npy") for folder in details])
    signatures = np.concatenate([np.load(Path(folder) / "signatures.npy") for folder in details])
    stays = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        one, other = (signatures[np.searchsorted(documents, pairs[some, side])] for side in (0, 1))

        def alike(a: int, b: int, one: np.ndarray = one, other: np.ndarray = other) -> np.ndarray:
            return minhash.similarity(one[:, a], other[:, b])

        straight = np.minimum(alike(1, 1), alike(2, 2))
        crossed = np.minimum(alike(1, 2), alike(2, 1))
        stays[some] = np.minimum(alike(0, 0), np.maximum(straight, crossed)) >= np.float32(threshold)
    return pairs[stays]


def cluster(
    folder: Path,
    *,
    items: Sequence[int],
    firsts: Sequence[int],
    threshold: float,
    paired: Sequence[str],
    details: Sequence[str],
    signatures: Sequence[str],
) -> Mapping[str, Any]:
    """Task: drop.parquet and clusters.parquet of all pairs. `items` a part."""
    pairs = _read_pairs(paired)
    if details:
        pairs = _alike_in_all_parts(pairs, details, threshold)
    documents, root = components(pairs)
    alike = _Signatures(signatures, firsts).similarity(np.stack([root, documents], 1))
    starts = np.cumsum([0, *items])
    frame = pl.DataFrame(
        {
            "cluster": np.unique(root, return_inverse=True)[1].astype(np.uint32),
            **_place(documents, starts, "part", "item"),
            **_place(root, starts, "of_part", "of_item"),
            "similarity": alike,
            "first": documents == root,
        }
    )
    drops = frame.filter(~pl.col("first")).with_columns(reason=pl.lit("near_duplicate"))
    build.write_drops(folder / "drop.parquet", drops)
    clusters = frame.select("cluster", "part", "item", "similarity").sort("cluster", "part", "item")
    atomic.write_parquet(folder / "clusters.parquet", clusters)
    sizes = np.unique(root, return_counts=True)[1]
    return {
        "pairs": len(pairs),
        "clusters": len(sizes),
        "dropped": len(drops),
        "largest": int(sizes.max(initial=0)),
    }


def _place(documents: np.ndarray, starts: np.ndarray, part: str, item: str) -> dict[str, np.ndarray]:
    number = np.searchsorted(starts, documents, "right") - 1
    return {part: number.astype(np.uint32), item: (documents - starts[number]).astype(np.uint32)}
