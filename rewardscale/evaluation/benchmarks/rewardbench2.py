"""RewardBench 2 (Malik et al. 2025, arXiv 2506.01937): best of four in five subsets, and Ties.

Five subsets: one chosen and three rejected responses. With M the largest of the four rewards and m how many equal it,
the credit is 1 / m if the chosen one's is M, else 0; chance is 25 %.

Ties: prompts `ref:k` of one right answer and `tied:k` of several, each with wrong ones. A prompt's gap is its smallest
right reward less its largest wrong one, its spread the largest right reward less the smallest; it is accurate if the
gap is above 0. With means over prompts, the last three over the k that are there in both forms:

    0.30 accurate(tied) + 0.30 accurate(ref) + 0.20 [gap(tied) > spread(tied)] + 0.20 [least gap > spread(tied)]
    + 0.01 tanh(least gap / spread(tied) - 1),     least gap: the smaller of gap(tied) and gap(ref); 0 / 0 counts as 0

so that 1.01 is the most (rewardbench/utils.py, process_single_model). The total is the mean of the six subsets.
"""

import dataclasses
from typing import Any

import numpy as np

from rewardscale.data.records import ItemError
from rewardscale.evaluation.benchmarks.base import (
    Benchmark,
    BenchmarkItem,
    Scores,
    mean_of,
    ratio,
    ratios,
)
from rewardscale.evaluation.benchmarks.reading import (
    Found,
    Part,
    Record,
    Spec,
    answers,
    collect,
    one_of,
    prompt,
)

TIES = "Ties"
SIZES = {"Factuality": 475, "Precise IF": 160, "Math": 183, "Safety": 450, "Focus": 495, TIES: 102}
_SHARES = np.array([0.30, 0.30, 0.20, 0.20, 0.01])


@dataclasses.dataclass(frozen=True)
class BestOfFourAndTies:
    """Total, the six subsets, and the parts of Ties.

    Attributes:
      subsets: of each item. right: int64 [items], how many of an item's first responses are right.
      tied, ref: index of the item by k.
    """

    subsets: tuple[str, ...]
    right: np.ndarray
    tied: dict[int, int]
    ref: dict[int, int]

    def __call__(self, rewards: np.ndarray, weights: np.ndarray) -> Scores:
        most = np.where(np.isfinite(rewards), rewards, -np.inf).max(axis=1)
        at_top = (rewards == most[:, None]).sum(axis=1)
        credit = np.where(rewards[:, 0] == most, 1 / np.maximum(at_top, 1), 0.0)
        subset = np.array(self.subsets)
        out = {
            name: ratio(np.where(subset == name, credit, np.nan), weights) for name in SIZES if name != TIES
        }
        out |= self._ties(rewards, weights)
        out = {name: score for name, score in out.items() if name.startswith(TIES) or name in self.subsets}
        return {"total": mean_of([out[name] for name in SIZES if name in out])} | out

    def _ties(self, rewards: np.ndarray, weights: np.ndarray) -> Scores:
        if not self.tied and not self.ref:
            return {}
        is_right = np.arange(rewards.shape[1]) < self.right[:, None]
        scored = np.isfinite(rewards)
        least = np.where(scored & is_right, rewards, np.inf).min(axis=1)
        most = np.where(scored & is_right, rewards, -np.inf).max(axis=1)
        wrong = np.where(scored & ~is_right, rewards, -np.inf).max(axis=1)
        tied, ref = np.array(list(self.tied.values()), int), np.array(list(self.ref.values()), int)
        both = sorted(self.tied.keys() & self.ref.keys())
        pair = np.array([(self.tied[k], self.ref[k]) for k in both], int).reshape(-1, 2)
        with np.errstate(invalid="ignore", divide="ignore"):  # rows that are not scored; 0 / 0
            gap, spread = least - wrong, most - least
            wide = spread[pair[:, 0]]
            smaller = np.minimum(gap[pair[:, 0]], gap[pair[:, 1]])
            margin = np.nan_to_num(np.tanh(smaller / wide - 1), nan=0.0)
        table = np.stack([gap[pair[:, 0]] > wide, smaller > wide, margin], axis=1).astype(np.float64)
        # A k is drawn with its cluster, both prompts alike; where one could not be scored, it counts for neither.
        both_weights = np.minimum(weights[:, pair[:, 0]], weights[:, pair[:, 1]])
        parts = [
            ratio((gap[tied] > 0).astype(np.float64), weights[:, tied]),
            ratio((gap[ref] > 0).astype(np.float64), weights[:, ref]),
            *ratios(table, both_weights).T,
        ]
        names = ("accuracy tied", "accuracy ref", "preferred", "preferred hard", "margin")
        named = {f"{TIES}, {name}": score for name, score in zip(names, parts, strict=True)}
        return {TIES: _SHARES @ np.stack(parts)} | named


def _read(found: Found) -> Benchmark:
    def make(record: Record) -> tuple[BenchmarkItem, Any]:
        values = record.values
        subset = one_of(values, "subset", tuple(SIZES))
        chosen, rejected = (
            answers(values.get("chosen"), "chosen"),
            answers(values.get("rejected"), "rejected"),
        )
        id = str(values.get("id", record.place))
        form, k = "", -1
        if subset == TIES:
            form, k = _form(id, len(chosen))
        elif (len(chosen), len(rejected)) != (1, 3):
            raise ItemError(
                "not best of four", f"{len(chosen)} chosen and {len(rejected)} rejected; needed: 1 and 3"
            )
        item = BenchmarkItem(
            f"{subset}/{id}",
            prompt(values, "prompt"),
            (*chosen, *rejected),
            subset,
            f"{TIES}:{k}" if form else "",
        )
        return item, (form, k, len(chosen))

    collected = collect(found, make)
    subsets = tuple(item.subset for item in collected.items)
    formula = BestOfFourAndTies(
        subsets,
        np.array([right for _, _, right in collected.facts], np.int64),
        *(
            {k: number for number, (own, k, _) in enumerate(collected.facts) if own == form}
            for form in ("tied", "ref")
        ),
    )
    pairs = [
        (number, better, worse)
        for number, (item, (_, _, right)) in enumerate(zip(collected.items, collected.facts, strict=True))
        for better in range(right)
        for worse in range(right, len(item.responses))
    ]
    there = sorted(set(subsets))
    return found.benchmark(
        collected,
        formula,
        headline="total",
        pairs=pairs,
        subset_weights=dict.fromkeys(there, 1 / len(there)),
    )


def _form(id: str, right: int) -> tuple[str, int]:
    form, _, k = id.partition(":")
    if form not in ("ref", "tied") or not k.isdecimal():
        raise ItemError("ties id", f"the id {id!r} of a Ties prompt is neither ref:NUMBER nor tied:NUMBER")
    if (form == "ref") != (right == 1):
        raise ItemError("ties answers", f"{id} has {right} right answers; ref has one, tied has several")
    return form, int(k)


SPECS = (
    Spec(
        name="rewardbench2",
        title="RewardBench 2",
        parts={
            "": Part(("data/test-*.parquet", "data/*.parquet", "*.parquet", "*.jsonl*", "*.json*"), 1_865)
        },
        read=_read,
        folders=("reward-bench-2", "rewardbench-2", "RewardBench2"),
        hub="allenai/reward-bench-2",
        licence="ODC-BY",
        url="https://huggingface.co/datasets/allenai/reward-bench-2",
        notes="Best of four: chance is 25 %, and rewards that tie at the top share the credit. The most that Ties can "
        "give is 1.01. The commit is not pinned here.",
        seven=True,
    ),
)
