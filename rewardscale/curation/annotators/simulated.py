"""Simulated people and judges, whose errors are known: for tests, planted worlds and dry runs.

An annotator calls the worse response the better one with probability

    error(m) = lapse + (1 - 2 lapse) / (1 + exp(|m| / noise))        m: gold margin of the pair, Bradley-Terry units

(`noise` 0: `lapse` alone, whatever the margin: an *independent curator*), and may lean towards the longer response or
the one shown first. What decides is a number that belongs to (seed, annotator, comparison, vote), or, for a share
`shared` of pairs, to (seed, comparison) alone: annotators then err together. So asking again gives the same answer.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

from rewardscale.config import ConfigError
from rewardscale.config.curation import Rates
from rewardscale.curation.annotators.base import Estimate, Question
from rewardscale.curation.merging import Ties, within
from rewardscale.data.ledger.schema import Kind, Verdict


class SimulatedAnnotator:
    """An annotator of the kind "simulated".

    Args:
      name: of its verdicts; begins with "simulated-".
      margin: gold margin (first minus second response) of a corpus row; its sign is the truth.
      votes: a pair, the two orders in turn. cost, seconds: a vote. seed: of the experiment.
    """

    kind: Kind = "simulated"

    def __init__(
        self,
        name: str,
        rates: Rates,
        margin: Callable[[int], float],
        *,
        votes: int = 1,
        ties: Ties = "tie",
        cost: float = 0.0,
        seconds: float = 0.0,
        seed: int = 0,
    ):
        if not name.startswith("simulated-"):
            raise ConfigError(f"annotator {name!r} is simulated: its name must begin with 'simulated-'")
        if votes < 1:
            raise ConfigError(f"annotator {name!r} needs one vote or more")
        self.name, self.rates, self.votes, self.seed = name, rates, votes, seed
        self._ties: Ties = ties
        self._margin, self._cost, self._seconds = margin, cost, seconds

    def judge(self, questions: Sequence[Question], *, iteration: int | None = None) -> Iterator[Verdict]:
        for question in questions:
            identity = question.comparison.id
            votes = [self._vote(question, identity, number) for number in range(self.votes)]
            preferred, confidence = within(votes, ties=self._ties)
            yield Verdict(
                row=question.row,
                comparison=identity,
                annotator=self.name,
                kind="simulated",
                preferred=preferred,
                iteration=iteration,
                confidence=confidence,
                votes_first=votes.count(1),
                votes_second=votes.count(-1),
                votes_tie=votes.count(0),
                key=self.key(question),
                cost=self._cost * self.votes,
                seconds=self._seconds * self.votes,
                examples=tuple(example.comparison.id for example in question.examples),
            )

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        calls = len(questions) * self.votes
        return Estimate(calls=calls, cost=calls * self._cost, seconds=calls * self._seconds)

    def key(self, question: Question) -> str:
        """Hash of what was asked: of the pair alone, as examples do not change a simulated answer."""
        return hashlib.blake2b(
            f"{self.seed}:{self.name}:{self.rates}:{self.votes}:{question.comparison.id}".encode(),
            digest_size=16,
        ).hexdigest()

    def _vote(self, question: Question, identity: str, number: int) -> int | None:
        rates, margin = self.rates, self._margin(question.row)
        if self._uniform("skip", identity) < rates.skips:
            return None
        leans = self._uniform("leans", identity, number)
        first_shown = 1 if number % 2 == (self._uniform("order", identity) < 0.5) else -1
        if leans < rates.shown_first:
            return first_shown
        lengths = [len(response) for response in question.comparison.responses]
        if leans < rates.shown_first + rates.longer and lengths[0] != lengths[1]:
            return 1 if lengths[0] > lengths[1] else -1
        if margin == 0:
            return 0
        truth = 1 if margin > 0 else -1
        return -truth if self._error_draw(identity, number) < rates.error(margin) else truth

    def _error_draw(self, identity: str, number: int) -> float:
        if self._uniform("together", identity) < self.rates.shared:
            return _uniform(self.seed, "shared", identity)
        if self._uniform("one vote", identity) < self.rates.consistency:
            return self._uniform("error", identity)
        return self._uniform("error", identity, number)

    def _uniform(self, *what: object) -> float:
        return _uniform(self.seed, self.name, *what)


def independent_curator(
    name: str, accuracy: float, margin: Callable[[int], float], *, seed: int = 0
) -> SimulatedAnnotator:
    """One whose errors are independent of the pair and of all others: what scaling/theory_curators.py prices."""
    return SimulatedAnnotator(name, Rates(lapse=1 - accuracy), margin, seed=seed)


def _uniform(*what: object) -> float:
    """In [0, 1), decided by `what`."""
    digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53
