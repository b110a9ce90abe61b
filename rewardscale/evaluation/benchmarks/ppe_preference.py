"""PPE, human preference (Frick et al. 2024, arXiv 2410.14872): votes of Chatbot Arena's visitors.

The score is the accuracy on votes that are no ties; a tie of rewards is wrong. The official scorer was not at hand:
that votes `tie` and `tie (bothbad)` are left out is what papers do that print about 10.2 thousand pairs of the 16,038.
"""

import dataclasses

import numpy as np

from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Scores, ratio, ratios
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

WINNERS = ("model_a", "model_b")
_TIES = ("tie", "tie (bothbad)", "both_bad")
_FLAGS = {
    "hard_prompt": "hard",
    "easy_prompt": "easy",
    "if_prompt": "instruction following",
    "is_code": "code",
    "math_prompt": "math",
    "is_refusal": "refusal",
}


@dataclasses.dataclass(frozen=True)
class Votes:
    """Accuracy, then in categories, which overlap.

    Attributes:
      right: int64 [items], 0 where response_1 won and 1 where response_2 did. categories: bool [items] by name.
    """

    right: np.ndarray
    categories: dict[str, np.ndarray]

    def __call__(self, rewards: np.ndarray, weights: np.ndarray) -> Scores:
        rows = np.arange(len(rewards))
        difference = rewards[rows, self.right] - rewards[rows, 1 - self.right]
        win = (difference > 0).astype(np.float64)
        out = {"accuracy": ratio(win, weights)}
        table = np.stack([np.where(own, win, np.nan) for own in self.categories.values()], axis=1)
        out |= dict(zip(self.categories, ratios(table, weights).T, strict=True))
        return out | {"ties": ratio((difference == 0).astype(np.float64), weights)}


def _read(found: Found) -> Benchmark:
    def make(record: Record) -> tuple[BenchmarkItem, tuple[int, set[str]]] | None:
        values = record.values
        winner = one_of(values, "winner", (*WINNERS, *_TIES))
        if winner in _TIES:
            return None
        responses = tuple(answer(values.get(key), key) for key in ("response_1", "response_2"))
        language = str(values.get("language") or "unknown")
        right = WINNERS.index(winner)
        own = {name for key, name in _FLAGS.items() if values.get(key) is True}
        own.add("english" if language.lower() == "english" else "not english")
        longer = int(len(responses[1]) > len(responses[0]))
        if len(responses[0]) != len(responses[1]):
            own.add("the longer won" if longer == right else "the shorter won")
        if language.lower() in ("chinese", "russian"):
            own.add(language.lower())
        item = BenchmarkItem(
            str(values.get("question_id", record.place)), prompt(values, "prompt"), responses, language
        )
        return item, (right, own)

    collected = collect(found, make, rename=True)
    names = sorted({name for _, own in collected.facts for name in own})
    right = np.array([side for side, _ in collected.facts], np.int64)
    return found.benchmark(
        collected,
        Votes(right, {name: np.array([name in own for _, own in collected.facts]) for name in names}),
        headline="accuracy",
        pairs=[(number, side, 1 - side) for number, side in enumerate(right.tolist())],
        expected=found.spec.expected - collected.by_rule,  # ties are votes that were read, and of no use
    )


SPECS = (
    Spec(
        name="ppe-preference",
        title="PPE Preference",
        parts={
            "": Part(("data/test-*.parquet", "data/*.parquet", "*.parquet", "*.jsonl*", "*.json*"), 16_038)
        },
        read=_read,
        folders=("PPE-Human-Preference-V1",),
        hub="lmarena-ai/PPE-Human-Preference-V1",
        licence="CC-BY-4.0 (prompts); answers are under each model provider's terms; for evaluation only",
        url="https://huggingface.co/datasets/lmarena-ai/PPE-Human-Preference-V1",
        notes="Votes that are ties are left out. One vote a pair. The commit is not pinned here.",
        seven=True,
    ),
)
