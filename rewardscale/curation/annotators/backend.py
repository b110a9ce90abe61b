"""What a place where people judge pairs must be able to do: the built-in page, or a team's Label Studio.

A round is a number, the iteration of stage 1 that asks. Tasks are pushed, people work for hours or weeks, verdicts are
pulled as often as one likes; each of the three may be repeated, or cut off, without losing or doubling anything.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from rewardscale.curation.annotators.base import Question
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.schema import Attributes, Verdict

MOST_OVERLAP = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A question for people.

    Attributes:
      priority: the greater, the sooner it is shown. overlap: how many people judge it.
    """

    question: Question
    priority: float = 0.0
    overlap: int = 1

    def __post_init__(self) -> None:
        if len(self.question.comparison.responses) != 2:
            raise DataError(f"row {self.question.row}: people judge two responses, not another number")
        if not math.isfinite(self.priority):
            raise DataError(f"row {self.question.row}: the priority {self.priority} must be a finite number")
        if not 1 <= self.overlap <= MOST_OVERLAP:
            raise DataError(
                f"row {self.question.row}: an overlap of {self.overlap}; 1 to {MOST_OVERLAP} people can judge a pair"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class RoundStatus:
    """How far a round is.

    Attributes:
      tasks: pairs. wanted: verdicts, each pair as often as its overlap says. given: verdicts so far, those beyond an
        overlap included; skipped: of these, how many could not say. complete: pairs that have all theirs.
      settled: verdicts in the ledger; the rest may still be changed by who gave them.
      seconds: that people spent. closed: no further pair is handed out.
    """

    tasks: int = 0
    wanted: int = 0
    given: int = 0
    skipped: int = 0
    complete: int = 0
    settled: int = 0
    seconds: float = 0.0
    closed: bool = False

    @property
    def done(self) -> bool:
        """Whether nothing is waited for any more."""
        return self.closed or self.complete == self.tasks


class AnnotationBackend(Protocol):
    """A place where people judge pairs. `name` says which one, for reports."""

    name: str

    def push_tasks(self, round: int, tasks: Sequence[Task]) -> int:
        """Adds tasks to a round; a pair that the round has already is left as it is. Returns how many were new."""
        ...

    def pull_verdicts(self, round: int) -> list[Verdict]:
        """All settled verdicts of a round, those pulled before included, with the keys that make them one each."""
        ...

    def status(self, round: int) -> RoundStatus:
        """How far the round is; one that nobody pushed has no tasks."""
        ...

    def close(self, round: int) -> None:
        """Ends a round: hands out no further pair, and settles every verdict. A closed round stays closed."""
        ...


def priority(attributes: Attributes | None, informativeness: float = 0.0) -> float:
    """Objective and uncontroversial pairs first (the paper's protocol), the more informative ones first among equals.

    Args:
      informativeness: in [0, 1], say 1 - |2p - 1| of a reward model, or how much judges disagree.
    """
    if attributes is None:
        rank = 0
    else:
        rank = 3 * (attributes.objectivity == "objective")
        rank += {"low": 2, "medium": 1, "high": 0}[attributes.controversiality]
    return rank + min(max(informativeness, 0.0), 1.0)


def make_tasks(
    questions: Iterable[tuple[Question, float]], *, overlap: int = 3, shared: float = 0.1, seed: int = 0
) -> list[Task]:
    """Tasks of questions and how informative each is ([0, 1]), of which some are judged by several people.

    Args:
      shared: about this share of the pairs has `overlap` annotators, so that agreement can be measured; the rest one.
      seed: of the choice, which hangs on each pair's content alone.
    """
    if not 0 <= shared <= 1:
        raise DataError(f"shared={shared} is a share of the pairs: 0 to 1")
    tasks = []
    for question, informativeness in questions:
        drawn = hashlib.blake2b(f"{seed}|{question.comparison.id}".encode(), digest_size=8).digest()
        several = int.from_bytes(drawn) < shared * 2**64
        tasks.append(
            Task(question, priority(question.attributes, informativeness), overlap if several else 1)
        )
    return tasks
