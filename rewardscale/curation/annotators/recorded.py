"""An annotator whose every answer is written down before it is given: what is there is never asked again.

LLM judges keep a call log of their own (annotators/llm/calls.py); this one serves annotators without.

    <directory>/<name>.jsonl       a line an answer (data/ledger/log.py): its number of lines is the number of calls
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from rewardscale.curation.annotators.base import Estimate, Question
from rewardscale.curation.annotators.simulated import SimulatedAnnotator
from rewardscale.data.ledger.checks import to_json
from rewardscale.data.ledger.log import AppendLog, payloads
from rewardscale.data.ledger.schema import Kind, Verdict


class Recorded:
    """`annotator`, its answers kept in `directory`. One process at a time."""

    def __init__(self, annotator: SimulatedAnnotator, directory: Path):
        self.name, self._annotator = annotator.name, annotator
        self.kind: Kind = annotator.kind
        self._log = AppendLog(directory, annotator.name)
        self._answers: dict[str, Verdict] = {}
        for record in map(orjson.loads, payloads(self._log.path)):
            verdict = Verdict(**{**record, "examples": tuple(record["examples"])})
            self._answers[verdict.key] = verdict

    @property
    def calls(self) -> int:
        """Answers paid so far, by this process and by those before it."""
        return self._log.records

    def judge(self, questions: Sequence[Question], *, iteration: int | None = None) -> Iterator[Verdict]:
        for question in questions:
            key = self._annotator.key(question)
            if key not in self._answers:
                (verdict,) = self._annotator.judge([question], iteration=iteration)
                self._log.add(orjson.Fragment(to_json(verdict)))
                self._answers[key] = verdict
            yield dataclasses.replace(self._answers[key], iteration=iteration)

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        new = [q for q in questions if self._annotator.key(q) not in self._answers]
        return self._annotator.estimate(new)

    def close(self) -> None:
        """Frees the log for another process."""
        self._log.close()
