"""What a judge's votes say about the judge: position bias, self-agreement, unreadable answers."""

import dataclasses
import itertools
from collections import defaultdict

from rewardscale.curation.annotators.llm.calls import CallLog
from rewardscale.curation.annotators.llm.parse import Unreadable, parse


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


def judge_statistics(log: CallLog, judge: str) -> JudgeStatistics:
    """Of the judge of that name."""
    answers = unreadable = first = decided = 0
    votes: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    for found in log.answers.values():
        for text, paid in found:
            if paid.judge != judge:
                continue
            answers += 1
            try:
                verdict = parse(text).verdict
            except Unreadable:
                unreadable += 1
                continue
            if verdict in ("1", "2"):
                decided += 1
                first += verdict == "1"
                verdict = "first" if (verdict == "1") != paid.swapped else "second"
            votes[paid.comparison].append((paid.swapped, verdict))
    agree = {True: [0, 0], False: [0, 0]}
    for cast in votes.values():
        for (one, left), (other, right) in itertools.combinations(cast, 2):
            agree[one == other][0] += left == right
            agree[one == other][1] += 1
    share = first / decided if decided else None
    return JudgeStatistics(
        answers=answers,
        unreadable=unreadable,
        shown_first=share,
        position_bias=None if share is None else 2 * share - 1,
        same_order=agree[True][0] / agree[True][1] if agree[True][1] else None,
        other_order=agree[False][0] / agree[False][1] if agree[False][1] else None,
    )
