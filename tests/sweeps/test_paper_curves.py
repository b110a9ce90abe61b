"""configs/paper_curves.py: every variant on the levels of a finished curation run, and what those levels hold."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rewardscale import launch
from rewardscale.config import SweepConfig
from rewardscale.config.curation import CurationConfig
from rewardscale.config.data import CuratedConfig
from rewardscale.curation import pipeline
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.levels import Level, level_names, read_level
from rewardscale.sweeps import configfile, sweep

SIZE = 20  # of the runs at one size, in this small world
# Cells, as the docstrings count them.
CELLS = {"": 84, "snapshots": 105, "scaling": 160, "small": 420, "small_snapshots": 525}
CELLS |= {"small_votes": 415, "small_votes_snapshots": 510}


def load(variant: str, **changes: str) -> SweepConfig:
    return configfile.load(f"paper_curves.py:{variant}", changes)[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """curate.py:paper in small: as many iterations and the same levels."""
    config, _ = configfile.load("curate.py:paper", kind=CurationConfig)
    small = dataclasses.replace(
        config,
        planted=dataclasses.replace(config.planted, train=700, validation=100, test=150),
        seed_pairs=160,
        seed_people=40,
        people_per_iteration=8,
        selected=30,
        reward_model="hash256",
    )
    assert small.iterations == 8
    workdir = tmp_path_factory.mktemp("curation")
    pipeline.run(small, workdir)
    return workdir


def level(run: Path, name: str) -> Level:
    return read_level(run / "levels" / name)


@pytest.mark.parametrize("variant", CELLS)
def test_every_variant_is_laid_out_on_a_finished_run(variant: str, finished: Path, tmp_path: Path) -> None:
    """As many cells as the docstring says, all levels there; sizes are those of a world with fewer pairs."""
    config = load(variant)
    named = {*config.sweep.levels, *config.also.levels}
    assert named <= set(level_names(finished / "levels"))
    shrunk = {
        name: dataclasses.replace(grid, pairs=tuple(n and SIZE + place for place, n in enumerate(grid.pairs)))
        for name, grid in (("sweep", config.sweep), ("also", config.also))
    }
    data = dataclasses.replace(config.data, curated=CuratedConfig(str(finished)))
    plan = sweep.plan(dataclasses.replace(config, data=data, **shrunk), tmp_path)
    assert len(plan.cells) == CELLS[variant]
    text = (configfile.CONFIGS / "paper_curves.py").read_text()
    assert f"= {CELLS[variant]} runs" in text
    if config.also.levels:  # the whole levels have each its own size
        whole = {c.run.level: c.run.pairs for c in plan.cells if c.run.pairs != SIZE}
        assert whole == {name: len(level(finished, name).rows) for name in config.sweep.levels}


@pytest.mark.parametrize("variant", ["small", "small_snapshots", "small_votes", "small_votes_snapshots"])
def test_the_curation_writes_what_its_students_read(variant: str) -> None:
    """By its config alone: people's votes are not in every checkout."""
    curation = "curate.py:paper_votes" if "votes" in variant else "curate.py:paper"
    config, _ = configfile.load(curation, kind=CurationConfig)
    students = load(variant)
    assert students.data.curated.workdir == f"runs/{config.name}"
    assert config.iterations == 8 and config.no_humans
    named = {name.split("@")[0] for name in (*students.sweep.levels, *students.also.levels)}
    assert named <= set(config.levels)
    judged = config.seed_pairs * (1 - config.validation)
    assert all(pairs < judged for pairs in students.also.pairs)


def test_the_figure_is_four_curves_of_ten_stages() -> None:
    levels = load("").sweep.levels
    curves = {"raw": 0, "filtered": 0, "corrected": 0, "no_humans": 0}
    for name in levels:
        curve, stage = re.fullmatch(r"(?:gathered_)?(\w+?)(@iter[0-8])?", name).groups()  # pyright: ignore[reportOptionalMemberAccess]
        assert name.startswith("gathered_") == bool(stage)
        curves[curve] += 1
    assert len(set(levels)) == 40 and set(curves.values()) == {10}


