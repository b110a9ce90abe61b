"""Error-driven retrieval (Skywork-Reward-V2, arXiv 2507.01352, section 3): what to judge next, with what examples."""

from typing import Any

import numpy as np
import polars as pl

from rewardscale.curation.retrieval.nearest import top_k
from rewardscale.data.comparison import DataError

K_MAX, EXAMPLES = 8, 8
_ROUNDING = 1e-9  # 10 (1 - 0.7) is 3, not a little more


def neighbours(p: np.ndarray, k_max: int = K_MAX) -> np.ndarray:
    """int64 [n], how many neighbours each gold pair asks for: k_max if p <= 0.5, else ceil(k_max (1 - p)).

    Args:
      p: float [n], the reward model's probability of the gold label, sigmoid(r_chosen - r_rejected).

    Raises DataError for a probability that is none.
    """
    p = np.asarray(p, np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise DataError("p must hold probabilities, 0 to 1")
    return np.where(p <= 0.5, k_max, np.ceil(k_max * (1 - p) - _ROUNDING)).astype(np.int64)


def select(
    gold: np.ndarray,
    p: np.ndarray,
    gold_vectors: np.ndarray,
    pool: np.ndarray,
    pool_vectors: np.ndarray,
    *,
    k_max: int = K_MAX,
    **how: Any,
) -> pl.DataFrame:
    """The pool's pairs that lie nearest to gold pairs which the reward model gets wrong or is unsure of.

    Args:
      gold: int64 [g] corpus rows of gold pairs. p: float [g], see `neighbours`. gold_vectors: float32 [g, d].
      pool: int64 [n] corpus rows not judged yet, each once. pool_vectors: float32 [n, d].
      how: further arguments of `nearest.top_k`.

    Returns:
      A row a selected pair, by `row`: `row` (UInt32), and why: `gold` (UInt32, of several the nearest), that pair's `p`
      and `k`, the `rank` (from 0) among its neighbours, the `score` (inner product).

    Raises DataError if a gold pair is in the pool, or a pool row is there twice.
    """
    if len(np.unique(pool)) < len(pool):
        raise DataError("the pool holds a row twice")
    if np.isin(gold, pool).any():
        raise DataError(
            f"row {int(gold[np.isin(gold, pool)][0])} is gold and in the pool: it is judged already"
        )
    wanted, pool = neighbours(p, k_max), np.asarray(pool)
    if (np.diff(pool) < 0).any():  # of equals the lower row is taken
        order = np.argsort(pool)
        pool, pool_vectors = pool[order], pool_vectors[order]
    ids, scores = top_k(gold_vectors, pool_vectors, min(k_max, len(pool)), **how)
    rank = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    taken = (rank < wanted[:, None]) & (ids >= 0)
    at = np.broadcast_to(np.arange(len(gold))[:, None], ids.shape)[taken]
    found = pl.DataFrame(
        {
            "row": pool[ids[taken]].astype(np.uint32),
            "gold": np.asarray(gold)[at].astype(np.uint32),
            "p": np.asarray(p, np.float64)[at],
            "k": wanted[at].astype(np.uint16),
            "rank": rank[taken].astype(np.uint16),
            "score": scores[taken],
        }
    )
    nearest = found.sort(["row", "score", "gold"], descending=[False, True, False])
    return nearest.unique("row", keep="first", maintain_order=True)


def worked_examples(
    vectors: np.ndarray,
    prompts: np.ndarray,
    gold_vectors: np.ndarray,
    gold_prompts: np.ndarray,
    *,
    validation: np.ndarray | None = None,
    k: int = EXAMPLES,
    **how: Any,
) -> np.ndarray:
    """int64 [m, k]: for each pair the nearest gold pairs, best first, -1 where there are fewer.

    Never the pair itself, nor another comparison of its prompt, which would give its answer away.

    Args:
      vectors: float32 [m, d] of the pairs to be judged. prompts: [m], their prompt hashes or groups.
      gold_vectors: float32 [g, d]. gold_prompts: [g]. validation: bool [g], gold pairs that are never shown.
      how: further arguments of `nearest.top_k`.
    """
    shown = np.arange(len(gold_vectors)) if validation is None else np.flatnonzero(~validation)
    m, gold_prompts = len(prompts), np.asarray(gold_prompts)[shown]
    _, numbers = np.unique(np.concatenate([np.asarray(prompts), gold_prompts]), return_inverse=True)
    found, _ = top_k(
        vectors, gold_vectors[shown], k, query_groups=numbers[:m], index_groups=numbers[m:], **how
    )
    return np.where(found < 0, -1, shown[found]) if len(shown) else found
