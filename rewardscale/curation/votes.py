"""Curation levels made of people's votes: how many votes a pair gets, and what is made of them.

Let v_1..v_n in {+1, 0, -1} be a row's votes in the order of the draw (+1: first response, 0: equal).

    one_vote              sign(v_1)                         1 vote
    majority_3            sign(v_1 + v_2 + v_3)             3 votes
    majority_5            sign(v_1 + ... + v_n)             n votes (about five)
    competence_weighted   sign(c_1 v_1 + ... + c_n v_n)     n votes; c_i: the voter's `confidence`
    strict                the gold label, if in_strict      n votes
    one_vote_on_strict    sign(v_1), if strict has a label  n votes; placebo: strict's selection, raw labels

So a vote for "equal" abstains, and a majority is over the votes that do not. Where the sign is 0 the
row is undecided: it is dropped, and its votes are paid for. A row with fewer votes than a rule asks for
is judged, and billed, by those it has.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import polars as pl

from rewardscale.data.comparison import DataError
from rewardscale.data.levels import Level

LEVELS = ("one_vote", "majority_3", "majority_5", "competence_weighted", "strict", "one_vote_on_strict")
COST_UNIT = "votes"

_RULES = {
    "one_vote": "sign of one random vote",
    "majority_3": "sign of the sum of three random votes; equal votes abstain",
    "majority_5": "sign of the sum of all votes; equal votes abstain",
    "competence_weighted": "sign of sum_i competence_i * vote_i over all votes",
    "strict": "gold label of the rows in_strict",
    "one_vote_on_strict": "sign of one random vote, on the rows that strict keeps",
}
_DRAWN = ("one_vote", "majority_3", "one_vote_on_strict")  # the others do not depend on the draw
_UNDECIDED = 1e-6  # competences have four digits: a smaller weighted sum is a rounding error


@dataclasses.dataclass(frozen=True)
class _Ballots:
    """All votes, ordered by row and, within a row, by the draw."""

    row: np.ndarray  # int64 [votes], ascending
    position: np.ndarray  # int64 [votes], 0 for the first vote of a row
    vote: np.ndarray  # int64 [votes], +1, 0, -1
    competence: np.ndarray  # float64 [votes]
    rows: int  # corpus rows

    def total(self, values: np.ndarray, first: int | None = None) -> np.ndarray:
        """float64 [rows]: the sum of `values` over each row's votes, or over its first `first`."""
        seen = slice(None) if first is None else self.position < first
        return np.bincount(self.row[seen], values[seen], self.rows)


def vote_levels(
    manifest: pl.DataFrame,
    verdicts: pl.DataFrame,
    *,
    draw: int,
    seed: int,
    rows: Sequence[int] | np.ndarray | None = None,
) -> dict[str, Level]:
    """Makes the levels of `LEVELS` from a corpus's manifest and its ledger.

    Args:
      manifest: a row a comparison, with `row`, `id`, `gold` (int8, null or 0: no label) and `in_strict`.
      verdicts: VERDICT_COLUMNS; those of kind "person" that could say are used, one a (row, round).
      draw: which votes are seen first. A row's order depends on (seed, draw), its number and its votes'
        rounds alone, so it is the same for all levels and whatever other rows there are.
      seed: the experiment's seed.
      rows: corpus rows that the levels may use, all by default. The choice changes no label and no cost.

    Returns:
      name -> Level. `cost` is float32 [corpus rows]: votes paid to examine each row, decided or not.
      `about` holds the rule, and draw and seed (None where the level does not depend on them).

    Raises:
      DataError: a column is missing, the ledger belongs to another corpus, a (row, round) is there twice,
        or a vote has no competence.
    """
    gold, in_strict = _checked_manifest(manifest)
    allowed = _allowed(rows, len(manifest))
    ballots = _ballots(manifest, verdicts, draw, seed)
    labelled = in_strict & (gold != 0)
    counts = ballots.total(np.ones(len(ballots.row)))
    weighted = ballots.total(ballots.competence * ballots.vote)
    one = ballots.total(ballots.vote, first=1)
    labels = {
        "one_vote": one,
        "majority_3": ballots.total(ballots.vote, first=3),
        "majority_5": ballots.total(ballots.vote),
        "competence_weighted": np.where(np.abs(weighted) < _UNDECIDED, 0, weighted),
        "strict": np.where(labelled, gold, 0),
        "one_vote_on_strict": np.where(labelled, one, 0),
    }
    # strict's cleaning looks at all votes of a row, and so does whoever selects by it
    costs = dict.fromkeys(LEVELS, counts)
    costs |= {"one_vote": np.minimum(counts, 1), "majority_3": np.minimum(counts, 3)}
    return {name: _level(name, labels[name], costs[name], allowed, draw, seed) for name in LEVELS}


