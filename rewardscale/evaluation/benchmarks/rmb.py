"""RMB (Zhou et al. 2024, arXiv 2410.09893): pairs and best-of-N lists, for helpfulness and for harmlessness.

A pair is right if the chosen response's reward is the larger, a list if that of its best response is larger than every
loser's; ties are wrong. Each of the four parts is the share of its items (micro, over all scenarios), the total their
mean: eval/scripts/my_run_rm.py of github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark for the parts, run_rm_bestofn.py and
process_final_result.py of github.com/RM-R1-UIUC/RM-R1 for the rest. Conversations may have several turns.

    RMB_dataset/{Pairwise_set,BoN_set}/{Helpfulness/TASK/SCENARIO,Harmlessness/SCENARIO}.json
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rewardscale.data.records import ItemError
from rewardscale.evaluation.benchmarks.base import (
    Benchmark,
    BenchmarkItem,
    Scores,
    grouped,
    mean_of,
)
from rewardscale.evaluation.benchmarks.formulas import codes, first_beats_all
from rewardscale.evaluation.benchmarks.reading import Found, Part, Record, Spec, answer, collect, prompt

_FOLDERS = {"pairwise": "Pairwise_set", "best-of-N": "BoN_set"}
_GOALS = {"helpfulness": "Helpfulness", "harmlessness": "Harmlessness"}
_SIZES = {
    "pairwise helpfulness": 10_067,
    "pairwise harmlessness": 7_064,
    "best-of-N helpfulness": 2_109,
    "best-of-N harmlessness": 1_677,
}


@dataclasses.dataclass(frozen=True)
class FourParts:
    """Total, the four parts, means over kinds and goals, and items of one turn and of several by kind.

    Attributes:
      parts: of each item, as "pairwise helpfulness". several_turns: bool [items].
    """

    parts: tuple[str, ...]
    several_turns: np.ndarray

    def __call__(self, rewards: np.ndarray, weights: np.ndarray) -> Scores:
        right, ones = first_beats_all(rewards), np.ones(len(rewards))
        names, code = codes(self.parts)
        parts = dict(zip(names, grouped(right, ones, code, len(names), weights).T, strict=True))
        out = {"total": mean_of(list(parts.values()))} | parts
        for word in (*_FOLDERS, *_GOALS):
            if own := [score for name, score in parts.items() if word in name.split()]:
                out[word] = mean_of(own)
        turns = [
            f"{part.partition(' ')[0]}, {'several turns' if several else 'one turn'}"
            for part, several in zip(self.parts, self.several_turns, strict=True)
        ]
        names, code = codes(turns)
        return out | dict(zip(names, grouped(right, ones, code, len(names), weights).T, strict=True))


def _read(found: Found) -> Benchmark:
    def make(record: Record) -> tuple[BenchmarkItem, tuple[str, bool]]:
        values = record.values
        kind = record.part.partition(" ")[0]
        if kind == "pairwise":
            responses = (_text(values, "chosen"), _text(values, "reject"))
            id = values.get("pair_uid")
        else:
            losers = values.get("loser_list")
            if not isinstance(losers, list) or not losers:
                raise ItemError("no_response", "`loser_list` must be a list of responses, at least one")
            responses = (_text(values, "bon_best"), *(_text({"loser": own}, "loser") for own in losers))
            id = values.get("bon_uid")
        messages = prompt(values, "conversation_input")
        id = f"{record.part}/{record.file.name}:{record.line}" if id is None else f"{record.part}/{id}"
        item = BenchmarkItem(id, messages, responses, record.part)
        return item, (record.part, sum(own.role == "user" for own in messages) > 1)

    collected = collect(found, make, rename=True)
    parts = tuple(part for part, _ in collected.facts)
    there = sorted(set(parts))
    return found.benchmark(
        collected,
        FourParts(parts, np.array([several for _, several in collected.facts])),
        headline="total",
        pairs=[
            (n, 0, loser) for n, item in enumerate(collected.items) for loser in range(1, len(item.responses))
        ],
        subset_weights=dict.fromkeys(there, 1 / len(there)),
    )


def _text(values: Mapping[str, Any], key: str) -> str:
    """The `answer` of {"llm_name", "answer", ...} at a key."""
    own = values.get(key)
    if not isinstance(own, Mapping):
        raise ItemError("no_response", f"`{key}` must be an object with an `answer`")
    return answer(own.get("answer"), f"{key}.answer")


def _part(kind: str, goal: str) -> Part:
    below = f"{_FOLDERS[kind]}/{_GOALS[goal]}/**/*.json*"
    flat = below.replace("/**/", "__").replace("/", "__")  # where "/" of the path became "__"
    return Part((f"RMB_dataset/{below}", below, flat, f"*__{flat}"), _SIZES[f"{kind} {goal}"])


SPECS = (
    Spec(
        name="rmb",
        title="RMB",
        parts={f"{kind} {goal}": _part(kind, goal) for kind in _FOLDERS for goal in _GOALS},
        read=_read,
        folders=("RMB", "RMB-Reward-Model-Benchmark", "RMB_dataset"),
        licence="unknown; the authors name none",
        url="https://github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark",
        notes="Harmlessness counts multi.json. 14 % of the pairs are of several turns. Labelled by a model, checked by "
        "people.",
        seven=True,
    ),
)
