"""From votes to a verdict, and from judges' verdicts to a label: within a judge first, then across judges.

Skywork-Reward-V2 (arXiv 2507.01352, section 3) says self-consistency within each model, then a merge across models,
and leaves both rules open. Here a judge's verdict is the majority of its readable votes, and the label is the majority
of the judges that prefer a response.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Ties = Literal["tie", "cannot_say"]


def within(
    votes: Sequence[int | None], *, quorum: float = 0.5, ties: Ties = "tie"
) -> tuple[int | None, float]:
    """One judge's votes on one pair, merged.

    Args:
      votes: +1 first response, -1 second, 0 tie, None cannot say; calls that failed are left out by the caller.
      quorum: the share of votes that must say something; with fewer the judge could not say.
      ties: what as many votes for the first as for the second are, or fewer for either than for a tie.

    Returns:
      +1, -1, 0 or None, and its confidence: the share of all votes that agree with it (0 for None, and for a tie that
      no vote called one).
    """
    said = [vote for vote in votes if vote is not None]
    if not said or len(said) < quorum * len(votes):
        return None, 0.0
    first, second, even = (said.count(value) for value in (1, -1, 0))
    if first == second or even > max(first, second):
        return (0, even / len(votes)) if ties == "tie" else (None, 0.0)
    return (1, first / len(votes)) if first > second else (-1, second / len(votes))


def across(preferred: np.ndarray, confidence: np.ndarray | None = None) -> np.ndarray:
    """Judges' verdicts on many pairs, merged: int8 [pairs], +1, -1, or 0 where no side has the majority.

    Args:
      preferred: int8 [judges, pairs], 0 for a tie, for cannot say and for no verdict.
      confidence: float [judges, pairs]; decides where as many judges prefer the one as the other. Without it, and where
        confidences are equal too, nobody does.
    """
    votes = np.asarray(preferred, np.int64)
    total = votes.sum(axis=0)
    if confidence is not None:
        weighed = (votes * np.asarray(confidence, np.float64)).sum(axis=0)
        total = np.where((total == 0) & (np.abs(weighed) > 1e-9), weighed, total)
    return np.sign(total).astype(np.int8)