def _level(
    name: str, label: np.ndarray, cost: np.ndarray, allowed: np.ndarray, draw: int, seed: int
) -> Level:
    kept = np.flatnonzero(allowed & (label != 0))
    drawn = name in _DRAWN
    return Level(
        name=name,
        rows=kept.astype(np.uint32),
        orientation=np.sign(label[kept]).astype(np.int8),
        cost=cost.astype(np.float32),
        cost_unit=COST_UNIT,
        about={"rule": _RULES[name], "draw": draw if drawn else None, "seed": seed if drawn else None},
    )


def _checked_manifest(manifest: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(gold int8 with 0 for none, in_strict bool), each [rows]."""
    missing = [name for name in ("row", "id", "gold", "in_strict") if name not in manifest.columns]
    if missing:
        raise DataError(f"the manifest lacks the columns {missing}; build the corpus from people's votes")
    if not np.array_equal(manifest["row"].to_numpy(), np.arange(len(manifest))):
        raise DataError("the manifest's `row` must count 0, 1, 2, ...; read it with Corpus.manifest()")
    return manifest["gold"].fill_null(0).to_numpy(), manifest["in_strict"].to_numpy()


def _allowed(rows: Sequence[int] | np.ndarray | None, total: int) -> np.ndarray:
    if rows is None:
        return np.ones(total, bool)
    chosen = np.asarray(rows, np.int64)
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < total:
        raise DataError(f"`rows` must lie in [0, {total}), found {chosen.min()} to {chosen.max()}")
    allowed = np.zeros(total, bool)
    allowed[chosen] = True
    return allowed


def _ballots(manifest: pl.DataFrame, verdicts: pl.DataFrame, draw: int, seed: int) -> _Ballots:
    votes = verdicts.filter((pl.col("kind") == "person") & pl.col("preferred").is_not_null())
    row, turn = votes["row"].to_numpy().astype(np.int64), votes["round"].to_numpy().astype(np.int64)
    if row.size and row.max() >= len(manifest):
        raise DataError(f"the ledger judges row {row.max()} of {len(manifest)}: it belongs to another corpus")
    if not (manifest["id"].gather(row) == votes["comparison"]).all():
        raise DataError("the ledger's comparison ids are not the corpus's: it belongs to another corpus")
    competence = votes["confidence"].cast(pl.Float64).to_numpy()
    if not np.isfinite(competence).all():
        raise DataError("a person's verdict has no `confidence`; competence_weighted needs one for each vote")
    order = np.lexsort((turn, _random_keys(row, turn, draw, seed), row))
    row, turn = row[order], turn[order]
    if len(np.unique(row * (turn.max(initial=0) + 1) + turn)) < len(row):
        raise DataError("the ledger holds two votes of the same row and round; was it filled twice?")
    starts = np.searchsorted(row, row)  # index of the first vote of each vote's row
    return _Ballots(
        row=row,
        position=np.arange(len(row)) - starts,
        vote=votes["preferred"].to_numpy().astype(np.int64)[order],
        competence=competence[order],
        rows=len(manifest),
    )


def _random_keys(row: np.ndarray, turn: np.ndarray, draw: int, seed: int) -> np.ndarray:
    """uint64 [votes]: a hash of (seed, draw, row, turn), so that no vote's key depends on another vote."""
    base = np.random.SeedSequence([seed, draw]).generate_state(1, np.uint64)
    return _mix(_mix(base ^ _mix(row.astype(np.uint64))) ^ turn.astype(np.uint64))


def _mix(x: np.ndarray) -> np.ndarray:
    """One step of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of uint64 that scatters counters."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
