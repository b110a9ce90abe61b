"""Vote levels: each rule against an obvious loop, the draw's invariants, and the bill."""

import itertools
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.curation.votes import LEVELS, vote_levels
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.schema import CORE_COLUMNS
from rewardscale.data.levels import Level

Row = tuple[int | None, bool, list[tuple[int, float]]]  # gold, in_strict, votes (sign, competence)

ROWS = st.lists(
    st.tuples(
        st.sampled_from([1, -1, 0, None]),
        st.booleans(),
        st.lists(
            st.tuples(st.sampled_from([1, -1, 0]), st.sampled_from([0.0007, 0.2, 0.3, 0.5, 1.0])), max_size=5
        ),
    ),
    min_size=1,
    max_size=12,
)


def frames(rows: list[Row]) -> tuple[pl.DataFrame, pl.DataFrame]:
    manifest = pl.DataFrame(
        {
            "row": pl.Series(range(len(rows)), dtype=pl.UInt32),
            "id": [f"id-{i}" for i in range(len(rows))],
            "gold": pl.Series([r[0] for r in rows], dtype=pl.Int8),
            "in_strict": pl.Series([r[1] for r in rows], dtype=pl.Boolean),
        }
    )
    records = [
        (i, f"id-{i}", f"worker-{turn}", "person", turn, sign, competence, 1.0)
        for i, (_, _, votes) in enumerate(rows)
        for turn, (sign, competence) in enumerate(votes)
    ]
    return manifest, pl.DataFrame(records, schema=CORE_COLUMNS, orient="row")


def dense(level: Level, rows: int) -> np.ndarray:
    """The level as a label a row, 0 where it has none."""
    label = np.zeros(rows, int)
    label[level.rows] = level.orientation
    return label


