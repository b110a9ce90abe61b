"""Coefficients of agreement against published and hand-worked values, and intervals against the plain bootstrap."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.curation import agreement
from rewardscale.curation.judgements import Judgements
from rewardscale.data.comparison import DataError

_ = 0
# Krippendorff's reliability data (Content Analysis, 1980; Computing Krippendorff's Alpha-Reliability, 2011, D):
# four observers, twelve units, `_` missing; nominal alpha 0.743.
KRIPPENDORFF = (
    np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
            [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
        ]
    ).T
    - 1
)


def test_krippendorffs_example():
    found = agreement.krippendorff_alpha(Judgements.from_matrix(KRIPPENDORFF, 5))
    assert found.value == pytest.approx(0.743, abs=5e-4)
    assert found.items == 11 and found.low < 0.743 < found.high <= 1


def test_alpha_of_two_without_missing_is_worked_by_hand():
    # Krippendorff 2011, section A: binary, two observers, ten units; alpha 0.095.
    one, two = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    both = Judgements.from_matrix(np.array([one, two]).T, 2)
    assert agreement.krippendorff_alpha(both).value == pytest.approx(0.095, abs=5e-4)
    assert agreement.raw_agreement(both).value == 0.6


def test_cohens_kappa_by_hand():
    # 20 both yes, 15 both no, 5 and 10 apart: observed 0.7, expected 0.5.
    one = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    two = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    found = agreement.cohen_kappa(one, two, 2)
    assert found.value == pytest.approx(0.4) and found.items == 50
    assert agreement.cohen_kappa(one, one, 2).low == 1
    assert math.isnan(agreement.cohen_kappa(one * 0, one * 0, 2).value)  # nothing could differ


def test_raw_agreement_counts_pairs():
    # Three equal of three: 3 of 3 pairs; two of three: 1 of 3; one alone: none.
    judgements = Judgements.from_matrix(np.array([[0, 0, 0], [0, 1, 1], [1, -1, -1]]), 2)
    assert agreement.raw_agreement(judgements).value == pytest.approx(4 / 6)
    nobody = Judgements.from_matrix(np.full((3, 2), -1), 2)
    assert math.isnan(agreement.raw_agreement(nobody).value) and agreement.raw_agreement(nobody).items == 0


def plain_alpha(matrix: np.ndarray) -> float:
    """From the coincidence matrix, pair by pair."""
    classes = matrix.max() + 1
    table = np.zeros((classes, classes))
    for row in matrix:
        labels = row[row >= 0]
        for i, a in enumerate(labels):
            for j, b in enumerate(labels):
                if i != j:
                    table[a, b] += 1 / (len(labels) - 1)
    n = table.sum()
    expected = (n**2 - (table.sum(0) ** 2).sum()) / (n - 1)
    return 1 - (n - np.trace(table)) / expected


def test_the_interval_is_the_plain_bootstraps():
    random = np.random.default_rng(1)
    truth = random.integers(0, 3, 120)
    matrix = np.where(random.random((120, 4)) < 0.7, truth[:, None], random.integers(0, 3, (120, 4)))
    matrix[random.random(matrix.shape) < 0.2] = -1
    found = agreement.krippendorff_alpha(Judgements.from_matrix(matrix, 3))
    assert found.value == pytest.approx(plain_alpha(matrix))
    drawn = [plain_alpha(matrix[random.integers(0, 120, 120)]) for _ in range(400)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.25 * (high - low))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 2), min_size=3, max_size=3), min_size=1, max_size=12), st.randoms())
def test_neither_order_nor_names_matter(rows, random):
    matrix = np.array(rows)
    moved = matrix[random.sample(range(len(rows)), len(rows))][:, random.sample(range(3), 3)]
    names = np.array([*random.sample(range(3), 3), -1])
    for coefficient in (agreement.raw_agreement, agreement.krippendorff_alpha):
        one, other = (coefficient(Judgements.from_matrix(m, 3)).value for m in (matrix, names[moved]))
        assert one == pytest.approx(other, nan_ok=True)


def test_the_matrix_names_each_two_once():
    verdicts = pl.DataFrame(
        {
            "row": [5, 5, 7, 7, 9, 9, 9],
            "annotator": ["b", "a", "b", "a", "a", "b", "c"],
            "preferred": [1, 1, -1, 0, -1, -1, None],
        }
    )
    judgements = Judgements.of(verdicts)
    assert judgements.items == [5, 7, 9] and judgements.annotators == ["a", "b"]
    assert judgements.label.tolist() == [0, 0, 1, 2, 1, 1]
    table = agreement.agreement_matrix(judgements)
    assert table.select("one", "other", "items").rows() == [("a", "b", 3)]
    assert table["agreement"].item() == pytest.approx(2 / 3) and table["kappa"].item() == pytest.approx(0.5)


def test_judgements_out_of_range_are_refused():
    with pytest.raises(DataError, match="label must lie between 0 and 1"):
        Judgements.from_matrix(np.array([[0, 2]]), 2)
