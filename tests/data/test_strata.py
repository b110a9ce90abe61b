"""Strata: every prefix has the wanted composition, at every level, from one draw for all."""

import math
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import write_corpus
from rewardscale.data.explain import explain, explain_text
from rewardscale.data.levels import Level
from rewardscale.data.strata import LARGEST_TOTAL, Strata, make_strata, strata_of, turns
from rewardscale.data.subsets import permutation, subset

ROWS = 400
NAMES = ("a", "b", "c")
CODES = np.random.default_rng(0).choice(3, ROWS, p=[0.6, 0.3, 0.1]).astype(np.uint16)
POOL = np.flatnonzero(np.random.default_rng(1).random(ROWS) < 0.9)


def level(name: str = "some", share: float = 0.7, seed: int = 2) -> Level:
    random = np.random.default_rng(seed)
    rows = np.flatnonzero(random.random(ROWS) < share).astype(np.uint32)
    cost = random.integers(0, 5, ROWS).astype(np.float32)
    return Level(name, rows, np.ones(len(rows), np.int8), cost=cost)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any), st.integers(1, 700))
def test_every_prefix_has_each_share_to_within_one(shares, count):
    found = turns(shares, count)
    total = sum(shares)
    taken = np.cumsum(found[:, None] == np.arange(len(shares)), 0)
    for n in range(1, count + 1):
        for share, has in zip(shares, taken[n - 1].tolist(), strict=True):
            assert n * share // total <= has <= -(-n * share // total)
    assert found.dtype == np.uint16 and len(found) == count


def test_one_large_and_many_small_shares():
    """Where strata that take turns by rounding alone would bunch: ten at once, after a long run of the large one."""
    shares = [900, *[10] * 10]
    taken = np.cumsum(turns(shares, 1000)[:, None] == np.arange(11), 0)
    wanted = np.arange(1, 1001)[:, None] * np.array(shares) / 1000
    assert np.abs(taken - wanted).max() < 1


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(1e-3, 100), min_size=1))
def test_shares_follow_the_mixture(mixture):
    made = make_strata(NAMES, CODES, pool=POOL, mixture=mixture)
    total = sum(made.shares)
    assert total <= LARGEST_TOTAL
    for name, share in zip(made.names, made.shares, strict=True):
        wanted = mixture.get(name, 0) / sum(mixture.values())
        assert abs(share / total - wanted) <= 1 / LARGEST_TOTAL


def test_decimal_weights_are_met_exactly():
    assert make_strata(NAMES, CODES, pool=POOL, mixture={"a": 0.3, "b": 0.7}).shares == (3, 7, 0)
    assert make_strata(NAMES, CODES, pool=POOL, mixture={"c": 2, "a": 1}).shares == (1, 0, 2)


def test_without_a_mixture_each_stratum_has_its_share_of_the_pool():
    made = make_strata(NAMES, CODES, pool=POOL)
    counts = np.bincount(CODES[POOL], minlength=3)
    assert [Fraction(s, sum(made.shares)) for s in made.shares] == [
        Fraction(int(n), len(POOL)) for n in counts
    ]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"a": 1, "z": 1}, r"names \['z'\], which no row to draw from has; there are 'a', 'b', 'c'"),
        ({"a": 1, "b": 0}, r"weights of \['b'\] must be positive"),
        ({"a": math.nan}, r"weights of \['a'\] must be positive"),
        ({}, "the mixture is empty"),
    ],
)
def test_impossible_mixtures_are_named(mixture, message):
    with pytest.raises(DataError, match=message):
        make_strata(NAMES, CODES, pool=POOL, mixture=mixture)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 3), st.booleans())
