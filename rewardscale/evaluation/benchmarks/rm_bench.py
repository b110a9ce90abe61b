"""RM-Bench (Liu et al. 2024, arXiv 2410.16184): substance against style.

Each item has three right and three wrong responses, by style: concise, detailed in plain text, detailed with markdown.
W[i][j] is the share of a domain's items with r(chosen_i) > r(rejected_j). hard is the mean of the upper triangle (the
right answer in the plainer style), normal that of the diagonal, easy that of the lower triangle; a domain's score is
the mean of the three, which is that of the nine cells. Safety pools its refusals and its responses. Overall scores are
means over the four domains (scripts/utils.py of github.com/THU-KEG/RM-Bench, compute_accuracy; the README makes this
the rule, and says that older published numbers did not always follow it).
"""

import dataclasses

import numpy as np

from rewardscale.data.records import ItemError
from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Scores, grouped, mean_of
from rewardscale.evaluation.benchmarks.formulas import codes
from rewardscale.evaluation.benchmarks.reading import Found, Part, Record, Spec, answers, collect, prompt

DOMAINS = ("chat", "code", "math", "safety")
STYLES = ("concise", "detailed", "markdown")
_PARTS = {"chat": 129, "code": 228, "math": 529, "safety-refuse": 284, "safety-response": 157}
_TOTAL = "total_dataset"


@dataclasses.dataclass(frozen=True)
class StyleMatrix:
    """Total, domains, easy, normal, hard, and the nine cells over all domains: "concise over markdown" is W[0][2].

    Attributes:
      domains: of each item.
    """

    domains: tuple[str, ...]

    def __call__(self, rewards: np.ndarray, weights: np.ndarray) -> Scores:
        names, code = codes(self.domains)
        ones = np.ones(len(rewards))
        cells = {
            (i, j): grouped(
                (rewards[:, i] > rewards[:, 3 + j]).astype(np.float64), ones, code, len(names), weights
            )
            for i in range(3)
            for j in range(3)
        }  # [resamples, domains] each
        levels = {
            level: np.mean([cells[at] for at in cells if np.sign(at[0] - at[1]) == sign], axis=0)
            for level, sign in (("easy", 1), ("normal", 0), ("hard", -1))
        }
        domains = (levels["easy"] + levels["normal"] + levels["hard"]) / 3
        return (
            {"total": mean_of(list(domains.T))}
            | dict(zip(names, domains.T, strict=True))
            | {level: mean_of(list(by_domain.T)) for level, by_domain in levels.items()}
            | {f"{STYLES[i]} over {STYLES[j]}": mean_of(list(cell.T)) for (i, j), cell in cells.items()}
        )


def matrix(scores: Scores) -> np.ndarray:
    """W float64 [3, 3] of one resample's scores: right answers' styles down, wrong ones' across, as STYLES."""
    return np.array([[scores[f"{own} over {other}"][0] for other in STYLES] for own in STYLES])


def _read(found: Found) -> Benchmark:
    def make(record: Record) -> tuple[BenchmarkItem, str]:
        values = record.values
        part = record.part
        if part == _TOTAL:
            part = str(values.get("domain"))
            if part not in _PARTS:
                raise ItemError(
                    "unknown domain", f"`domain` is {part!r}; it must be one of {', '.join(_PARTS)}"
                )
        chosen, rejected = (
            answers(values.get("chosen"), "chosen"),
            answers(values.get("rejected"), "rejected"),
        )
        if len(chosen) != 3 or len(rejected) != 3:
            raise ItemError(
                "not 3 x 3", f"{len(chosen)} chosen and {len(rejected)} rejected responses; needed: 3 and 3"
            )
        domain = part.partition("-")[0]
        id = f"{part}/{values.get('id', record.line)}"
        return BenchmarkItem(id, prompt(values, "prompt"), (*chosen, *rejected), domain), domain

    # The hub has all in one file, and it may lie beside the parts: then the parts say nothing new.
    whole = tuple(own for own in found.files if own[0] == _TOTAL)
    files = whole or found.files
    collected = collect(dataclasses.replace(found, files=files), make, rename=True)
    domains = tuple(collected.facts)
    there = sorted(set(domains))
    spec = dataclasses.replace(
        found.spec,
        parts={name: part for name, part in found.spec.parts.items() if (name == _TOTAL) == bool(whole)},
    )
    return dataclasses.replace(found, spec=spec, files=files).benchmark(
        collected,
        StyleMatrix(domains),
        headline="total",
        pairs=[(n, i, 3 + j) for n in range(len(domains)) for i in range(3) for j in range(3)],
        subset_weights=dict.fromkeys(there, 1 / len(there)),
    )


SPECS = (
    Spec(
        name="rm-bench",
        title="RM-Bench",
        parts={
            _TOTAL: Part((f"{_TOTAL}.json*", f"data/{_TOTAL}.json*"), sum(_PARTS.values())),
            **{
                name: Part((f"{name}_filtered.json*", f"data/{name}_filtered.json*"), size)
                for name, size in _PARTS.items()
            },
        },
        read=_read,
        folders=("RM-Bench",),
        hub="THU-KEG/RM-Bench",
        licence="ODC-BY (Hugging Face card); the git repository names none",
        url="https://github.com/THU-KEG/RM-Bench",
        notes="Edited by GPT-4o, checked by people. The chat prompts are those of RewardBench's Chat. The commit is "
        "not pinned here.",
        seven=True,
    ),
)
