"""Everything that fixes a run's batches: the pairs at each training position and where they lie.

Runs of a million positions and more keep it on disk, where workers and hosts map it instead of each holding a copy:

    <view>/batches/<key>/*.npy           an array a file, or a number in the record where it is the same throughout
    <view>/batches/<key>/batches.json    commit record; `key` hashes view, subset and what else fixes the batches
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale.data import arrays
from rewardscale.data import rows as tree_rows
from rewardscale.data.comparison import DataError
from rewardscale.data.packing import PackingPlan, choose_row_length, make_plan
from rewardscale.data.subsets import Subset, epoch_order, training_order
from rewardscale.data.tokenised import TokenisedView, token_store

STORED_FROM = 2**20  # training positions
_RECORD, _FORMAT = "batches.json", 1
_TREES, _PLAN = ("rows", "left", "right", "skip"), ("starts", "row", "offset", "slot", "microbatches")


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Everything that fixes the batches of a run. Pickled without what another process can open by itself.

    Attributes:
      view_directory: the tokenised view. lengths: its table of lengths.
      trees: the pairs at each training position. weight, target: float32 [positions].
      plan: where they lie. dropped, truncated: pairs too long for the recipe.
      shared: whether a pair's prompt stands in a row once.
      stored: the folder that trees, weight, target and plan are mapped from, or None.
    """

    view_directory: Path
    lengths: np.ndarray
    trees: tree_rows.Trees
    weight: np.ndarray
    target: np.ndarray
    plan: PackingPlan
    dropped: int
    truncated: int
    shared: bool = True
    stored: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.stored is not None:
            return _open_stored, (self.stored, self.view_directory)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "lengths"}
        return _restore, (values,)


def prepare(
    view: TokenisedView,
    subset: Subset,
    *,
    positions: int,
    batch: int,
    seed: int,
    draw: int,
    max_length: int,
    too_long: str,
    row_length: int,
    rows_per_microbatch: int,
    shared: bool = True,
    store: Path | None = None,
) -> TrainingData:
    """Fixes the training order and the packing plan of a run.

    Pairs that are too long are left out (or truncated) before the order is made; the number of
    positions shrinks in proportion and the counts are reported.

    Args:
      shared: whether a pair's prompt stands in a row once, or once a response.
      store: folder for what is kept on disk: by default `<view>/batches`, and only from STORED_FROM positions on.

    Raises DataError if no pair is left, or the folder cannot be written.
    """
    shape = {
        "batch": batch,
        "row_length": row_length or _row_length(view.lengths, shared),
        "rows_per_microbatch": rows_per_microbatch,
    }

    def fitted() -> _Run:
        return _fit(view, subset, positions, seed=seed, draw=draw, max_length=max_length, too_long=too_long)

    if store is None and positions < STORED_FROM:
        return _in_memory(fitted(), shape, shared)
    fixed = [view.key, subset.fingerprint, positions, seed, draw, max_length, too_long, shape, _FORMAT]
    fixed += [] if shared else ["prompts apart"]
    key = hashlib.blake2b(json.dumps(fixed).encode(), digest_size=16).hexdigest()
    folder = Path(store or view.directory / "batches") / key
    if not folder.exists():
        run = fitted()
        try:
            arrays.write_folder(folder, _RECORD, lambda new: _fill(new, run, shape, shared))
        except PermissionError as error:
            raise DataError(
                f"the batches of {positions} training positions are kept in {folder.parent}, "
                f"which cannot be written ({error.strerror}); make it writable or put a link to another folder there"
            ) from error
    return _open_stored(folder, view.directory)


