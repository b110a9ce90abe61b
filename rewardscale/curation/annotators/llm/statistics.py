"""What a judge's votes say about the judge: position bias, self-agreement, unreadable answers."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from rewardscale.curation.annotators.llm.calls import CallLog, Paid
from rewardscale.curation.annotators.llm.parse import Unreadable, parse
from rewardscale.data.ledger.log import read_log


@dataclasses.dataclass(frozen=True, slots=True)
class JudgeStatistics:
    """Of all votes in a call log.

    Attributes:
      answers: choices that were paid. unreadable: of those.
      shown_first: share of votes for what was shown first, among votes for one of the two; None without any. Each
        question is shown in both orders, so 1/2 means no position bias.
      position_bias: 2 * shown_first - 1: the share of votes that the position alone decided, if it decides by mixing.
      same_order, other_order: share of pairs of votes on one question that agree, by whether both saw it in one
        order; None without any. A judge that follows an order in the text agrees in one order and not across both.
    """

    answers: int
    unreadable: int
    shown_first: float | None
    position_bias: float | None
    same_order: float | None
    other_order: float | None


@dataclasses.dataclass
class _Counts:
    answers: int = 0
    unreadable: int = 0
    first: int = 0
    decided: int = 0
    agree: dict[bool, int] = dataclasses.field(default_factory=lambda: {True: 0, False: 0})
    pairs: dict[bool, int] = dataclasses.field(default_factory=lambda: {True: 0, False: 0})

    def add(self, answers: Iterable[tuple[str, Paid]]) -> None:
        """All answers on some questions: those on one question must come together."""
        votes: dict[str, list[tuple[bool, str]]] = defaultdict(list)
        for text, paid in answers:
            self.answers += 1
            try:
                verdict = parse(text).verdict
            except Unreadable:
                self.unreadable += 1
                continue
            if verdict in ("1", "2"):
                self.decided += 1
                self.first += verdict == "1"
                verdict = "first" if (verdict == "1") != paid.swapped else "second"
            votes[paid.comparison].append((paid.swapped, verdict))
        for cast in votes.values():
            for (one, left), (other, right) in itertools.combinations(cast, 2):
                self.agree[one == other] += left == right
                self.pairs[one == other] += 1

    def statistics(self) -> JudgeStatistics:
        share = self.first / self.decided if self.decided else None
        same, other = (self.agree[o] / self.pairs[o] if self.pairs[o] else None for o in (True, False))
        return JudgeStatistics(
            answers=self.answers,
            unreadable=self.unreadable,
            shown_first=share,
            position_bias=None if share is None else 2 * share - 1,
            same_order=same,
            other_order=other,
        )


def judge_statistics(log: CallLog, judge: str) -> JudgeStatistics:
    """Of the judge of that name."""
    counts = _Counts()
    counts.add(answer for found in log.answers.values() for answer in found if answer[1].judge == judge)
    return counts.statistics()


def statistics_of(directories: Iterable[Path]) -> dict[str, JudgeStatistics]:
    """Of all judges in the call logs of some folders (`judging.folders`), a pair's calls in one of them; one folder's
    answers in memory at a time."""
    counts: dict[str, _Counts] = defaultdict(_Counts)
    for directory in directories:
        found: dict[str, list[tuple[str, Paid]]] = defaultdict(list)
        for record in read_log(directory):
            if record["t"] == "answer":
                paid = Paid.of(record)
                found[paid.judge] += [(text, paid) for text in record["texts"]]
        for judge, answers in found.items():
            counts[judge].add(answers)
    return {judge: found.statistics() for judge, found in counts.items()}
