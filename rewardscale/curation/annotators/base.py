"""What an annotator is asked, and what every annotator can do."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

from rewardscale.data.comparison import Comparison
from rewardscale.data.ledger.schema import Attributes, Kind, Verdict


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A worked example: a pair that people have judged.

    Attributes:
      preferred: +1 first, -1 second, 0 tie.
    """

    comparison: Comparison
    preferred: int
    attributes: Attributes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A pair to be judged.

    Attributes:
      row: of the corpus. comparison: two responses. attributes: None where nobody wrote them.
      examples: nearest first.
    """

    row: int
    comparison: Comparison
    attributes: Attributes | None = None
    examples: tuple[Example, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """What judging would take: an upper bound of money, and seconds at measured rates (None where none is known)."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float | None = None


class Annotator(Protocol):
    """One who judges pairs. `name` and `kind` are those of its verdicts."""

    name: str
    kind: Kind

    def judge(self, questions: Sequence[Question], *, iteration: int | None = None) -> Iterator[Verdict]:
        """A verdict a question, in any order, each as soon as it is final.

        Asking the same twice costs nothing the second time and gives the same verdict. A question whose every call
        failed has no verdict: it is counted, and may be asked again.
        """
        ...

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        """What `judge` would take for these, what is already paid left out; asks nobody."""
        ...
