"""Removing against turning over (PrefCleanBench, arXiv 2509.23564): what the config's switches for it do.

`silver` decides it for what reward models are trained on meanwhile, `filtered` and `corrected` for what comes out, and
`recycling=False` takes turning over out of the rules.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rewardscale.config.curation import CurationConfig
from rewardscale.curation import inputs as inputs_
from rewardscale.curation import pipeline
from rewardscale.curation.inputs import Inputs
from rewardscale.curation.known import Known, known
from rewardscale.curation.rules import FLIP, KEEP
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.levels import read_level
from rewardscale.sweeps import configfile

TINY, _ = configfile.load("curate.py:tiny", kind=CurationConfig)
SMALL = dataclasses.replace(
    TINY, iterations=1, seed_people=20, no_humans=False, levels=("raw", "filtered", "corrected")
)


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory) -> dict[str, Path]:
    """Runs that differ in one switch."""
    changes = {"flip": {}, "remove": {"silver": "remove"}, "no recycling": {"recycling": False}}
    found = {}
    for name, change in changes.items():
        found[name] = tmp_path_factory.mktemp("removal")
        pipeline.run(dataclasses.replace(SMALL, **change), found[name])
    return found


def labels(workdir: Path, name: str, inputs: Inputs) -> np.ndarray:
    """int8 [corpus rows]: of a level, 0 where it has none."""
    level, found = read_level(workdir / "levels" / name), np.zeros(len(inputs), np.int8)
    found[level.rows] = level.orientation
    return found


def seeded(workdir: Path) -> tuple[Inputs, Known]:
    """What is known before the first iteration."""
    inputs = inputs_.prepare(SMALL, workdir)
    return inputs, known(inputs, SMALL, Ledger(workdir / "ledger").read(), before=1)


def trained_on(workdir: Path, model: str) -> int:
    return json.loads((workdir / "models" / model / "record.json").read_text())["trained_on"]


def test_silver_that_contradicts_its_label_is_trained_on_turned_round_or_not_at_all(
    workdirs: dict[str, Path],
) -> None:
    inputs, state = seeded(workdirs["flip"])
    flipped, removed = (state.silver_training(inputs.original, rule) for rule in ("flip", "remove"))
    assert (removed <= flipped).all()
    turned = flipped & ~removed
    assert turned.sum() > 10 and (state.silver[turned] == -inputs.original[turned]).all()
    assert (state.silver[removed] == inputs.original[removed]).all()
    assert trained_on(workdirs["flip"], "best@iter0") == flipped.sum()
    assert trained_on(workdirs["remove"], "best@iter0") == removed.sum()
    assert trained_on(workdirs["flip"], "gold@iter0") == trained_on(workdirs["remove"], "gold@iter0")
    # Judges and people were asked the same until then, so that the switch alone makes the difference.
    _, other = seeded(workdirs["remove"])
    np.testing.assert_array_equal(state.silver, other.silver)
    np.testing.assert_array_equal(state.gold, other.gold)
    # Of the judges' labels that would be turned round most are right: what removing them gives away.
    assert inputs.truth is not None and 0.5 < (state.silver[turned] == inputs.truth[turned]).mean() < 1


@pytest.mark.parametrize("name", ["flip", "remove"])
def test_filtered_removes_what_corrected_turns_over(workdirs: dict[str, Path], name: str) -> None:
    workdir = workdirs[name]
    inputs = inputs_.prepare(SMALL, workdir)
    raw, kept, mended = (labels(workdir, level, inputs) for level in ("raw", "filtered", "corrected"))
    decided = pl.read_parquet(workdir / "iterations" / "stage-2" / "selected.parquet")
    decisions = np.zeros(len(inputs), np.int8)
    decisions[decided["row"].to_numpy()] = decided["decision"].to_numpy()
    np.testing.assert_array_equal(kept, np.where(decisions == KEEP, raw, 0))
    np.testing.assert_array_equal(mended, raw * decisions)  # KEEP is 1, FLIP is -1
    turned = decisions == FLIP
    assert turned.sum() > 10 and (kept[turned] == 0).all()
    levels = {one["name"]: one for one in json.loads((workdir / "report.json").read_text())["levels"]}
    assert levels["filtered"]["flipped"] == 0 and levels["corrected"]["flipped"] == turned.sum()
    assert levels["corrected"]["pairs"] - levels["filtered"]["pairs"] == turned.sum()


def test_without_recycling_nothing_is_turned_over_but_what_people_say(workdirs: dict[str, Path]) -> None:
    workdir = workdirs["no recycling"]
    inputs = inputs_.prepare(SMALL, workdir)
    kept, mended = (labels(workdir, level, inputs) for level in ("filtered", "corrected"))
    state = known(inputs, SMALL, Ledger(workdir / "ledger").read())
    turned = (mended != 0) & (kept == 0)
    assert (turned <= state.gold_training).all() and (mended[turned] == state.gold[turned]).all()
    with_it = labels(workdirs["flip"], "corrected", inputs) == -inputs.original
    assert (with_it & inputs.labelled).sum() > turned.sum()
