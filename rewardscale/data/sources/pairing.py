"""From comparisons of K responses to pairs."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from rewardscale.config import ConfigError
from rewardscale.data.comparison import Comparison
from rewardscale.data.sources.judged import Judged, Judgement

How = Literal["all", "best_worst", "best_random", "adjacent", "keep"]


def to_pairs(
    judged: Iterable[Judged],
    how: How = "all",
    *,
    margin: float = 0.0,
    most: int | None = None,
    ties: bool = False,
    seed: int = 0,
    left_out: Counter[str] | None = None,
) -> Iterator[Judged]:
    """Pairs whose order says nothing about which is better: by a hash of the texts.

    A pair carries the judgements of both its responses, in their order; what is better is `label` of these. No pair
    holds the same text twice. The same input and arguments give the same pairs.

    Args:
      how: of K > 2 responses, "all" pairs; the best with the worst; the best with a random worse one; neighbours in
        the order of the scores; or "keep" the K responses as they are. A comparison of two is one pair in any case.
      margin: pairs whose scores differ by less are left out.
      most: pairs of one comparison at most; which of them is drawn by `seed`.
      ties: whether pairs of equal scores are kept.
      seed: of all that is drawn; each comparison has its own draw.
      left_out: counts what is not yielded: "tie", "margin", "most", "identical", "not_judged".

    Raises ConfigError for another `how`.
    """
    if how not in get_args(How):
        raise ConfigError(f"pairs={how!r} must be one of {', '.join(get_args(How))}")
    count = Counter() if left_out is None else left_out
    for own in judged:
        if len(own.comparison.responses) == 2:
            if _keep(own, 0, 1, margin, ties, count):
                yield _pair(own, 0, 1)
            continue
        if how == "keep":
            yield own
            continue
        wanted = _wanted(own, how, seed)
        made = [(a, b) for a, b in wanted if _keep(own, a, b, margin, ties, count)]
        if most is not None and len(made) > most:
            count["most"] += len(made) - most
            identity = own.comparison.id
            made = sorted(sorted(made, key=lambda pair: _draw(identity, seed, *pair))[:most])
        for a, b in made:
            yield _pair(own, a, b)


def published_pair(
    own: Judged, *, margin: float = 0.0, left_out: Counter[str] | None = None
) -> Judged | None:
    """A comparison of two as `to_pairs` gives it, ties included, or None (counted in `left_out`)."""
    one, other = own.comparison.responses
    sign, difference = label(own.judgements)
    reason = ""
    if one == other:
        reason = "identical"
    elif sign and difference < margin:
        reason = "margin"
    elif not sign and not any(_both(judgement, 0, 1) for judgement in own.judgements):
        reason = "not_judged"
    if reason:
        if left_out is not None:
            left_out[reason] += 1
        return None
    return _pair(own, 0, 1)


def label(judgements: Sequence[Judgement], first: int = 0, second: int = 1) -> tuple[int, float]:
    """(+1 if the first response is the better one, -1 the second, 0 a tie or nobody judged both; score difference).

    The source's own verdicts (kind "source") decide where there are any, otherwise all judgements, by the mean of
    their score differences. The difference is not negative.
    """
    differences = _differences([own for own in judgements if own.kind == "source"], first, second)
    differences = differences or _differences(judgements, first, second)
    if not differences:
        return 0, 0.0
    mean = sum(differences) / len(differences)
    return (mean > 0) - (mean < 0), abs(mean)


def _differences(judgements: Sequence[Judgement], first: int, second: int) -> list[float]:
    found = [own.scores[first] - own.scores[second] for own in judgements]
    return [difference for difference in found if difference == difference]


def text_order(text: str) -> bytes:
    """What pairs are ordered by (8 bytes): nothing that a model could learn from."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()


def _wanted(own: Judged, how: How, seed: int) -> list[tuple[int, int]]:
    """Positions of the responses to pair, before anything is left out."""
    k = len(own.comparison.responses)
    if how == "all":
        return list(itertools.combinations(range(k), 2))
    scores = _scores(own, k)
    judged = [i for i in range(k) if scores[i] == scores[i]]
    identity = own.comparison.id
    # Best first; equals in an order that is drawn, so that the source's order does not choose.
    ranked = sorted(judged, key=lambda i: (-scores[i], _draw(identity, seed, i)))
    if len(ranked) < 2:
        return []
    match how:
        case "adjacent":
            return list(itertools.pairwise(ranked))
        case "best_random":
            best, *rest = ranked
            worse = [i for i in rest if scores[i] < scores[best]] or rest
            return [(best, min(worse, key=lambda i: _draw(identity, seed + 1, i)))]
        case _:
            return [(ranked[0], ranked[-1])]


def _scores(own: Judged, k: int) -> list[float]:
    """The mean score of each response by those whose verdict counts; nan where none judged it."""
    counting = [judgement for judgement in own.judgements if judgement.kind == "source"] or own.judgements
    out = []
    for i in range(k):
        scores = [judgement.scores[i] for judgement in counting if judgement.scores[i] == judgement.scores[i]]
        out.append(sum(scores) / len(scores) if scores else float("nan"))
    return out


def _keep(own: Judged, a: int, b: int, margin: float, ties: bool, count: Counter[str]) -> bool:
    responses = own.comparison.responses
    if responses[a] == responses[b]:
        count["identical"] += 1
        return False
    sign, difference = label(own.judgements, a, b)
    if sign:
        if difference < margin:
            count["margin"] += 1
            return False
        return True
    if not any(_both(judgement, a, b) for judgement in own.judgements):
        count["not_judged"] += 1
        return False
    if not ties:
        count["tie"] += 1
    return ties


def _pair(own: Judged, a: int, b: int) -> Judged:
    whole = own.comparison
    first, second = whole.responses[a], whole.responses[b]
    one, other = text_order(first), text_order(second)
    if other < one or (other == one and second < first):
        a, b, first, second = b, a, second, first
    elif len(whole.responses) == 2 and all(_both(judgement, a, b) for judgement in own.judgements):
        return own
    judgements = tuple(
        Judgement(j.annotator, j.kind, (j.scores[a], j.scores[b]), j.confidence, j.cost)
        for j in own.judgements
        if _both(j, a, b)
    )
    pair = Comparison(whole.prompt, (first, second), whole.source, whole.split, whole.category, whole.group)
    return Judged(pair, judgements)


def _both(judgement: Judgement, a: int, b: int) -> bool:
    return judgement.scores[a] == judgement.scores[a] and judgement.scores[b] == judgement.scores[b]


def _draw(identity: str, seed: int, *which: int) -> bytes:
    text = f"{seed}:{identity}:{which}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