def random_rows(count: int, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [
        (
            int(rng.integers(-1, 2)),
            bool(rng.integers(2)),
            [(int(rng.integers(-1, 2)), float(rng.random())) for _ in range(5)],
        )
        for _ in range(count)
    ]


@settings(deadline=None, max_examples=60)
@given(ROWS, st.integers(0, 5))
def test_rules(rows: list[Row], draw: int) -> None:
    levels = vote_levels(*frames(rows), draw=draw, seed=1)
    assert tuple(levels) == LEVELS
    label = {name: dense(level, len(rows)) for name, level in levels.items()}
    cost = {name: np.asarray(level.cost) for name, level in levels.items()}
    assert all(level.cost_unit == "votes" for level in levels.values())
    assert all(values.dtype == np.float32 and values.shape == (len(rows),) for values in cost.values())
    for i, (gold, in_strict, votes) in enumerate(rows):
        signs = [sign for sign, _ in votes]
        weighted = sum(sign * round(1e4 * competence) for sign, competence in votes)
        has_label = in_strict and gold in (1, -1)
        assert label["one_vote"][i] in (signs or [0])
        assert label["majority_5"][i] == np.sign(sum(signs))
        assert label["competence_weighted"][i] == np.sign(weighted)
        assert label["strict"][i] == (gold if has_label else 0)
        assert label["one_vote_on_strict"][i] == (label["one_vote"][i] if has_label else 0)
        triples = {int(np.sign(sum(signs) - sum(left_out))) for left_out in leave_out(signs, len(signs) - 3)}
        assert label["majority_3"][i] in triples
        assert cost["one_vote"][i] == min(1, len(votes)) and cost["majority_3"][i] == min(3, len(votes))
        assert all(cost[name][i] == len(votes) for name in LEVELS if name not in ("one_vote", "majority_3"))


def leave_out(signs: list[int], count: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(signs, max(0, count)))


def test_majority_3_extends_one_vote() -> None:
    """One + among ties: wherever the single vote is the +, so must the majority of three be."""
    rows: list[Row] = [(None, False, [(1, 0.5), (0, 0.5), (0, 0.5), (0, 0.5), (0, 0.5)])] * 2000
    levels = vote_levels(*frames(rows), draw=0, seed=0)
    first, three = dense(levels["one_vote"], 2000), dense(levels["majority_3"], 2000)
    assert (three[first == 1] == 1).all()  # the first vote is among the three
    assert first.mean() == pytest.approx(1 / 5, abs=0.03) and three.mean() == pytest.approx(3 / 5, abs=0.04)


@pytest.mark.parametrize("position", range(5))
def test_each_vote_is_as_likely_to_be_first(position: int) -> None:
    votes = [(1 if turn == position else -1, 0.5) for turn in range(5)]
    levels = vote_levels(*frames([(None, False, votes)] * 5000), draw=3, seed=9)
    assert (dense(levels["one_vote"], 5000) == 1).mean() == pytest.approx(0.2, abs=0.02)


def test_draws_differ_and_repeat() -> None:
    manifest, verdicts = frames(random_rows(400))
    a, again, b, c = (
        vote_levels(manifest, verdicts, draw=draw, seed=seed)
        for draw, seed in ((0, 1), (0, 1), (1, 1), (0, 2))
    )
    for name in LEVELS:
        assert a[name].fingerprint == again[name].fingerprint
        drawn = name in ("one_vote", "majority_3", "one_vote_on_strict")
        assert (a[name].fingerprint != b[name].fingerprint) == drawn
        assert (a[name].fingerprint != c[name].fingerprint) == drawn
        assert a[name].about["draw"] == (0 if drawn else None) and a[name].about["rule"]


@settings(deadline=None, max_examples=30)
@given(ROWS, st.data())
def test_a_row_does_not_depend_on_the_others(rows: list[Row], data: st.DataObject) -> None:
    manifest, verdicts = frames(rows)
    full = vote_levels(manifest, verdicts, draw=2, seed=5)
    kept = data.draw(st.lists(st.integers(0, len(rows) - 1), unique=True))
    fewer = vote_levels(manifest, verdicts, draw=2, seed=5, rows=kept)
    others_gone = vote_levels(
        manifest, verdicts.filter(pl.col("row").is_in(kept)).sample(fraction=1, shuffle=True), draw=2, seed=5
    )
    inside = np.isin(np.arange(len(rows)), kept)
    for name in LEVELS:
        expected = np.where(inside, dense(full[name], len(rows)), 0)
        assert (dense(fewer[name], len(rows)) == expected).all()
        assert (fewer[name].cost == full[name].cost).all()
        if not name.startswith("strict"):  # strict needs no votes to have a label
            assert (dense(others_gone[name], len(rows)) == expected).all()


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_swapping_responses_flips_labels(rows: list[Row]) -> None:
    swapped = [(None if g is None else -g, s, [(-v, c) for v, c in votes]) for g, s, votes in rows]
    a, b = (vote_levels(*frames(r), draw=4, seed=0) for r in (rows, swapped))
    for name in LEVELS:
        assert (dense(a[name], len(rows)) == -dense(b[name], len(rows))).all()


def test_only_people_vote() -> None:
    manifest, verdicts = frames([(1, True, [(1, 0.5)])])
    judge = verdicts.with_columns(kind=pl.lit("llm_judge"), preferred=pl.lit(-1, pl.Int8))
    level = vote_levels(manifest, pl.concat([judge, verdicts]), draw=0, seed=0)["majority_5"]
    assert level.orientation.tolist() == [1] and np.asarray(level.cost).tolist() == [1]


def test_bad_input() -> None:
    manifest, verdicts = frames([(1, True, [(1, 0.5), (-1, 0.3)])] * 2)
    with pytest.raises(DataError, match="gold"):
        vote_levels(manifest.drop("gold"), verdicts, draw=0, seed=0)
    with pytest.raises(DataError, match="filled twice"):
        vote_levels(manifest, pl.concat([verdicts, verdicts]), draw=0, seed=0)
    with pytest.raises(DataError, match="another corpus"):
        vote_levels(manifest.head(1), verdicts, draw=0, seed=0)
    with pytest.raises(DataError, match="another corpus"):
        vote_levels(manifest, verdicts.with_columns(comparison=pl.lit("x")), draw=0, seed=0)
    with pytest.raises(DataError, match="confidence"):
        vote_levels(manifest, verdicts.with_columns(confidence=pl.lit(None, pl.Float32)), draw=0, seed=0)
    with pytest.raises(DataError, match="rows"):
        vote_levels(manifest, verdicts, draw=0, seed=0, rows=[2])


def test_fast_enough() -> None:
    manifest, verdicts = frames(random_rows(17_000))
    start = time.process_time()
    vote_levels(manifest, verdicts, draw=0, seed=0)
    assert time.process_time() - start < 1
