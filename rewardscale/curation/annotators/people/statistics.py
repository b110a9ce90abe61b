"""What the lead sees: how far people are, how long they take, and whether they agree."""

import dataclasses
import itertools
import math
import statistics

import numpy as np

from rewardscale.curation.agreement import cohen_kappa
from rewardscale.data.ledger.database import PeopleStore


@dataclasses.dataclass(frozen=True, slots=True)
class PersonCounts:
    """One annotator's work.

    Attributes:
      answers: all; skipped, ties: of these. first_shown: share of those with a preference in which the response shown
        first was preferred (a half, but for chance, where position does not matter); None without any.
      median_seconds: active seconds a pair. confidence: mean of those given. last: when (Unix time).
    """

    name: str
    answers: int
    skipped: int
    ties: int
    median_seconds: float
    first_shown: float | None
    confidence: float | None
    last: float


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """Two annotators on the pairs that both judged, those aside that one could not say.

    Attributes:
      pairs: how many. same: share of the same answer (first, second, tie). kappa: Cohen's, with its 95 % interval low
        to high; None where it is not defined (both always gave one same answer).
    """

    one: str
    other: str
    pairs: int
    same: float
    kappa: float | None
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class Disagreement:
    """A pair that people judged differently: (annotator, preferred, confidence, reason) each."""

    round: int
    row: int
    task: int
    answers: tuple[tuple[str, int | None, float | None, str], ...]


def per_person(store: PeopleStore) -> list[PersonCounts]:
    """Every annotator who has answered, by name."""
    with store.transaction() as connection:
        found = connection.execute(
            "SELECT a.person, a.swapped, w.preferred, w.confidence, w.seconds, w.time FROM page_assignments a"
            " JOIN page_answers w ON w.id = a.answer ORDER BY a.person"
        ).fetchall()
    out = []
    for name, group in itertools.groupby(found, key=lambda record: record[0]):
        answers = list(group)
        preferences = [(-p if swapped else p) for _, swapped, p, *_ in answers if p]
        confidences = [c for _, _, _, c, *_ in answers if c is not None]
        out.append(
            PersonCounts(
                name=name,
                answers=len(answers),
                skipped=sum(a[2] is None for a in answers),
                ties=sum(a[2] == 0 for a in answers),
                median_seconds=statistics.median(a[4] for a in answers),
                first_shown=sum(p > 0 for p in preferences) / len(preferences) if preferences else None,
                confidence=statistics.fmean(confidences) if confidences else None,
                last=max(a[5] for a in answers),
            )
        )
    return out


def agreements(store: PeopleStore) -> list[Agreement]:
    """Every two annotators who have judged a pair in common, those with most in common first."""
    with store.transaction() as connection:
        found = connection.execute(
            "SELECT a.person, b.person, v.preferred, w.preferred FROM page_assignments a"
            " JOIN page_assignments b ON b.task = a.task AND b.person > a.person"
            " JOIN page_answers v ON v.id = a.answer JOIN page_answers w ON w.id = b.answer"
            " WHERE v.preferred IS NOT NULL AND w.preferred IS NOT NULL ORDER BY a.person, b.person"
        ).fetchall()
    out = []
    for (one, other), group in itertools.groupby(found, key=lambda record: record[:2]):
        ours, theirs = np.array([record[2:] for record in group]).T + 1  # preferences as classes 0, 1, 2
        kappa = cohen_kappa(ours, theirs, 3)
        value = None if math.isnan(kappa.value) else kappa.value
        same = float((ours == theirs).mean())
        out.append(Agreement(one, other, len(ours), same, value, kappa.low, kappa.high))
    return sorted(out, key=lambda a: (-a.pairs, a.one, a.other))


def disagreements(store: PeopleStore, most: int = 100) -> list[Disagreement]:
    """Pairs on which people's answers differ, the latest first; who could not say does not disagree."""
    with store.transaction() as connection:
        found = connection.execute(
            "SELECT t.round, t.row, t.id FROM page_tasks t JOIN page_assignments a ON a.task = t.id"
            " JOIN page_answers w ON w.id = a.answer WHERE w.preferred IS NOT NULL GROUP BY t.id"
            " HAVING count(DISTINCT w.preferred) > 1 ORDER BY max(w.id) DESC LIMIT ?",
            (most,),
        ).fetchall()
        return [
            Disagreement(round_, row, task, tuple(answers_to(store, task))) for round_, row, task in found
        ]


def answers_to(store: PeopleStore, task: int) -> list[tuple[str, int | None, float | None, str]]:
    """(annotator, preferred, confidence, reason) of each answer to a task, by annotator."""
    with store.transaction() as connection:
        return connection.execute(
            "SELECT a.person, w.preferred, w.confidence, w.reason FROM page_assignments a"
            " JOIN page_answers w ON w.id = a.answer WHERE a.task = ? ORDER BY a.person",
            (task,),
        ).fetchall()
