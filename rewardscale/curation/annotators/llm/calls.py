"""The call log: every paid answer by what was asked, and what it cost. It is the cache and the bill at once.

Keys are hashes of (model, sampling, rendered messages, vote number); the messages hold the prompt file, guideline,
attributes, examples, pair and order. What is on disk is never paid for again. Guarantee between processes: a process
knows what lay in the folder when it opened it; two that work on the same questions at the same time may both pay, so
work is divided by questions.

Records, told apart by "t": "answer" (paid; text readable or not), "lost" (sent, no usage came back: the upper bound is
set aside), "failed" (why a call was given up; costs nothing), "settled" (a verdict was made without these votes),
"held" (the most that calls under way may cost: what a kill leaves in doubt), "free" (ended cleanly).
"""

import asyncio
import dataclasses
import hashlib
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from rewardscale.curation.annotators.llm.budget import Budget
from rewardscale.curation.annotators.llm.log import GroupLog
from rewardscale.data.ledger.log import read_log


def key_of(*parts: Any) -> str:
    """Content hash, 32 hex digits."""
    return hashlib.blake2b(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Paid:
    """One answered request: tokens, cost (pico), seconds, when (ISO 8601, UTC); of which pair, in which order shown."""

    judge: str
    tokens_in: int
    tokens_out: int
    pico: int
    seconds: float
    time: str
    comparison: str = ""
    swapped: bool = False

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Paid":
        """From a record "answer"."""
        names = ("judge", "in", "out", "pico", "s", "time", "pair", "swapped")
        return cls(*(record[name] for name in names))


@dataclasses.dataclass(slots=True)
class Bill:
    """Sums of one (judge, model). pico: paid. lost_pico: upper bound of what was perhaps paid. failed: by reason."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    pico: int = 0
    seconds: float = 0.0
    lost: int = 0
    lost_pico: int = 0
    prompt_bytes: int = 0
    cut: int = 0
    failed: dict[str, int] = dataclasses.field(default_factory=dict)


def _book(bills: dict[tuple[str, str], Bill], record: dict[str, Any]) -> None:
    """Adds what a record costs to its judge's bill."""
    kind = record["t"]
    if kind not in ("answer", "lost", "failed"):
        return
    bill = bills[record["judge"], record["model"]]
    if kind == "answer":
        bill.calls += 1
        bill.tokens_in += record["in"]
        bill.tokens_out += record["out"]
        bill.pico += record["pico"]
        bill.seconds += record["s"]
        bill.prompt_bytes += record["bytes"]
        bill.cut += record["cut"]
    elif kind == "lost":
        bill.lost += 1
        bill.lost_pico += record["pico"]
    else:
        bill.failed[record["why"]] = bill.failed.get(record["why"], 0) + 1


def bills_of(directories: Iterable[Path]) -> dict[tuple[str, str], Bill]:
    """The bills of several call logs together, by (judge, model); holds one file in memory at a time."""
    bills: dict[tuple[str, str], Bill] = defaultdict(Bill)
    for directory in directories:
        for record in read_log(directory):
            _book(bills, record)
    return dict(bills)


class CallLog:
    """All paid answers of one folder, in memory. `budget` is told what was spent before and settled by the client.

    Args:
      directory: None keeps nothing: for estimates.
      writer: of a file that no other process may write meanwhile (DataError); by default each run has one of its own.
    """

    def __init__(self, directory: Path | None, budget: Budget | None = None, *, writer: str = ""):
        self.answers: dict[str, list[tuple[str, Paid]]] = {}
        self.settled: dict[str, frozenset[str]] = {}
        self.bills: dict[tuple[str, str], Bill] = defaultdict(Bill)
        self._held: dict[str, int] = {}
        self._run = uuid.uuid4().hex[:12]
        self._held_by_us = 0
        self._noting: asyncio.Future[None] | None = None
        self.budget = budget or Budget()
        self._log: GroupLog | None = None
        if directory is not None:
            self._log = GroupLog(directory, writer or f"calls-{self._run}", self._replay)
        spent = sum(bill.pico for bill in self.bills.values())
        lost = sum(bill.lost_pico for bill in self.bills.values())
        calls = sum(bill.calls + bill.lost for bill in self.bills.values())
        self.budget.restore(spent=spent, doubtful=lost + sum(self._held.values()), calls=calls)

    def _replay(self, record: dict[str, Any]) -> None:
        kind = record["t"]
        _book(self.bills, record)
        if kind == "answer":
            paid = Paid.of(record)
            for key, text in zip(record["keys"], record["texts"], strict=True):
                self.answers.setdefault(key, []).append((text, paid))
        elif kind == "settled":
            self.settled.setdefault(record["key"], frozenset(record["without"]))
        elif kind == "held":
            self._held[record["run"]] = record["pico"]
        elif kind == "free":
            self._held.pop(record["run"], None)

    async def add(self, record: dict[str, Any]) -> None:
        """Makes a record durable, then known."""
        if self._log is not None:
            await self._log.append(record)
        self._replay(record)

    async def hold(self) -> None:
        """Before a call is sent: what is under way must not exceed what the log says may be in doubt after a kill.

        A quarter more is noted, so that few such notes are written; one that has become far too high is lowered.
        """
        reserved = self.budget.reserved
        if reserved > self._held_by_us or 2 * reserved < self._held_by_us:
            self._held_by_us = reserved + reserved // 4
            note = {"t": "held", "run": self._run, "pico": self._held_by_us}
            if self._log is not None:
                self._noting = asyncio.ensure_future(self._log.append(note))
        if self._noting is not None and not self._noting.done():  # whoever asks it, none is sent before
            await asyncio.shield(self._noting)

    def of(self, key: str) -> Sequence[tuple[str, Paid]]:
        """The answers to one vote, oldest first."""
        return self.answers.get(key, ())

    async def drained(self) -> None:
        """Returns when everything added is on disk."""
        if self._log is not None:
            await self._log.drained()

    def close(self) -> None:
        """Ends cleanly: nothing of this process is in doubt any more."""
        if self._log is None:
            return
        if self._held_by_us:
            self._log.write_now({"t": "free", "run": self._run})
        self._log.close()

    def __enter__(self) -> "CallLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