def positions_left(positions: int, left: int, pairs: int) -> int:
    """Training positions of a subset of `pairs` pairs of which `left` are not too long: fewer in proportion."""
    return max(1, round(positions * left / pairs))


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a run trains on: pairs `index` of the subset, without the first `skip` [subset] tokens of their prompts."""

    view: TokenisedView
    subset: Subset
    index: np.ndarray
    skip: np.ndarray
    positions: int
    seed: int
    draw: int
    dropped: int
    truncated: int


def _fit(
    view: TokenisedView,
    subset: Subset,
    positions: int,
    *,
    seed: int,
    draw: int,
    max_length: int,
    too_long: str,
) -> _Run:
    """`fit_to`, piece by piece; skip is a `constant` 0 where nothing is skipped."""
    keep, skip = np.ones(len(subset), np.bool_), None
    for piece in arrays.pieces(len(subset)):
        keep[piece], own = tree_rows.fit_to(
            view.lengths, subset.rows[piece], max_length=max_length, too_long=too_long
        )
        if own.any():
            skip = np.zeros(len(subset), np.uint32) if skip is None else skip
            skip[piece] = own
    left = int(np.count_nonzero(keep))
    if not left:
        raise DataError(f"all {len(subset)} pairs are longer than recipe.max_length={max_length}")
    return _Run(
        view=view,
        subset=subset,
        index=np.flatnonzero(keep).astype(np.uint32),
        skip=arrays.constant(0, len(subset), np.uint32) if skip is None else skip,
        positions=positions_left(positions, left, len(subset)),
        seed=seed,
        draw=draw,
        dropped=len(subset) - left,
        truncated=0 if skip is None else int(np.count_nonzero(skip)),
    )


def _in_memory(run: _Run, shape: Mapping[str, Any], shared: bool) -> TrainingData:
    subset, lengths = run.subset, run.view.lengths
    order = run.index[training_order(len(run.index), run.positions, seed=run.seed, draw=run.draw)]
    trees = tree_rows.pair_trees(subset.rows[order], subset.orientation[order], run.skip[order])
    return TrainingData(
        view_directory=run.view.directory,
        lengths=lengths,
        trees=trees,
        weight=subset.weight[order],
        target=subset.target[order],
        plan=make_plan(trees.tokens(lengths, shared=shared), **shape),
        dropped=run.dropped,
        truncated=run.truncated,
        shared=shared,
    )


def _fill(folder: Path, run: _Run, shape: Mapping[str, Any], shared: bool) -> arrays.Contents:
    """The same as `_in_memory`, written to `folder` piece by piece: memory holds an epoch's order at the most."""
    subset, lengths = run.subset, run.view.lengths
    same = {
        name: arrays.constant(values[0], run.positions, values.dtype)
        for name, values in (("weight", subset.weight), ("target", subset.target), ("skip", run.skip))
        if arrays.is_constant(values)
    }
    types = {"rows": np.uint32, "left": np.int8, "right": np.int8, "skip": np.uint32}
    types |= {"weight": np.float32, "target": np.float32}
    columns = {
        name: arrays.create(folder / f"{name}.npy", dtype, run.positions)
        for name, dtype in types.items()
        if name not in same
    }
    sizes = arrays.create(folder / "sizes.npy", np.uint32, run.positions)
    for here, places in _order(run):
        trees = tree_rows.pair_trees(subset.rows[places], subset.orientation[places], run.skip[places])
        sizes[here] = trees.tokens(lengths, shared=shared)
        values = {name: getattr(trees, name) for name in _TREES}
        values |= {"weight": subset.weight[places], "target": subset.target[places]}
        for name, column in columns.items():
            column[here] = values[name]
    plan = make_plan(
        sizes,
        **shape,
        allocate=lambda name, largest, count: arrays.create(
            folder / f"{name}.npy", np.min_scalar_type(largest), count
        ),
    )
    (folder / "sizes.npy").unlink()
    record = {
        "row_length": plan.row_length,
        "rows_per_microbatch": plan.rows_per_microbatch,
        "trees_per_row": plan.trees_per_row,
        "tokens": plan.tokens,
        "plan": plan.fingerprint,
        "dropped": run.dropped,
        "truncated": run.truncated,
        "shared": shared,
    }
    return record, {**columns, **same, **{name: getattr(plan, name) for name in _PLAN}}


def _order(run: _Run) -> Iterator[tuple[slice, np.ndarray]]:
    """Consecutive training positions, and which of the subset's pairs stand there."""
    pairs = len(run.index)
    for epoch, start in enumerate(range(0, run.positions, pairs)):
        order = epoch_order(pairs, epoch, seed=run.seed, draw=run.draw)[: run.positions - start]
        for piece in arrays.pieces(len(order)):
            yield slice(start + piece.start, start + piece.stop), run.index[order[piece]]


def _open_stored(folder: Path, view_directory: Path) -> TrainingData:
    found = arrays.open_folder(folder, _RECORD)
    try:
        record, values = found.record, found.arrays
        plan = PackingPlan(
            row_length=record["row_length"],
            rows_per_microbatch=record["rows_per_microbatch"],
            **{name: values[name] for name in _PLAN},
            trees_per_row=record["trees_per_row"],
            tokens=record["tokens"],
        )
        return TrainingData(
            view_directory=view_directory,
            lengths=token_store(view_directory).view.lengths,
            trees=tree_rows.Trees(*(values[name] for name in _TREES)),
            weight=values["weight"],
            target=values["target"],
            plan=plan,
            dropped=record["dropped"],
            truncated=record["truncated"],
            shared=record.get("shared", True),
            stored=folder,
        )
    except KeyError as error:
        raise DataError(f"{folder / _RECORD} lacks {error}; delete {folder}") from error


def _restore(values: dict[str, Any]) -> TrainingData:
    return TrainingData(lengths=token_store(values["view_directory"]).view.lengths, **values)


def _row_length(lengths: np.ndarray, shared: bool) -> int:
    times = np.array([1 if shared else 2, 1, 1])  # that a pair's prompt and responses stand in a row
    longest = [int((lengths[piece, :3] * times).sum(1).max()) for piece in arrays.pieces(len(lengths))]
    return choose_row_length(np.array(longest))
