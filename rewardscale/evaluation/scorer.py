"""Scoring: rewards of all responses of chosen corpus rows, from packed rows with shared prompts.

A comparison with K responses becomes ceil(K / 2) trees of at most two responses, each with its own
copy of the prompt. Packing, batch size and order change no reward beyond rounding.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rewardscale.config import ModelConfig
from rewardscale.data import rows as tree_rows
from rewardscale.data.comparison import DataError
from rewardscale.data.packing import choose_row_length, make_plan
from rewardscale.data.tokenised import TokenisedView, token_store
from rewardscale.mesh import BATCH_AXES, check_rows, place_inputs
from rewardscale.models import reward

_TREES_AT_ONCE = 1024
_MICROBATCHES_AT_ONCE = 64  # a call of the compiled function, where there are more
_SPREAD = P(None, BATCH_AXES)  # of its arrays [microbatches, rows, ...]


@dataclasses.dataclass(frozen=True)
class ScoringBatches:
    """Packed comparisons, ready to be scored by any model of the same tokeniser.

    Attributes:
      arrays: [microbatches, rows, ...] as in data/rows.py.
      microbatch, row, slot: int [trees], where each tree lies.
      comparison, left, right: int [trees], which comparison (index into the scored rows) and responses.
      comparisons, responses: shape of the result.
    """

    arrays: dict[str, np.ndarray]
    microbatch: np.ndarray
    row: np.ndarray
    slot: np.ndarray
    comparison: np.ndarray
    left: np.ndarray
    right: np.ndarray
    comparisons: int
    responses: int


def prepare(
    view: TokenisedView,
    rows: np.ndarray,
    *,
    max_length: int,
    rows_per_microbatch: int,
    row_length: int = 0,
) -> ScoringBatches:
    """Packs the comparisons `rows` of `view` for scoring.

    Nothing is dropped: a comparison that is too long loses the oldest part of its prompt.

    Raises DataError if a response leaves no room for even one prompt token within `max_length`.
    """
    trees, comparison = _trees(view, rows, max_length)
    sizes = np.sum(trees.sizes(view.lengths), axis=0)
    plan = make_plan(
        sizes,
        batch=_TREES_AT_ONCE,
        row_length=row_length or choose_row_length(sizes),
        rows_per_microbatch=rows_per_microbatch,
    )
    first = np.concatenate([[0], np.cumsum(plan.microbatches)])[:-1]
    step = np.searchsorted(plan.starts, np.arange(len(trees)), side="right") - 1
    row = first[step] * rows_per_microbatch + plan.row
    count = int(plan.microbatches.sum())
    arrays = tree_rows.assemble(
        token_store(view.directory),
        view.lengths,
        trees,
        row,
        plan.offset,
        plan.slot,
        shape=(count * rows_per_microbatch, plan.row_length),
        slots=plan.trees_per_row,
    )
    arrays = {name: a.reshape(count, rows_per_microbatch, *a.shape[1:]) for name, a in arrays.items()}
    return ScoringBatches(
        arrays=arrays,
        microbatch=row // rows_per_microbatch,
        row=row % rows_per_microbatch,
        slot=plan.slot,
        comparison=comparison,
        left=trees.left,
        right=trees.right,
        comparisons=len(rows),
        responses=view.lengths.shape[1] - 1,
    )


def row_length(view: TokenisedView, rows: np.ndarray, max_length: int) -> int:
    """Tokens of the packed rows that `prepare` makes of these comparisons, if it is not told.

    One length for all parts of a corpus spares each a compilation. Raises DataError as `prepare`.
    """
    return choose_row_length(np.sum(_trees(view, rows, max_length)[0].sizes(view.lengths), axis=0))


def _trees(view: TokenisedView, rows: np.ndarray, max_length: int) -> tuple[tree_rows.Trees, np.ndarray]:
    """The trees of comparisons, and which comparison each is of."""
    keep, skip = tree_rows.fit_to(
        view.lengths, rows, max_length=max_length, too_long="truncate_left_of_prompt"
    )
    if not keep.all():
        raise DataError(
            f"corpus row {int(rows[np.flatnonzero(~keep)[0]])}: its longest response leaves no room for a prompt "
            f"token within recipe.max_length={max_length}; raise it"
        )
    comparison, left, right = tree_rows.response_trees(view.lengths[rows])
    return tree_rows.Trees(rows[comparison].astype(np.int64), left, right, skip[comparison]), comparison


def score(
    config: ModelConfig, params: reward.Params, batches: ScoringBatches, options: reward.Options, mesh: Mesh
) -> np.ndarray:
    """Rewards float32 [comparisons, K] (NaN where a comparison has fewer responses), in the order of the rows given.

    Raises ConfigError if the mesh cannot hold the microbatches.
    """
    check_rows(mesh, batches.arrays["tokens"].shape[1])
    out = np.full((batches.comparisons, batches.responses), np.nan, np.float32)
    if not batches.comparisons:
        return out
    function, spread = scoring_function(config, options, mesh), NamedSharding(mesh, _SPREAD)
    parts = [
        jax.device_get(function(params, place_inputs(part, dict.fromkeys(part, spread))))
        for part in _equal_parts(batches.arrays)
    ]
    left, right = (np.concatenate(side) for side in zip(*parts, strict=True))
    at = (batches.microbatch, batches.row, batches.slot)
    out[batches.comparison, batches.right] = right[at]
    two = batches.left != tree_rows.ABSENT
    out[batches.comparison[two], batches.left[two]] = left[at][two]
    return out


def _equal_parts(arrays: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The microbatches, 64 at once where there are more: shards of any size share one compilation.

    The last part is filled up with copies of its last microbatch.
    """
    count = len(arrays["tokens"])
    for first in range(0, count, _MICROBATCHES_AT_ONCE):
        part = {name: a[first : first + _MICROBATCHES_AT_ONCE] for name, a in arrays.items()}
        missing = _MICROBATCHES_AT_ONCE - len(part["tokens"]) if count > _MICROBATCHES_AT_ONCE else 0
        if missing:
            part = {n: np.concatenate([a, np.repeat(a[-1:], missing, axis=0)]) for n, a in part.items()}
        yield part


@functools.lru_cache(maxsize=64)
def scoring_function(config: ModelConfig, options: reward.Options, mesh: Mesh) -> Callable[..., Any]:
    """jit of (parameters, arrays [microbatches, rows, ...]) -> rewards of left and right responses; one a shape."""
    spread = NamedSharding(mesh, _SPREAD)
    forward = dataclasses.replace(options, differentiated=False)

    def run(params: reward.Params, arrays: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        with reward.exact_products(options):
            return jax.lax.map(lambda micro: reward.rewards(config, params, micro, forward, mesh), arrays)

    return jax.jit(
        run,
        in_shardings=(reward.shardings(mesh, reward.abstract(config)), spread),
        out_shardings=NamedSharding(mesh, P()),
    )
