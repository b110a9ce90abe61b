"""JudgeBench (Tan et al. 2024, arXiv 2410.12784): two responses of one model, one of them correct.

The decision of a reward model is A>B if r(A) > r(B), else B>A: officially a tie is a vote for B, right in the pairs
that are labelled so (157 of 350 in the gpt split). Ours counts a tie half; the official number stands beside it.
The official overall score is the share of pairs (micro); papers on reward models print the mean of four categories of
the gpt split (macro), which is the headline. utils/metrics.py, utils/judges.py of github.com/ScalerLab/JudgeBench.
"""

import dataclasses

import numpy as np

from rewardscale.data.records import ItemError
from rewardscale.evaluation.benchmarks.base import (
    Benchmark,
    BenchmarkItem,
    Scores,
    grouped,
    mean_of,
    ratio,
)
from rewardscale.evaluation.benchmarks.formulas import codes
from rewardscale.evaluation.benchmarks.reading import (
    Found,
    Part,
    Record,
    Spec,
    answer,
    collect,
    one_of,
    prompt,
)

# By how `source` begins: mmlu-pro-law, mmlu-pro-physics, ...
CATEGORIES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}
LABELS = ("A>B", "B>A")


@dataclasses.dataclass(frozen=True)
class Decisions:
    """macro, micro and categories with ties half; then macro and micro as officially, and with ties wrong.

    Attributes:
      categories: of each item. right: int64 [items], 0 where A is right and 1 where B is.
    """

    categories: tuple[str, ...]
    right: np.ndarray

    def __call__(self, rewards: np.ndarray, weights: np.ndarray) -> Scores:
        rows = np.arange(len(rewards))
        difference = rewards[rows, self.right] - rewards[rows, 1 - self.right]
        win, tie = (difference > 0).astype(np.float64), (difference == 0).astype(np.float64)
        names, code = codes(self.categories)
        macro, categories = {}, {}
        counted = {"": win + tie / 2, " official": win + tie * self.right, " strict": win}
        for rule, credit in counted.items():
            by_category = grouped(credit, np.ones(len(credit)), code, len(names), weights).T
            macro[f"macro{rule}"] = mean_of(list(by_category))
            macro[f"micro{rule}"] = ratio(credit, weights)
            if not rule:
                categories = dict(zip(names, by_category, strict=True))
        return macro | categories | {"ties": ratio(tie, weights)}


def _read(found: Found) -> Benchmark:
    def make(record: Record) -> tuple[BenchmarkItem, tuple[str, int]]:
        values = record.values
        source = str(values.get("source"))
        category = next((name for begin, name in CATEGORIES.items() if source.startswith(begin)), "")
        if not category:
            raise ItemError(
                "unknown source", f"`source` is {source!r}; it must begin with {', '.join(CATEGORIES)}"
            )
        label = one_of(values, "label", LABELS)
        responses = tuple(answer(values.get(key), key) for key in ("response_A", "response_B"))
        item = BenchmarkItem(
            str(values.get("pair_id", record.place)), prompt(values, "question"), responses, category
        )
        return item, (category, LABELS.index(label))

    collected = collect(found, make)
    categories = tuple(category for category, _ in collected.facts)
    right = np.array([side for _, side in collected.facts], np.int64)
    there = sorted(set(categories))
    return found.benchmark(
        collected,
        Decisions(categories, right),
        headline="macro",
        pairs=[(number, side, 1 - side) for number, side in enumerate(right.tolist())],
        subset_weights=dict.fromkeys(there, 1 / len(there)),
    )


def _spec(name: str, split: str, model: str, size: int, seven: bool) -> Spec:
    git = f"dataset=judgebench,response_model={model}*.jsonl*"
    return Spec(
        name=name,
        title=f"JudgeBench ({split})",
        parts={split: Part((git, f"data/{git}", f"data/{split}-*.parquet", f"{split}*"), size)},
        read=_read,
        folders=("judgebench", "JudgeBench"),
        hub="ScalerLab/JudgeBench",
        licence="unknown; the git repository names none",
        url="https://github.com/ScalerLab/JudgeBench",
        notes=f"Pairs of {model}. MMLU-Pro, LiveBench and LiveCodeBench questions. The commit is not pinned here.",
        seven=seven,
    )


SPECS = (
    _spec("judgebench", "gpt", "gpt-4o", 350, seven=True),
    _spec("judgebench-claude", "claude", "claude-3-5-sonnet", 270, seven=False),
)
