"""What a source yields: comparisons with the judgements that were published with them, and what it refuses."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rewardscale.data.comparison import Comparison


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """One annotator's judgement of all K responses of a comparison.

    Attributes:
      annotator: who judged ("hh-rlhf crowdworkers", "worker-17", "gpt-4").
      kind: one of ledger.schema.KINDS.
      scores: one a response, larger is better, equal is a tie, nan where a response was not judged. A chosen and
        a rejected response score 1 and 0, a rank counts from the end, a correct answer scores 1 and a wrong one 0.
      confidence: in [0, 1], or None.
      cost: in the adapter's cost unit.
    """

    annotator: str
    kind: str
    scores: tuple[float, ...]
    confidence: float | None = None
    cost: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """A comparison of K >= 2 responses, in the source's order, and at least one judgement of it."""

    comparison: Comparison
    judgements: tuple[Judgement, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """A record that cannot be used.

    Attributes:
      file: its file. line: line or row number, from 1.
      code: short name to count by ("not_json", "no_response", "identical_responses", ...).
      reason: one sentence that names the key and the mend.
    """

    file: str
    line: int
    code: str
    reason: str

    def record(self) -> Mapping[str, Any]:
        """As a line of quarantine.jsonl."""
        return dataclasses.asdict(self)
