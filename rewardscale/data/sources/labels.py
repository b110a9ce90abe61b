"""Where a record says which response is better, and how that becomes scores: larger is better, equal is a tie."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rewardscale.data.records import ItemError
from rewardscale.data.sources.judged import Judgement

NAN = math.nan


@dataclasses.dataclass(frozen=True)
class Annotator:
    """Who judged. kind: one of ledger.schema.KINDS. cost: of one judgement, in the adapter's cost unit."""

    name: str
    kind: str
    cost: float = 1.0


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The first response is the chosen one, the second the rejected one.

    Attributes:
      scores: keys of the scores that decided it, if they are published: their difference is the margin, equal ones
        are a tie. Without them chosen scores 1 and rejected 0.
    """

    scores: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Scores:
    """A number a response: rating, rank, or right and wrong.

    Attributes:
      at: path of a list ("completions[].overall_score", "scores[]") or of each response's own number, in order.
      ranks: 1 is the best.
      mean: further paths; a response's score is the mean of all that are there.
      judged: path of a list; a response for which it is null was not judged. "" for none.
    """

    at: str | tuple[str, ...]
    ranks: bool = False
    mean: tuple[str, ...] = ()
    judged: str = ""


@dataclasses.dataclass(frozen=True)
class Winner:
    """A word or number that names the better one of two.

    Attributes:
      at: its path. first, second, tie: its values, as text.
    """

    at: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    tie: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Strength:
    """A signed number of which one sign means the first response, 0 a tie, and the size how much better.

    Attributes:
      at: its path. negative_first: below 0 the first is the better one.
      most: the largest size; a larger number says something else (-100: neither is any good) and is no judgement.
    """

    at: str
    negative_first: bool = True
    most: float = math.inf


@dataclasses.dataclass(frozen=True)
class Votes:
    """A list of votes, each an object.

    Attributes:
      at: path of the list. label: how one vote says it; paths are within the vote.
      name: path of the annotator within the vote, or "" to number them. confidence: path, or "".
    """

    at: str
    label: "Winner | Strength"
    name: str = ""
    confidence: str = ""


@dataclasses.dataclass(frozen=True)
class AllPairs:
    """A list of labels for each pair of responses in the order 1v2, 1v3, ..., 2v3, ...: 1 first, 2 second, 0 tie."""

    at: str


@dataclasses.dataclass(frozen=True)
class Sides:
    """Two lists of responses, at the paths `better` and `worse`, put one after the other: any of the first is better
    than any of the second."""

    better: str = "chosen"
    worse: str = "rejected"


Label = Chosen | Scores | Winner | Strength | Votes | AllPairs | Sides


def judgements(label: Label, who: Annotator, record: Mapping[str, Any], k: int) -> Iterator[Judgement]:
    """What one label says of the record's k responses; nothing where the label is null.

    Raises ItemError where it says something that cannot be understood.
    """
    match label:
        case Votes():
            votes = get(record, label.at) or []
            if not isinstance(votes, list) or not all(isinstance(vote, Mapping) for vote in votes):
                raise ItemError("no_label", f"`{label.at}` must be a list of votes")
            for number, vote in enumerate(votes, 1):
                name = str(get(vote, label.name)) if label.name else str(number)
                sure = get(vote, label.confidence) if label.confidence else None
                scores = _scores(label.label, vote, k)
                if scores is None:
                    continue
                yield Judgement(f"{who.name}-{name}", who.kind, scores, _confidence(sure), who.cost)
        case AllPairs():
            marks = get(record, label.at)
            pairs = [(a, b) for a in range(k) for b in range(a + 1, k)]
            if not isinstance(marks, list) or len(marks) != len(pairs) or not set(marks) <= {0, 1, 2}:
                raise ItemError("no_label", f"`{label.at}` must hold {len(pairs)} labels of 0, 1 or 2")
            for (a, b), mark in zip(pairs, marks, strict=True):
                scores = [NAN] * k
                scores[a], scores[b] = float(mark == 1), float(mark == 2)
                yield Judgement(who.name, who.kind, tuple(scores), None, who.cost)
        case Sides():
            better, worse = get(record, label.better), get(record, label.worse)
            if not isinstance(better, list) or not isinstance(worse, list):
                raise ItemError("no_response", f"`{label.better}` and `{label.worse}` must be lists")
            scores = (1.0,) * len(better) + (0.0,) * len(worse)
            yield Judgement(who.name, who.kind, scores, None, who.cost)
        case _:
            if (scores := _scores(label, record, k)) is not None:
                yield Judgement(who.name, who.kind, scores, None, who.cost)


def _scores(
    label: Chosen | Scores | Winner | Strength, record: Mapping[str, Any], k: int
) -> tuple[float, ...] | None:
    match label:
        case Chosen():
            return _chosen(label, record)
        case Scores():
            return _numbers(label, record, k)
        case Winner():
            value = get(record, label.at)
            if value is None:
                return None
            word = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
            if word in label.first:
                return 1.0, 0.0
            if word in label.second:
                return 0.0, 1.0
            if word in label.tie:
                return 0.0, 0.0
            known = ", ".join(label.first + label.second + label.tie)
            raise ItemError("no_label", f"`{label.at}` is {word!r} and none of {known}")
        case Strength():
            if get(record, label.at) is None:
                return None
            value = number(get(record, label.at))
            if abs(value) > label.most:
                return None
            if value != value:
                raise ItemError("no_label", f"`{label.at}` must be a number, not {get(record, label.at)!r}")
            value = -value if label.negative_first else value
            return max(value, 0.0), max(-value, 0.0)


def _chosen(label: Chosen, record: Mapping[str, Any]) -> tuple[float, float]:
    if label.scores is None:
        return 1.0, 0.0
    better, worse = label.scores
    first, second = number(get(record, better)), number(get(record, worse))
    if first != first or second != second:
        return 1.0, 0.0
    if first < second:
        reason = f"`{better}` {first:g} is below `{worse}` {second:g}: the labels contradict each other"
        raise ItemError("contradiction", reason)
    return first, second


def _numbers(label: Scores, record: Mapping[str, Any], k: int) -> tuple[float, ...]:
    columns = []
    for at in (label.at, *label.mean):
        values = get(record, at) if isinstance(at, str) else [get(record, own) for own in at]
        if not isinstance(values, list) or len(values) != k:
            raise ItemError("no_label", f"`{at}` must hold a score for each of the {k} responses")
        columns.append([number(value) for value in values])
    scores = columns[0]
    if label.mean:
        scores = [_mean([column[i] for column in columns]) for i in range(k)]
    if label.judged:
        judged = get(record, label.judged)
        if not isinstance(judged, list) or len(judged) != k:
            raise ItemError("no_label", f"`{label.judged}` must hold a value for each of the {k} responses")
        scores = [score if own is not None else NAN for score, own in zip(scores, judged, strict=True)]
    if sum(score == score for score in scores) < 2:
        raise ItemError("no_label", f"`{label.at}` holds a number for fewer than two responses")
    return tuple(k - score for score in scores) if label.ranks else tuple(scores)


def _mean(values: Sequence[float]) -> float:
    there = [value for value in values if value == value]
    return sum(there) / len(there) if there else NAN


def _confidence(value: Any) -> float | None:
    sure = number(value)
    return min(max(sure, 0.0), 1.0) if sure == sure else None


def number(value: Any) -> float:
    """A finite number (also true and false, and a text that is one), else nan."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return NAN
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else NAN


def get(record: Mapping[str, Any], path: str) -> Any:
    """The value at "a.b"; of "a[].b" the list of b of each element of a; None where there is none."""
    value: Any = record
    if path in record:
        return record[path]
    steps = path.split(".")
    for number, step in enumerate(steps):
        each = step.endswith("[]")
        value = value.get(step[:-2] if each else step) if isinstance(value, Mapping) else None
        if each:
            rest = ".".join(steps[number + 1 :])
            if not isinstance(value, list):
                return None
            return [get(own, rest) if isinstance(own, Mapping) else None for own in value] if rest else value
    return value