@pytest.mark.parametrize("after", [0, 3, 8])
def test_gathered_levels_are_what_was_asked_so_far(finished: Path, after: int) -> None:
    """By a loop over the ledger: people's decision, else the judges'; nothing of the gold validation split."""
    manifest = pl.read_parquet(finished / "corpus" / "manifest.parquet")
    original = manifest["preferred"].to_list()
    held = set(read_level(finished / "evaluation" / "gold_validation").rows.tolist())
    verdicts = Ledger(finished / "ledger").read().filter(pl.col("iteration") <= after)
    judged = set(verdicts.filter(pl.col("annotator").str.contains("judge"))["row"].to_list())
    people: dict[int, list[int]] = {}
    for row, preferred in (
        verdicts.filter(pl.col("annotator").str.contains("person")).select("row", "preferred").rows()
    ):
        people.setdefault(row, []).append(preferred or 0)
    decided = {row: int(np.sign(sum(votes))) for row, votes in people.items()}
    raw, kept, turned = (
        level(finished, f"gathered_{name}@iter{after}") for name in ("raw", "filtered", "corrected")
    )
    asked = (judged | {row for row, sign in decided.items() if sign}) - held
    assert set(raw.rows.tolist()) == asked and raw.orientation.tolist() == [original[r] for r in raw.rows]
    assert set(kept.rows.tolist()) <= set(turned.rows.tolist()) <= asked
    label = dict(zip(turned.rows.tolist(), turned.orientation.tolist(), strict=True))
    assert {r for r, sign in label.items() if sign == original[r]} == set(kept.rows.tolist())
    for row, sign in decided.items():
        if row not in held:
            assert label.get(row, 0) == sign
    assert 0 < len(kept.rows) < len(raw.rows)


def test_gathered_levels_grow_and_the_pass_without_people_has_snapshots(finished: Path) -> None:
    for name in ("gathered_raw", "gathered_filtered", "gathered_corrected", "gathered_no_humans"):
        sizes = [len(level(finished, f"{name}@iter{n}").rows) for n in range(9)]
        assert sizes[0] < sizes[8] and (name != "gathered_raw" or sizes == sorted(sizes))
    last, end = level(finished, "no_humans@iter8"), level(finished, "no_humans")
    assert {level(finished, f"no_humans@iter{n}").fingerprint for n in range(9)} > {last.fingerprint}
    # Stage 2 asks judges about more pairs; the rules with what iteration 8 knew already keep most of the same.
    both = np.intersect1d(last.rows, end.rows)
    assert len(both) > 0.8 * len(last.rows)
    assert (last.orientation == level(finished, "raw").orientation[last.rows]).all()


def test_the_small_figure_runs(finished: Path, tmp_path: Path) -> None:
    """Some of its cells, by the command."""
    chosen = "raw,gathered_filtered@iter0,gathered_filtered@iter8,gathered_no_humans@iter8"
    flags = [
        "--config=paper_curves.py:small",
        f"--workdir={tmp_path}",
        f"--config.data.curated.workdir={finished}",
        f"--config.sweep.levels={chosen}",
        f"--config.also.levels={chosen}",
        f"--config.also.pairs={SIZE}",
        "--config.sweep.draws=1",
        "--config.also.draws=1",
        "--config.runtime.workers=1",
        "--config.convex.l2_grid=0.01,1.0",
    ]
    assert launch.main(flags) == 0
    table = pl.read_parquet(tmp_path / "results.parquet").filter(pl.col("eval_set") == "gold")
    assert len(table) == 8 and (table["accuracy"] > 0.4).all()
    sizes = dict(table.filter(pl.col("pairs") != SIZE).select("level", "pairs").rows())
    assert sizes["raw"] == 700 and sizes["gathered_filtered@iter8"] > sizes["gathered_filtered@iter0"]
