"""PPE, correctness (Frick et al. 2024, arXiv 2410.14872): 32 answers a question to five verifiable benchmarks.

Each benchmark's score is the accuracy on its sampled pairs of a right and a wrong answer (`sampled_conflict_pairs`:
five a question, as they were sampled: a pair may be there twice); a tie of rewards is wrong. The headline is the mean
of the five: that is what the printed numbers of reward models fit, the official scorer was not at hand. Beside it: the
area under the ROC curve over all answers of a benchmark, and the share of right answers when the best of K is taken.
MBPP-Plus carries most of the published best-of-K gap, so the mean without it stands beside that with it.
"""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

from rewardscale.data.records import ItemError
from rewardscale.evaluation.benchmarks.base import (
    Benchmark,
    BenchmarkItem,
    Scores,
    grouped,
    mean_of,
    padded,
)
from rewardscale.evaluation.benchmarks.formulas import curve, pooled_auc, right_pairs
from rewardscale.evaluation.benchmarks.reading import (
    Found,
    Part,
    Record,
    Spec,
    answer,
    collect,
    prompt,
)

SIZES = {"MMLU-Pro": 512, "MATH": 512, "GPQA": 512, "MBPP-Plus": 507, "IFEval": 512}
_APART = "MBPP-Plus"
ANSWERS = 32
POINTS = (1, 2, 4, 8, 16, 32)


@dataclasses.dataclass(frozen=True)
class ConflictPairs:
    """Total, the five accuracies, the mean without MBPP-Plus, AUCs and best-of-K points.

    Attributes:
      sets: of each item. pairs: int64 [pairs, 3], the sampled ones. quality: float64 [items, most responses].
    """

    sets: tuple[str, ...]
    pairs: np.ndarray
    quality: np.ndarray

    def __call__(self, rewards: np.ndarray, weights: np.ndarray) -> Scores:
        there = [name for name in SIZES if name in self.sets]
        code = np.array([there.index(name) for name in self.sets])
        pairs, right, ties = right_pairs(rewards, self.pairs)
        accuracy = dict(zip(there, grouped(right, pairs, code, len(there), weights).T, strict=True))
        out = {"total": mean_of(list(accuracy.values()))} | accuracy
        if rest := [score for name, score in accuracy.items() if name != _APART]:
            out[f"without {_APART}"] = mean_of(rest)
        item, column = np.nonzero(np.isfinite(self.quality))
        auc, points = {}, {}
        for number, name in enumerate(there):
            own = code[item] == number
            at = item[own], column[own]
            auc[f"{name} auc"] = pooled_auc(rewards[at], self.quality[at] > 0.5, at[0], weights)
            members = code == number
            points[name] = curve(rewards[members], self.quality[members], POINTS, weights[:, members])
        out["auc"] = mean_of(list(auc.values()))
        for point in next(iter(points.values())):
            out[point] = mean_of([own[point] for own in points.values()])
        out |= auc | {
            f"{name} {point}": score for name, own in points.items() for point, score in own.items()
        }
        return out | {"ties": grouped(ties, pairs, np.zeros(len(pairs), int), 1, weights)[:, 0]}


def _read(found: Found) -> Benchmark:
    left_out: Counter[str] = Counter()

    def make(record: Record) -> tuple[BenchmarkItem, tuple[list[float], list[tuple[int, int]]]]:
        values = record.values
        scores = values.get("scores")
        if (
            not isinstance(scores, list)
            or len(scores) != ANSWERS
            or not all(_is_score(own) for own in scores)
        ):
            raise ItemError("scores", f"`scores` must be a list of {ANSWERS} times true or false, or 1 or 0")
        responses, place = [], {}
        for number in range(ANSWERS):
            key = f"response_{number + 1}"
            if key not in values:
                raise ItemError("no_response", f"`{key}` is missing")
            try:
                text = answer(values[key], key)
            except ItemError as error:
                left_out[f"answer: {error.code}"] += 1
                continue
            place[number] = len(responses)
            responses.append(text)
        kept = sorted(place)
        if len(kept) < 2:
            raise ItemError("no_response", "fewer than two answers hold a text")
        pairs = _pairs(values.get("sampled_conflict_pairs"), scores, place, left_out)
        id = f"{record.part}/{values.get('question_id', record.line)}/{values.get('model_name', '')}"
        item = BenchmarkItem(id, prompt(values, "prompt"), tuple(responses), record.part)
        return item, ([float(scores[number]) for number in kept], pairs)

    collected = collect(found, make, rename=True)
    collected.missing.update(left_out)
    quality = padded([own for own, _ in collected.facts])
    pairs = np.array(
        [(number, *own) for number, (_, pairs) in enumerate(collected.facts) for own in pairs], np.int64
    ).reshape(-1, 3)
    sets = tuple(item.subset for item in collected.items)
    there = sorted(set(sets))
    return found.benchmark(
        collected,
        ConflictPairs(sets, pairs, quality),
        headline="total",
        pairs=pairs,
        subset_weights=dict.fromkeys(there, 1 / len(there)),
        quality=quality,
    )


def _pairs(
    given: Any, scores: list[Any], place: dict[int, int], left_out: Counter[str]
) -> list[tuple[int, int]]:
    """(right, wrong) of each sampled pair, by where the answers are among those kept."""
    if not isinstance(given, list) or not given:
        raise ItemError(
            "no pairs", "`sampled_conflict_pairs` must be a list of pairs of indices, at least one"
        )
    out = []
    for pair in given:
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(own) is int for own in pair):
            raise ItemError("pairs", f"`sampled_conflict_pairs` holds {pair!r}; needed: two indices")
        if not all(0 <= own < ANSWERS for own in pair):
            raise ItemError("pairs", f"`sampled_conflict_pairs` names answer {max(pair)} of {ANSWERS}")
        better, worse = sorted(pair, key=lambda own: -float(scores[own]))
        if float(scores[better]) == float(scores[worse]):
            left_out["pair: both right or both wrong"] += 1
        elif better not in place or worse not in place:
            left_out["pair: of an answer that is left out"] += 1
        else:
            out.append((place[better], place[worse]))
    return out


def _is_score(value: Any) -> bool:
    return isinstance(value, bool | int | float) and float(value) in (0.0, 1.0)


def _part(name: str, size: int) -> Part:
    folder = f"PPE-{name}-Best-of-K"
    globs = (
        f"{folder}/data/*.parquet",
        f"{folder}/*.parquet",
        f"{folder}/*.json*",
        f"{folder}.*",
        f"{name}.*",
    )
    return Part(globs, size, f"lmarena-ai/{folder}")


SPECS = (
    Spec(
        name="ppe-correctness",
        title="PPE Correctness",
        parts={name: _part(name, size) for name, size in SIZES.items()},
        read=_read,
        folders=("PPE", "ppe"),
        licence="each benchmark's own terms, and each model provider's",
        url="https://huggingface.co/lmarena-ai",
        notes="Questions that between 10 % and 90 % of the samples answer rightly. MBPP-Plus alone carries most of the "
        "published best-of-K gap. Made of MMLU-Pro, MATH, GPQA, MBPP-Plus and IFEval questions.",
        seven=True,
    ),
)