def test_subsets_of_strata_are_nested_drawn_in_the_draws_order_and_paid_for(pairs, more, draw, mixed):
    strata = make_strata(NAMES, CODES, pool=POOL, mixture={"a": 0.5, "b": 0.35, "c": 0.15} if mixed else None)
    made = level()
    small, large = (
        subset(made, n, pool=POOL, seed=1, draw=draw, strata=strata) for n in (pairs, min(pairs + more, 100))
    )
    n = min(len(small), len(large))
    assert small.rows[:n].tolist() == large.rows[:n].tolist()
    order = permutation(POOL, seed=1, draw=draw).tolist()
    keeps, examined = set(made.rows.tolist()), []
    for stratum, share in enumerate(strata.shares):
        own = [row for row in order if CODES[row] == stratum]
        taken = [row for row in small.rows.tolist() if CODES[row] == stratum]
        assert taken == [row for row in own if row in keeps][: len(taken)]
        assert abs(len(taken) - pairs * share / sum(strata.shares)) < 1
        examined += own[: own.index(taken[-1]) + 1] if taken else []
    assert small.raw_pairs == len(examined) and made.cost is not None
    assert small.cost == pytest.approx(made.cost[examined].sum())


def test_levels_share_the_composition_and_the_luck():
    strata = make_strata(NAMES, CODES, pool=POOL, mixture={"a": 1, "c": 1})
    one, two = (
        subset(level(share=share, seed=5), 12, pool=POOL, seed=1, draw=0, strata=strata)
        for share in (1.1, 0.8)
    )
    assert CODES[one.rows].tolist() == CODES[two.rows].tolist()
    order = {row: i for i, row in enumerate(permutation(POOL, seed=1, draw=0).tolist())}
    assert all(order[a] <= order[b] for a, b in zip(one.rows.tolist(), two.rows.tolist(), strict=True))


def test_a_stratum_that_runs_out_is_named():
    strata = Strata(NAMES, (0, 0, 1), CODES)
    with pytest.raises(DataError, match=r"keeps \d+ pairs of 'c', 200 are wanted: 1 of 200; lower"):
        subset(level(), 200, pool=POOL, seed=1, draw=0, strata=strata)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, comparisons):
    about = {"sources": [{"name": "random", "licence": "CC BY 4.0"}]}
    return write_corpus(tmp_path_factory.mktemp("strata") / "corpus", comparisons(90), about=about)


def test_strata_of_a_corpus_are_a_column_of_its_manifest(corpus):
    found = strata_of(corpus, "category", pool=np.arange(90))
    manifest = corpus.manifest()
    assert [found.names[code] for code in found.codes] == manifest["category"].to_list()
    assert found.names == ("c0", "c1", "c2") and len(set(found.shares)) == 1
    with pytest.raises(DataError, match="no column 'topic'; it has"):
        strata_of(corpus, "topic", pool=np.arange(90))


def test_explain_counts_where_the_pairs_come_from(corpus):
    rows = np.arange(0, 90, 2, dtype=np.uint32)
    half = Level("half", rows, np.ones(len(rows), np.int8))
    whole = Level("raw", np.arange(90, dtype=np.uint32), np.ones(90, np.int8))
    strata = strata_of(corpus, "category", pool=np.arange(90), mixture={"c0": 3, "c1": 1})
    chosen = subset(half, 12, pool=np.arange(90), seed=0, draw=0, strata=strata)
    table = explain(chosen, corpus, [half, whole])
    assert table["category"].to_list() == ["c0", "c1", "c2"] and table["pairs"].to_list() == [9, 3, 0]
    assert table["share"].to_list() == [0.75, 0.25, 0] and table["corpus"].to_list() == [30, 30, 30]
    assert table["kept by half"].to_list() == [0.5] * 3 and table["kept by raw"].to_list() == [1] * 3
    assert set(table["licence"]) == {"CC BY 4.0"} and set(table["source"]) == {"random"}
    text = explain_text(table).splitlines()
    assert len(text) == 4 and text[1].split()[-5:] == ["9", "75.0%", "30", "50.0%", "100.0%"]
    assert isinstance(table, pl.DataFrame) and len({line.rstrip() for line in text}) == 4
