"""Backends (annotators/backend.py) where no real person waits: simulated people, and votes that were cast long ago."""

import dataclasses
import hashlib
from collections.abc import Sequence

import polars as pl

from rewardscale.curation.annotators.backend import RoundStatus, Task
from rewardscale.curation.annotators.recorded import Recorded
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.schema import Verdict


class SimulatedPeople:
    """People who answer at once. Who gets a pair hangs on the pair alone."""

    name = "simulated people"

    def __init__(self, people: Sequence[Recorded]):
        self.people = people
        self._rounds: dict[int, dict[str, Task]] = {}

    def push_tasks(self, round: int, tasks: Sequence[Task]) -> int:
        known = self._rounds.setdefault(round, {})
        new = {task.question.comparison.id: task for task in tasks}
        added = len(new.keys() - known.keys())
        self._rounds[round] = new | known
        return added

    def pull_verdicts(self, round: int) -> list[Verdict]:
        verdicts = []
        for identity, task in self._rounds.get(round, {}).items():
            first = int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=4).digest())
            for turn in range(min(task.overlap, len(self.people))):
                person = self.people[(first + turn) % len(self.people)]
                (verdict,) = person.judge([task.question], iteration=round)
                verdicts.append(dataclasses.replace(verdict, round=turn))
        return verdicts

    def status(self, round: int) -> RoundStatus:
        tasks = list(self._rounds.get(round, {}).values())
        given = sum(min(task.overlap, len(self.people)) for task in tasks)
        return RoundStatus(len(tasks), given, given, complete=len(tasks), settled=given)

    def close(self, round: int) -> None:
        """Nothing is open."""


class PastVotes:
    """Votes that people cast once: a pair's is given when it is asked for. One a pair; no vote, no verdict.

    Args:
      votes: VERDICT_COLUMNS, at most one of each row.
    """

    name = "past votes"

    def __init__(self, votes: pl.DataFrame):
        if votes["row"].is_duplicated().any():
            raise DataError("past votes hold two votes of a row")
        self._votes = {vote["row"]: vote for vote in votes.iter_rows(named=True)}
        self._rounds: dict[int, dict[int, Task]] = {}

    def push_tasks(self, round: int, tasks: Sequence[Task]) -> int:
        known = self._rounds.setdefault(round, {})
        new = {task.question.row: task for task in tasks}
        added = len(new.keys() - known.keys())
        self._rounds[round] = new | known
        return added

    def pull_verdicts(self, round: int) -> list[Verdict]:
        found = [self._votes[row] for row in self._rounds.get(round, {}) if row in self._votes]
        return [
            Verdict(
                row=vote["row"],
                comparison=vote["comparison"],
                annotator=vote["annotator"],
                kind="person",
                preferred=vote["preferred"],
                confidence=vote["confidence"],
                cost=vote["cost"],
                iteration=round,
                key=f"vote:{vote['comparison']}:{vote['row']}:{vote['round']}",
            )
            for vote in found
        ]

    def status(self, round: int) -> RoundStatus:
        tasks = len(self._rounds.get(round, {}))
        return RoundStatus(tasks, tasks, tasks, complete=tasks, settled=tasks)

    def close(self, round: int) -> None:
        """Nothing is open."""
