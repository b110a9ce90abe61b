"""Pairs from K responses: which, in what order, with what judgements."""

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.config import ConfigError
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.sources.judged import Judged, Judgement
from rewardscale.data.sources.pairing import label, text_order, to_pairs

NAN = math.nan


def judged(*scores: float, texts: tuple[str, ...] = (), kind: str = "llm_judge") -> Judged:
    responses = texts or tuple(f"response {number}" for number in range(len(scores)))
    comparison = Comparison((Message("user", "Which?"),), responses, "test", "train", "c", "g")
    return Judged(comparison, (Judgement("judge", kind, scores),))


def made(own: Judged, how: Any, **options: Any) -> list[tuple[str, str]]:
    """(better, worse) of each pair, in order; of a tie in the pair's order."""
    out = []
    for pair in to_pairs([own], how, **options):
        first, second = pair.comparison.responses
        out.append((second, first) if label(pair.judgements)[0] < 0 else (first, second))
    return [(better.removeprefix("response "), worse.removeprefix("response ")) for better, worse in out]


def test_ways_to_pair() -> None:
    own = judged(2, 9, 5, 7)
    assert set(made(own, "all")) == {("1", "0"), ("2", "0"), ("3", "0"), ("1", "2"), ("1", "3"), ("3", "2")}
    assert made(own, "best_worst") == [("1", "0")]
    assert made(own, "adjacent") == [("1", "3"), ("3", "2"), ("2", "0")]
    ((best, worse),) = made(own, "best_random")
    assert best == "1" and worse in "023"
    assert {made(own, "best_random", seed=seed)[0][1] for seed in range(30)} == set("023")
    assert list(to_pairs([own], "keep")) == [own]


def test_margins_and_ties() -> None:
    own, count = judged(1, 1, 4), Counter[str]()
    assert set(made(own, "all", left_out=count)) == {("2", "0"), ("2", "1")} and count == {"tie": 1}
    assert len(made(own, "all", ties=True)) == 3
    assert made(own, "all", margin=3.5, left_out=(count := Counter())) == [] and count == {
        "margin": 2,
        "tie": 1,
    }
    assert len(made(own, "all", margin=3)) == 2
    assert made(judged(1, 1), "all") == [] and len(made(judged(1, 1), "keep", ties=True)) == 1


def test_at_most_so_many_pairs_drawn_by_the_seed() -> None:
    own, count = judged(*range(10)), Counter[str]()
    some = made(own, "all", most=4, left_out=count)
    assert len(some) == 4 and count == {"most": 41} and some == made(own, "all", most=4)
    assert len({tuple(made(own, "all", most=4, seed=seed)) for seed in range(5)}) == 5
    # Which pairs are drawn has nothing to do with their place.
    drawn = Counter(pair for seed in range(200) for pair in made(own, "all", most=9, seed=seed))
    assert len(drawn) == 45 and max(drawn.values()) < 3 * min(drawn.values())


def test_what_was_not_judged_or_says_the_same_is_no_pair() -> None:
    count = Counter[str]()
    assert made(judged(1, NAN, 0), "all", left_out=count) == [("0", "2")] and count == {"not_judged": 2}
    assert made(judged(NAN, NAN, 0), "best_worst") == []
    own, count = judged(1, 0, 0, texts=("a", "a", "b")), Counter[str]()
    assert set(made(own, "all", left_out=count)) == {("a", "b")} and count == {"identical": 1, "tie": 1}


def test_the_order_says_nothing_about_which_is_better() -> None:
    found = [next(to_pairs([judged(1, 0, texts=(f"good {i}", f"bad {i}"))])) for i in range(1000)]
    signs = [label(pair.judgements)[0] for pair in found]
    assert set(signs) == {1, -1} and abs(sum(signs)) < 130  # 4 standard deviations
    assert all(text_order(a) <= text_order(b) for a, b in (pair.comparison.responses for pair in found))


def test_the_source_s_own_label_decides() -> None:
    one = Judgement("overall", "source", (0.0, 2.0), cost=0.0)
    votes = tuple(
        Judgement(f"w{i}", "person", scores) for i, scores in enumerate([(1.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
    )
    assert label((one, *votes)) == (-1, 2.0) and label(votes) == (1, pytest.approx(1 / 3))
    assert label((Judgement("overall", "source", (NAN, 1.0)), *votes))[0] == 1
    assert label(()) == (0, 0.0)


score = st.one_of(st.integers(0, 4).map(float), st.just(NAN))
tables = st.integers(2, 6).flatmap(
    lambda k: st.lists(st.lists(score, min_size=k, max_size=k), min_size=1, max_size=3)
)


@settings(deadline=None)
@given(
    tables,
    st.sampled_from(["all", "best_worst", "best_random", "adjacent"]),
    st.booleans(),
    st.permutations(range(6)),
)
def test_pairs_carry_their_judgements(
    rows: list[list[float]], how: Any, ties: bool, order: list[int]
) -> None:
    k = len(rows[0])
    texts = tuple(f"text {i}" for i in range(k))
    own = Judged(
        judged(*rows[0], texts=texts).comparison,
        tuple(Judgement(f"j{i}", "person", tuple(row), 0.5, 2.0) for i, row in enumerate(rows)),
    )
    found = list(to_pairs([own], how, ties=ties))
    assert found == list(to_pairs([own], how, ties=ties))
    for pair in found:
        a, b = (texts.index(response) for response in pair.comparison.responses)
        both = [row for row in rows if row[a] == row[a] and row[b] == row[b]]
        assert [j.scores for j in pair.judgements] == [(row[a], row[b]) for row in both] and both
        assert all((j.confidence, j.cost) == (0.5, 2.0) for j in pair.judgements)
        sign, margin = label(pair.judgements)
        assert margin >= 0 and (sign or ties)
        assert (pair.comparison.prompt, pair.comparison.category, pair.comparison.group) == (
            own.comparison.prompt,
            "c",
            "g",
        )
    if how == "all":  # the same pairs, whatever the order in which the source gives the responses
        order = [i for i in order if i < k]
        shuffled = Judged(
            judged(*rows[0], texts=tuple(texts[i] for i in order)).comparison,
            tuple(Judgement("judge", "person", tuple(row[i] for i in order)) for row in rows),
        )
        again = {pair.comparison.responses for pair in to_pairs([shuffled], how, ties=ties)}
        assert again == {pair.comparison.responses for pair in found}


def test_an_unknown_way_is_named() -> None:
    with pytest.raises(ConfigError, match="pairs='some' must be one of all, best_worst"):
        list(to_pairs([], "some"))  # type: ignore[arg-type]
