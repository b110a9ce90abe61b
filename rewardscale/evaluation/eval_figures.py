"""The figures of an evaluation's page, each with its caption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from rewardscale.evaluation import figures
from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.benchmarks.registry import SEVEN
from rewardscale.evaluation.benchmarks.rm_bench import STYLES
from rewardscale.evaluation.outcomes import Outcome
from rewardscale.evaluation.published import LABEL, published
from rewardscale.evaluation.resampling import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BESIDE = (
    "Skywork-Reward-V2-Llama-3.1-8B-40M",
    "Skywork-Reward-V2-Qwen3-0.6B",
    "INF-ORM-Llama3.1-70B",
)
Drawn = tuple[str, str, str, "Figure"]  # section, name, caption, figure
Outcomes = Mapping[str, Mapping[str, Outcome]]  # model -> benchmark


def draw(
    benchmarks: Sequence[Benchmark],
    of: Outcomes,
    controls: Mapping[str, Mapping[str, float]],
    agreement: Mapping[str, pl.DataFrame],
) -> Iterator[Drawn]:
    """All figures that the evaluation gives cause to.

    Args:
      controls: control -> benchmark -> score. agreement: of each benchmark, compare_models.MATRIX.
    """
    shown = {b.name: b.shown_name for b in benchmarks}
    scores = {m: {shown[b]: one.score for b, one in own.items() if one.scores} for m, own in of.items()}
    marks = {c: {shown[b]: value for b, value in own.items()} for c, own in controls.items()}
    caption = "Headline scores with 95 % intervals by clusters of items; grey: controls."
    yield "scores", "scores", caption, figures.scores(scores, marks)
    if any(name in shown for name in SEVEN):
        caption = f"The seven that are here, beside {LABEL}. Ours is of the part that its name says."
        yield "published", "seven", caption, figures.scores(_beside(of, shown))
    if styled := {m: _styles(own["rm-bench"]) for m, own in of.items() if "rm-bench" in own}:
        caption = (
            "RM-Bench: how often a right answer in one style beats a wrong one in another, all domains alike."
        )
        yield "styles", "styles", caption, figures.style_matrix(styled, STYLES)
    for b in benchmarks:
        yield from _of_one(b, {m: own[b.name] for m, own in of.items()})
        if b.name in agreement:
            caption = f"{b.shown_name}: pairs judged alike, and agreement beyond the models' own accuracies."
            yield "agreement", f"agreement-{b.name}", caption, figures.agreement(agreement[b.name])


def _of_one(b: Benchmark, own: Mapping[str, Outcome]) -> Iterator[Drawn]:
    safe = "".join(c if c.isalnum() else "-" for c in b.name)
    for number, (model, one) in enumerate(own.items()):
        if one.calibration is not None:
            caption = f"{b.shown_name}, {model}: share of right pairs against the confidence claimed, 95 % by clusters."
            drawing = figures.reliability(one.calibration, b.title)
            yield "calibration", f"reliability-{safe}-{number}", caption, drawing
    curves = {model: one.best_of for model, one in own.items() if one.best_of is not None}
    together = (
        [curves] if len({c.prompts for c in curves.values()}) == 1 else [{m: c} for m, c in curves.items()]
    )
    for number, some in enumerate(together):
        if some:
            first = next(iter(some.values()))
            caption = f"{b.shown_name}: quality of the highest reward's response among n; {first.prompts:,} prompts."
            yield "best_of_n", f"best-of-{safe}-{number}", caption, figures.best_of(some)


def _beside(of: Outcomes, shown: Mapping[str, str]) -> dict[str, dict[str, Interval]]:
    there = [name for name in SEVEN if name in shown]
    out = {m: {shown[b]: own[b].score for b in there if own[b].scores} for m, own in of.items()}
    for row in published().rows:
        if row.model in BESIDE:
            values = {shown[b]: row.scores[b] for b in there if b in row.scores}
            out[f"{row.model} (published)"] = {
                b: Interval(value, None, None, None, 0, 0) for b, value in values.items()
            }
    return out


def _styles(one: Outcome) -> np.ndarray:
    """float64 [styles, styles], right answers' styles down."""
    table = [[one.scores.get(f"{a} over {b}") for b in STYLES] for a in STYLES]
    return np.array([[np.nan if cell is None else cell.estimate for cell in row] for row in table])
