"""An LLM judge: n votes a question in both orders, merged within the judge (self-consistency)."""

import dataclasses
import datetime
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

from rewardscale.config.judges import JudgeConfig
from rewardscale.curation.annotators.base import Estimate, Question
from rewardscale.curation.annotators.llm import panel
from rewardscale.curation.annotators.llm.calls import CallLog, Paid, key_of
from rewardscale.curation.annotators.llm.client import TEMPLATE_TOKENS, CallFailed, Client, Request
from rewardscale.curation.annotators.llm.parse import SCHEMA, Answer, Unreadable, parse
from rewardscale.curation.annotators.llm.prompts import Messages, judge_messages, load
from rewardscale.curation.merging import Ties, within
from rewardscale.data.ledger.schema import Kind, Verdict

_RE_ASK_SEED = 100_000  # apart from the seeds of votes
_PICO = 1e-12


@dataclasses.dataclass(frozen=True, slots=True)
class Ballot:
    """One vote of a question: whether the second response is shown first, and its key in the call log."""

    index: int
    swapped: bool
    key: str
    messages: Messages


class LLMJudge:
    """`Annotator` over an OpenAI-compatible endpoint. `tally` says how the last `judge` ended.

    Args:
      config: who, where and how. log: shared by all judges of a working folder; it holds the budget.

    Raises ConfigError where its model has no price or its prompt no file.
    """

    kind: Kind = "llm_judge"

    def __init__(self, config: JudgeConfig, log: CallLog):
        self.config, self.log, self.name = config, log, config.name
        self.prompt_version = load(config.prompt).version
        self.price = log.budget.config.price(config.model)
        self.ties: Ties = "tie" if config.tie == "tie" else "cannot_say"
        self.tally = panel.Tally()

    def judge(self, questions: Sequence[Question], *, iteration: int | None = None) -> Iterator[Verdict]:
        """See `Annotator.judge` and `panel.run`."""
        return panel.run([self], questions, iteration=iteration)

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        """An upper bound: each vote a call, a token a byte of prompt, answers as long as allowed, no re-asks.

        Seconds: from this judge's measured seconds a call in the log and its concurrency; None without any.
        """
        calls = tokens_in = tokens_out = 0
        for question in questions:
            for ballot in self._open(question, self.ballots(question)):
                calls += 1
                tokens_in += ballot.messages.size + TEMPLATE_TOKENS
                tokens_out += self.config.max_tokens
        cost = self.price.pico(tokens_in, tokens_out) * _PICO
        return Estimate(calls, tokens_in, tokens_out, cost, panel.seconds(self, calls))

    # --- votes ---------------------------------------------------------------------------------------

    def ballots(self, question: Question) -> list[Ballot]:
        """Its votes. Which order the first one has is drawn by a hash; the orders alternate."""
        config = self.config
        first = hashlib.blake2b(f"{config.seed}:{question.comparison.id}".encode()).digest()[0] & 1
        shown = {
            s: judge_messages(question, config, swapped=s)
            for s in {bool(first), config.votes == 1 or not first}
        }
        keys = {s: key_of(config.sampling, self.prompt_version, m.system, m.user) for s, m in shown.items()}
        found = []
        for index in range(config.votes):
            swapped = bool((first + index) & 1)
            found.append(Ballot(index, swapped, key_of(keys[swapped], index), shown[swapped]))
        return found

    def question_key(self, ballots: Sequence[Ballot]) -> str:
        """Of the verdict: what was asked, and how it is merged."""
        return key_of(self.name, self.config.tie, [ballot.key for ballot in ballots])

    def _read(self, ballot: Ballot) -> Answer | None:
        """The first readable answer, None where there is none."""
        for text, _ in self.log.of(ballot.key):
            try:
                return parse(text)
            except Unreadable:
                continue
        return None

    def _is_open(self, ballot: Ballot) -> bool:
        answers = self.log.of(ballot.key)
        return len(answers) <= self.config.re_asks and self._read(ballot) is None

    def _open(self, question: Question, ballots: Sequence[Ballot]) -> list[Ballot]:
        """Those that are still to be asked."""
        without = self.log.settled.get(self.question_key(ballots), ())
        return [b for b in ballots if b.key not in without and self._is_open(b)]

    async def answer(self, client: Client, question: Question, iteration: int | None) -> Verdict | None:
        """Asks what is missing and merges; None where no majority of the votes was readable (counted in `tally`).

        Raises BudgetSpent and EndpointError.
        """
        ballots = self.ballots(question)
        key = self.question_key(ballots)
        missing = self._open(question, ballots)
        gone: dict[str, str] = {}
        for swapped in (False, True):
            waiting = [b for b in missing if b.swapped == swapped]
            while waiting:
                first = waiting[0]
                seed = self.config.seed + first.index + _RE_ASK_SEED * len(self.log.of(first.key))
                try:
                    keys = [b.key for b in waiting]
                    pair = question.comparison.id
                    await client.ask(Request(first.messages, keys, seed, SCHEMA, pair, swapped))
                except CallFailed as error:
                    gone.update((b.key, str(error)) for b in waiting)
                    break
                waiting = [b for b in waiting if self._is_open(b)]
        verdict = self._merge(question, ballots, key, iteration)
        if verdict is None:
            self.tally.failed[next(iter(gone.values()), "unreadable")] += 1
        else:
            if gone:  # a later run must not change it
                await self.log.add({"t": "settled", "key": key, "without": sorted(gone)})
            self.tally.answered += 1
        return verdict

    def _merge(
        self, question: Question, ballots: Sequence[Ballot], key: str, iteration: int | None
    ) -> Verdict | None:
        without = self.log.settled.get(key, ())
        votes: list[tuple[int | None, str]] = []
        paid: dict[int, Paid] = {}  # a request with several choices counts once
        for ballot in ballots:
            paid.update((id(call), call) for _, call in self.log.of(ballot.key))
            answer = None if ballot.key in without else self._read(ballot)
            if answer is not None:
                votes.append((preference(answer, swapped=ballot.swapped), answer.reason))
        if 2 * len(votes) <= len(ballots):
            return None
        preferred, share = within([vote for vote, _ in votes], ties=self.ties)
        count = Counter(vote for vote, _ in votes)
        calls = list(paid.values())
        return Verdict(
            row=question.row,
            comparison=question.comparison.id,
            annotator=self.name,
            kind=self.kind,
            preferred=preferred,
            iteration=iteration,
            confidence=share,
            votes_first=count[1],
            votes_second=count[-1],
            votes_tie=count[0],
            votes_failed=len(ballots) - len(votes),
            key=key,
            model=self.config.model,
            prompt_version=self.prompt_version,
            tokens_in=sum(call.tokens_in for call in calls),
            tokens_out=sum(call.tokens_out for call in calls),
            cost=sum(call.pico for call in calls) * _PICO,
            seconds=sum(call.seconds for call in calls),
            time=max((datetime.datetime.fromisoformat(call.time) for call in calls), default=None),
            reason=next((reason for vote, reason in votes if vote == preferred), ""),
            examples=tuple(example.comparison.id for example in question.examples),
        )


def preference(answer: Answer, *, swapped: bool) -> int | None:
    """+1 first response in the corpus's order, -1 second, 0 tie, None cannot say."""
    if answer.verdict == "cannot say":
        return None
    if answer.verdict == "tie":
        return 0
    return 1 if (answer.verdict == "1") != swapped else -1
