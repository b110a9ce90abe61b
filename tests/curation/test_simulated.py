"""Simulated annotators err as often, and on what, their rates say."""

import numpy as np
import pytest

from rewardscale.config import ConfigError
from rewardscale.config.curation import Rates
from rewardscale.curation.annotators.base import Question
from rewardscale.curation.annotators.simulated import SimulatedAnnotator, independent_curator
from rewardscale.data.comparison import Comparison, Message

N = 4000
MARGINS = np.random.default_rng(0).normal(0, 2, N)
QUESTIONS = [
    Question(
        i, Comparison((Message("user", f"question {i}"),), ("a" * (1 + i % 7), "b" * (1 + i % 5)), source="s")
    )
    for i in range(N)
]
LONGER = np.sign([len(q.comparison.responses[0]) - len(q.comparison.responses[1]) for q in QUESTIONS])


def margin(row: int) -> float:
    return float(MARGINS[row])


def answers(annotator: SimulatedAnnotator, questions: list[Question] = QUESTIONS) -> np.ndarray:
    return np.array([v.preferred or 0 for v in annotator.judge(questions)])


def near(share: float, expected: float) -> bool:
    return abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / N) + 1e-9


def wrong(annotator: SimulatedAnnotator) -> np.ndarray:
    return answers(annotator) != np.sign(MARGINS)


def test_an_independent_curator_errs_at_its_rate_whatever_the_margin() -> None:
    errors = wrong(independent_curator("simulated-curator", 0.8, margin))
    assert near(errors.mean(), 0.2)
    assert abs(np.corrcoef(errors, np.abs(MARGINS))[0, 1]) < 4 / np.sqrt(N)
    other = wrong(independent_curator("simulated-other", 0.8, margin))
    assert abs(np.corrcoef(errors, other)[0, 1]) < 4 / np.sqrt(N)


def test_errors_that_hang_on_the_margin_follow_the_formula() -> None:
    rates = Rates(lapse=0.05, noise=1.0)
    errors = wrong(SimulatedAnnotator("simulated-judge", rates, margin))
    assert near(errors.mean(), float(np.mean([rates.error(m) for m in MARGINS])))
    assert errors[np.abs(MARGINS) < 0.5].mean() > 3 * errors[np.abs(MARGINS) > 3].mean()


def test_shared_errors_are_made_together() -> None:
    one, two = (
        wrong(SimulatedAnnotator(f"simulated-{n}", Rates(lapse=0.2, shared=0.5), margin)) for n in "ab"
    )
    # Both take the shared draw on a quarter of the pairs: then their errors are the same.
    assert np.corrcoef(one, two)[0, 1] == pytest.approx(0.25, abs=4 / np.sqrt(N))
    assert near(one.mean(), 0.2)


def test_swapped_orders_expose_a_judge_that_answers_by_position() -> None:
    obeys = SimulatedAnnotator("simulated-obeys", Rates(shown_first=1.0), margin, votes=2)
    assert (answers(obeys) == 0).all()
    once = answers(SimulatedAnnotator("simulated-once", Rates(shown_first=1.0), margin))
    assert near((once == 1).mean(), 0.5)


def test_a_judge_of_length_answers_by_length() -> None:
    said = answers(SimulatedAnnotator("simulated-long", Rates(longer=1.0), margin))
    differ = LONGER != 0
    np.testing.assert_array_equal(said[differ], LONGER[differ])


def test_more_votes_help_unless_they_are_one_vote() -> None:
    rates = {"lapse": 0.3}
    alone = wrong(SimulatedAnnotator("simulated-a", Rates(**rates), margin)).mean()
    many = wrong(SimulatedAnnotator("simulated-a", Rates(**rates), margin, votes=5)).mean()
    same = wrong(SimulatedAnnotator("simulated-a", Rates(**rates, consistency=1.0), margin, votes=5)).mean()
    assert near(alone, 0.3) and near(same, 0.3)
    assert near(many, 0.16308)  # P(Binomial(5, 0.3) >= 3)


def test_asking_again_gives_the_same_verdict_and_the_bill_is_by_votes() -> None:
    annotator = SimulatedAnnotator(
        "simulated-judge", Rates(lapse=0.2, skips=0.1), margin, votes=4, cost=0.01, seconds=2
    )
    first = list(annotator.judge(QUESTIONS[:50], iteration=1))
    assert first == list(annotator.judge(QUESTIONS[49::-1], iteration=1))[::-1]
    assert (
        sum(v.cost for v in first)
        == pytest.approx(annotator.estimate(QUESTIONS[:50]).cost)
        == pytest.approx(2)
    )
    assert len({v.key for v in first}) == 50
    skipped = [v for v in first if v.preferred is None]
    assert skipped and all(v.votes_first + v.votes_second + v.votes_tie in (0, 4) for v in first)


def test_what_cannot_be_is_refused() -> None:
    for rates in ({"lapse": 0.5}, {"noise": -1.0}, {"shared": 1.1}, {"longer": 0.6, "shown_first": 0.6}):
        with pytest.raises(ConfigError):
            Rates(**rates)
    with pytest.raises(ConfigError, match="must begin with 'simulated-'"):
        SimulatedAnnotator("alice", Rates(), margin)
