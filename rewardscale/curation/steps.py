"""Finished steps of a pass: a folder each, written whole, so a killed run goes on at the step it was in.

iterations/000/                 stage 0
iterations/001/ ...             stage 1
iterations/stage-2/
    selected.parquet            the pairs of the step and why they were chosen
    report.json                 what the step found
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale import atomic
from rewardscale.curation.inputs import Inputs
from rewardscale.curation.known import Known
from rewardscale.curation.rewards import Labels, RewardModel
from rewardscale.curation.workbench import Workbench, bill
from rewardscale.data.describe.frames import wilson

STAGE_TWO = "stage-2"


def step_name(iteration: int) -> str:
    """Folder of stage 0 (0) and of the iterations of stage 1."""
    return f"{iteration:03d}"


def commit(
    directory: Path, name: str, make: Callable[[], tuple[pl.DataFrame, dict[str, Any]]]
) -> dict[str, Any]:
    """The report of step `name`, which `make` makes, with the table of its pairs, unless it is there already."""
    folder = directory / "iterations" / name
    if not folder.exists():
        selected, report = make()
        with atomic.new_directory(folder) as new:
            selected.write_parquet(new / "selected.parquet")
            atomic.write_json(new / "report.json", report)
    return json.loads((folder / "report.json").read_text())


def judged(bench: Workbench, iteration: int, make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """The pairs of a step once judges have judged them: made, and kept.

    People may take weeks for their part of a step and edit attributes meanwhile; nothing that was chosen, asked and
    paid for before is chosen again.
    """
    name = f"judged-{step_name(iteration)}"
    commit(bench.directory, name, lambda: (make(), {}))
    return pl.read_parquet(bench.directory / "iterations" / name / "selected.parquet")


def read_steps(directory: Path) -> dict[str, dict[str, Any]]:
    """Reports of the finished steps by name, in their order."""
    paths = sorted((directory / "iterations").glob("[0-9s]*/report.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def train_best(bench: Workbench, state: Known, iteration: int) -> RewardModel:
    """The best reward model after `iteration`: of silver, chosen by gold validation."""
    usable = state.silver_training(bench.inputs.original, bench.config.silver)
    return _train(bench, state, f"best@iter{iteration}", Labels.where(usable, state.silver))


def train_gold(bench: Workbench, state: Known, iteration: int) -> RewardModel:
    """The gold reward model after `iteration`: of gold alone."""
    return _train(bench, state, f"gold@iter{iteration}", Labels.where(state.gold_training, state.gold))


def _train(bench: Workbench, state: Known, name: str, labels: Labels) -> RewardModel:
    validation = Labels.where(state.gold_validation, state.gold)
    return bench.trainer.train(name, labels, validation, bench.progress)


# --- what reports say --------------------------------------------------------------------------------


def common(bench: Workbench, iteration: int, rows: np.ndarray) -> dict[str, Any]:
    """What the reports of all steps have: judges' agreement, keep and flip rates, the bill."""
    state = bench.known()
    return {
        "iteration": iteration,
        "pairs": len(rows),
        "gold": int((state.gold[rows] != 0).sum()),
        "undecidable": int(state.discarded[rows].sum()),
        "silver": int((state.silver[rows] != 0).sum()),
        "agreement": agreement(bench.config.judge_names, state, rows),
        "categories": by_category(bench, state, rows),
        "bill": bill(bench.ledger.read(), bench.config, iteration),
    }


def agreement(names: Sequence[str], state: Known, rows: np.ndarray) -> dict[str, Any]:
    """How often judges agree with each other and with people, among pairs where both prefer a response."""
    votes = [*state.judges[:, rows], state.gold[rows]]
    labels = [*names, "people"]
    shares = [[_agreeing(one, other) for other in votes] for one in votes]
    return {
        "names": labels,
        "share": [[share for share, _ in line] for line in shares],
        "pairs": [[count for _, count in line] for line in shares],
    }


def _agreeing(one: np.ndarray, other: np.ndarray) -> tuple[float | None, int]:
    both = (one != 0) & (other != 0)
    count = int(both.sum())
    return (float((one[both] == other[both]).mean()) if count else None), count


def by_category(bench: Workbench, state: Known, rows: np.ndarray) -> list[dict[str, Any]]:
    """Of each category: pairs judged, and shares whose label the judges keep and turn round."""
    original = bench.inputs.original[rows]
    attributes = bench.ledger.attributes_by_row()
    names = [attributes[row].category if row in attributes else "" for row in rows.tolist()]
    silver = state.silver[rows]
    frame = pl.DataFrame(
        {
            "category": names,
            "keep": (silver == original) & (silver != 0),
            "flip": (silver == -original) & (silver != 0),
            "undecided": silver == 0,
        },
        schema={"category": pl.String, "keep": pl.Boolean, "flip": pl.Boolean, "undecided": pl.Boolean},
    )
    return (
        frame.group_by("category")
        .agg(
            pl.len().alias("pairs"), pl.col("keep").mean(), pl.col("flip").mean(), pl.col("undecided").mean()
        )
        .sort("category")
        .to_dicts()
    )


def accuracy(correct: np.ndarray) -> dict[str, Any]:
    """`proportion` of a bool array."""
    return proportion(int(correct.sum()), len(correct))


def proportion(right: int, n: int) -> dict[str, Any]:
    """n, share, and its 95 % Wilson interval (low, high); None where n is 0."""
    if not n:
        return {"n": 0, "share": None, "low": None, "high": None}
    (low,), (high,) = wilson(np.array([right]), np.array([n]))
    return {"n": n, "share": right / n, "low": float(low), "high": float(high)}


def model_accuracy(inputs: Inputs, state: Known, model: RewardModel) -> dict[str, Any]:
    """Accuracy on gold validation, and on pairs outside the pool whose truth is known."""
    validation = state.gold_validation
    out = {
        "validation": accuracy(model.margins[validation] * state.gold[validation] > 0),
        "chosen": model.record["chosen"],
        "trained_on": model.record["trained_on"],
    }
    if inputs.truth is not None:
        unseen = ~inputs.pool & (inputs.truth != 0)
        out["unseen"] = accuracy(model.margins[unseen] * inputs.truth[unseen] > 0)
    return out
