"""Merging votes and verdicts, by hand."""

import numpy as np
import pytest

from rewardscale.curation.merging import across, within


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        ([1, 1, -1], (1, 2 / 3)),
        ([-1, -1, -1, 1], (-1, 3 / 4)),
        ([1, -1], (0, 0)),  # swapping the order swapped the answer: position bias, not a preference
        ([0, 0, 1], (0, 2 / 3)),
        ([1, 1, 0, 0], (1, 1 / 2)),
        ([1, None], (1, 1 / 2)),
        ([1, None, None], (None, 0)),
        ([None], (None, 0)),
        ([], (None, 0)),
    ],
)
def test_votes_of_one_judge(votes, verdict) -> None:
    assert within(votes) == pytest.approx(verdict) if verdict[0] is not None else within(votes) == verdict
    swapped = [vote and -vote for vote in votes]
    preferred, confidence = within(swapped)
    assert (preferred and -preferred, confidence) == within(votes)


def test_an_even_vote_may_count_as_no_answer() -> None:
    assert within([1, -1], ties="cannot_say") == (None, 0.0)
    assert within([1, 1, -1], ties="cannot_say")[0] == 1


def test_judges_merge_by_majority_then_by_confidence() -> None:
    preferred = np.array([[1, 1, 1, 1, 0], [1, -1, -1, 0, 0], [-1, 0, 0, 0, 0]], np.int8)
    assert across(preferred).tolist() == [1, 0, 0, 1, 0]
    confidence = np.array([[0.6, 0.9, 0.7, 0.6, 0], [0.6, 0.6, 0.7, 0, 0], [1.0, 0, 0, 0, 0]])
    assert across(preferred, confidence).tolist() == [1, 1, 0, 1, 0]
