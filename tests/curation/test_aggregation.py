"""Aggregated labels and competences: published fits, simulated annotators, five votes a pair of real people."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from rewardscale.curation.aggregation import dawid_skene, mace, majority
from rewardscale.curation.judgements import PREFERENCES, Judgements
from rewardscale.data.sources import ukpconvarg1

DATA = Path(os.environ.get("REWARDSCALE_DATA") or Path(__file__).parents[3] / "shared" / "data")
UKPCONVARG1 = DATA / "ukpconvarg1"

# Dawid and Skene (1979), table 1: 45 patients, a group each, graded 1 to 4: three times by the first anaesthetist, then
# once by each of four others.
ANAESTHETISTS = """
1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343 1111111 2223212 1211111
1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111 1111111 1121121
1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111 2322222 1211111 2222222
"""


def anaesthetists() -> Judgements:
    grades = np.array([[int(c) - 1 for c in patient] for patient in ANAESTHETISTS.split()])
    item, place = np.indices(grades.shape).reshape(2, -1)
    who = np.array([0, 0, 0, 1, 2, 3, 4])[place]
    return Judgements(item, who, grades.ravel(), range(45), range(5), 4)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def test_dawid_and_skenes_anaesthetists():
    fit = dawid_skene(anaesthetists(), tolerance=1e-10)
    # Their tables 2 and 4: shares of the grades, and the first anaesthetist's error rates.
    assert fit.converged and fit.prior == pytest.approx([0.40, 0.42, 0.11, 0.07], abs=0.006)
    assert fit.confusion[0, 0] == pytest.approx([0.89, 0.11, 0, 0], abs=0.006)
    assert np.diff(fit.objective).min() >= -1e-9
    assert fit.posterior.sum(1) == pytest.approx(np.ones(45))
    assert fit.label[[0, 10, 31]].tolist() == [0, 3, 2]


def test_majority_by_hand():
    votes = Judgements.from_matrix(np.array([[0, 0, 1], [1, 2, -1], [2, 2, 2], [-1, -1, -1]]), 3)
    label, shares = majority(votes)
    assert label.tolist() == [0, -1, 2, -1]
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3, 0], [0, 0.5, 0.5], [0, 0, 1], [1 / 3] * 3])


def test_one_step_by_hand():
    # Two classes, two who always agree and a third who never does: EM ends where the third is known to be wrong.
    votes = Judgements.from_matrix(np.array([[0, 0, 1], [1, 1, 0]] * 10), 2)
    fit = dawid_skene(votes)
    np.testing.assert_allclose(fit.confusion[2], [[0, 1], [1, 0]], atol=1e-9)
    np.testing.assert_allclose(fit.confusion[0], np.eye(2), atol=1e-9)
    assert fit.competence == pytest.approx([1, 1, 0], abs=1e-9)
    assert fit.label.tolist() == [0, 1] * 10
    # All 20 items are certain, so the log-likelihood is that of the prior alone.
    assert fit.objective[-1] == pytest.approx(20 * np.log(0.5))


def simulated(
    seed: int, competence: np.ndarray, items: int = 600, votes: int = 5
) -> tuple[np.ndarray, Judgements]:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, items)
    who = np.stack([random.permutation(len(competence))[:votes] for _ in range(items)])
    favourite = random.dirichlet(np.ones(3), len(competence))
    guess = (random.random((items, votes, 1)) > favourite[who].cumsum(-1)[..., :-1]).sum(-1)
    label = np.where(random.random((items, votes)) < competence[who], truth[:, None], guess)
    item = np.repeat(np.arange(items), votes)
    judgements = Judgements(item, who.ravel(), label.ravel(), range(items), range(len(competence)), 3)
    return truth, judgements


@pytest.mark.parametrize("seed", range(2))
def test_known_competences_are_found(seed):
    competence = np.linspace(0.05, 0.95, 15)
    truth, judgements = simulated(seed, competence)
    wrong = {"majority": (majority(judgements)[0] != truth).mean()}
    for model in (mace, dawid_skene):
        fit = model(judgements)
        assert fit.converged and np.diff(fit.objective).min() >= -1e-6
        wrong[model.__name__] = (fit.label != truth).mean()
        assert rank_correlation(fit.competence, competence) > 0.9
    assert np.abs(mace(judgements).competence - competence).mean() < 0.06
    assert wrong["mace"] < 0.75 * wrong["majority"] and wrong["dawid_skene"] < wrong["majority"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-1, 2), min_size=4, max_size=4), min_size=1, max_size=15),
    st.sampled_from([0.0, 0.01, 1.0]),
    st.randoms(),
)
def test_the_objective_never_falls_and_names_do_not_matter(rows, smoothing, random):
    matrix = np.array(rows)
    items, who = random.sample(range(len(rows)), len(rows)), random.sample(range(4), 4)
    for model in (dawid_skene, mace):
        fit = model(Judgements.from_matrix(matrix, 3), smoothing=smoothing, iterations=30)
        assert np.isfinite(fit.objective).all() and np.diff(fit.objective).min(initial=0) >= -1e-7
        assert fit.posterior.sum(1) == pytest.approx(np.ones(len(rows)))
        assert fit.confusion.sum(2) == pytest.approx(np.ones((4, 3)))
        assert ((fit.competence >= 0) & (fit.competence <= 1)).all()
        moved = model(Judgements.from_matrix(matrix[items][:, who], 3), smoothing=smoothing, iterations=30)
        if len(moved.objective) == len(fit.objective):
            np.testing.assert_allclose(moved.posterior, fit.posterior[items], atol=1e-6)
            np.testing.assert_allclose(moved.competence, fit.competence[who], atol=1e-6)


@pytest.fixture(scope="module")
def votes():
    if not UKPCONVARG1.is_dir():
        pytest.skip(
            "needs the data set ukpconvarg1: beside the checkout, or in the folder REWARDSCALE_DATA names"
        )
    return ukpconvarg1.read(UKPCONVARG1)


def test_published_competences_are_found_again(votes):
    """MACE's, nearly; Dawid-Skene's competence is another quantity, of the same order all the same."""
    published = (
        votes.verdicts.group_by("annotator").agg(pl.col("confidence").first(), pl.len()).sort("annotator")
    )
    judgements = Judgements.of(votes.verdicts)
    assert judgements.annotators == published["annotator"].to_list()
    competence, often = published["confidence"].to_numpy(), published["len"].to_numpy() >= 20
    fit = mace(judgements, tolerance=3e-6)
    assert rank_correlation(fit.competence, competence) > 0.98
    assert rank_correlation(fit.competence[often], competence[often]) > 0.995
    other = dawid_skene(judgements, tolerance=3e-6)
    assert rank_correlation(other.competence, competence) > 0.65
    assert rank_correlation(other.competence[often], competence[often]) > 0.7
    # Their gold labels were made by MACE from these very votes: agreement checks the model, not the people.
    gold = votes.columns["gold"].cast(pl.Float64).to_numpy()
    strict = votes.columns["in_strict"].to_numpy()

    def right(label: np.ndarray, where: np.ndarray) -> float:
        return float((np.where(label >= 0, np.array(PREFERENCES)[label], np.nan) == gold)[where].mean())

    assert right(fit.label, np.isfinite(gold)) > 0.99 and right(fit.label, strict) > 0.99
    plain, smoothed = majority(judgements)[0], dawid_skene(judgements, smoothing=1.0, tolerance=3e-6).label
    assert 0.90 < right(plain, strict) < 0.92 < 0.94 < right(smoothed, strict)
    assert right(other.label, strict) < right(plain, strict)  # without a prior it overfits: 22 votes a person


def test_no_model_foretells_other_peoples_votes_better_than_the_majority(votes):
    """Three of five votes a pair against the other two where these agree, which the gold labels are no test of.

    Measured: majority right on 0.712 (a guess where it is undecided), Dawid-Skene with a prior 0.711, MACE 0.688:
    here a model's worth is a label where votes are split, not a better one.
    """
    everything = Judgements.of(votes.verdicts)
    random = np.random.default_rng(0)
    order = np.lexsort((random.random(len(everything.item)), everything.item))
    _, start, of = np.unique(everything.item[order], return_index=True, return_inverse=True)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - start[of]

    def part(which: np.ndarray) -> Judgements:
        j = everything
        return Judgements(j.item[which], j.annotator[which], j.label[which], j.items, j.annotators, 3)

    three, others = part(place < 3), part(place >= 3).counts()
    total = others.sum(1)
    agreed = (total >= 2) & (others.max(1) == total)
    truth = others.argmax(1)
    assert agreed.sum() > 8000
    plain, shares = majority(three)
    best = shares == shares.max(1, keepdims=True)
    guess = np.where(plain < 0, best[np.arange(len(truth)), truth] / best.sum(1), 0.0)

    def right(label: np.ndarray) -> float:
        return float((label == truth)[agreed].mean())

    by_majority = right(plain) + float(guess[agreed].mean())
    by_model = right(dawid_skene(three, smoothing=1.0, tolerance=3e-6).label)
    assert 0.70 < by_majority < 0.73
    assert abs(by_model - by_majority) < 0.01 < by_model - right(plain)
    assert 0.66 < right(mace(three, tolerance=3e-6).label) < by_majority
