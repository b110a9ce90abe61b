"""Sweeps whose cells branch from trunks: real launches give the table of cells trained alone."""

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import polars as pl
import pytest

from rewardscale import atomic
from rewardscale.config import ConfigError
from rewardscale.sweeps import cell as runs
from rewardscale.sweeps import configfile, datasets, grid, results, sweep
from rewardscale.sweeps.results import reproducible
from rewardscale.sweeps.summary import dry_run
from rewardscale.training import trunk
from tests.sweeps.launching import TINY, launch, start

RECIPE = ("schedule=wsd", "epochs=1", "warmup_steps=3", "cooldown=0.25", "min_steps=1", "pairs_per_step=8")
WSD = (
    *TINY,
    *(f"--config.recipe.{setting}" for setting in RECIPE),
    "--config.sweep.pairs=100,250,700",
    "--config.sweep.levels=gold",
    "--config.sweep.draws=2",
    "--config.runtime.workers=2",
    "--config.runtime.checkpoint_seconds=1000",
)
TRUNKS = (*WSD, "--config.sweep.trunks=true")
ONE_DRAW = ("--config.sweep.draws=1",)
# Steps of 8 pairs: 13, 32 and 88 (the last of 4, 2 and 4 pairs), of which three quarters are shared.
LEAVE = {100: 10, 250: 24, 700: 66}


def table(workdir: Path) -> pl.DataFrame:
    return reproducible(pl.read_parquet(workdir / "results.parquet"))


def began(workdir: Path) -> dict[int, list[int]]:
    """How many steps the runs of each size took from their trunks."""
    out: dict[int, list[int]] = {}
    for path in workdir.glob("runs/*/result.json"):
        pairs = json.loads((path.parent / "config.json").read_text())["pairs"]
        out.setdefault(pairs, []).append(json.loads(path.read_text())["record"]["steps_from_trunk"])
    return {pairs: sorted(steps) for pairs, steps in out.items()}


def assert_same_table(found: pl.DataFrame, alone: pl.DataFrame, *, draws: int) -> None:
    assert len(found) and alone["trunk"].null_count() == len(alone)
    assert found.drop("trunk", "branched_at").equals(alone.drop("trunk", "branched_at"))
    assert all(
        LEAVE[pairs] == step for pairs, step in found.select("pairs", "branched_at").unique().iter_rows()
    )
    by_draw = found.group_by("draw").agg(pl.col("trunk").unique())
    assert [len(names) for names in by_draw["trunk"]] == [1] * draws and found["trunk"].n_unique() == draws


@pytest.mark.slow
def test_launched_with_trunks_killed_and_launched_again_gives_the_table_of_cells_alone(tmp_path):
    """SIGKILL as soon as a trunk has a state: the next launch goes on from it, bit for bit."""
    code, _, error = launch(tmp_path / "alone", *WSD, *ONE_DRAW)
    assert code == 0, error
    workdir = tmp_path / "trunks"
    process = start(workdir, *TRUNKS, *ONE_DRAW, "--config.runtime.steps_per_dispatch=1")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(workdir.glob("trunks/*/10/trunk.json")):
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(list(workdir.glob("runs/*/DONE"))) < 3
    code, _, error = launch(workdir, *TRUNKS, *ONE_DRAW)
    assert code == 0, error
    assert_same_table(table(workdir), table(tmp_path / "alone"), draws=1)
    taken = began(workdir)
    assert taken[100] == [10] and min(taken[250][0], taken[700][0]) >= 10  # whichever of these went on first


def in_process(plan: sweep.Plan, workdir: Path, *, trunks: bool, **values) -> pl.DataFrame:
    """The table of the plan's cells, run one after the other, those that begin trunks first."""
    cells = replace(plan, "sweep", trunks=trunks, **values)
    context = runs.Context(plan.dataset, datasets.view(plan.dataset), plan.config.runtime, workdir)
    for cell in sorted(cells, key=lambda c: (c.branch is not None and c.branch.follows, -c.run.pairs)):
        assert runs.run_cell(cell, context)
    found, missing = results.collect(plan.config, cells, workdir, cost_unit=plan.dataset.cost_unit)
    assert not missing
    return reproducible(found)


def test_branches_give_the_table_of_cells_alone_bit_for_bit(planned, tmp_path):
    alone = in_process(planned, tmp_path / "alone", trunks=False, pairs=(100, 250))
    found = in_process(planned, tmp_path / "trunks", trunks=True, pairs=(100, 250))
    assert_same_table(found, alone, draws=2)
    assert began(tmp_path / "trunks") == {250: [0, 0], 100: [10, 10]}
    # A size that joins later branches as well, and without trunks a table keeps what its finished runs say.
    in_process(planned, tmp_path / "trunks", trunks=True, pairs=(100, 240, 250))
    assert began(tmp_path / "trunks")[240] == [10, 10]
    assert {p.name for p in (tmp_path / "trunks" / "trunks").glob("*/[0-9]*")} == {"10", "23", "24"}
    assert in_process(planned, tmp_path / "trunks", trunks=False, pairs=(100, 250)).equals(found)


def test_a_branch_waits_for_whoever_extends_its_trunk(planned, tmp_path):
    context = runs.Context(planned.dataset, datasets.view(planned.dataset), planned.config.runtime, tmp_path)
    cell = next(c for c in planned.cells if c.run.pairs == 100)
    assert cell.branch is not None
    with atomic.locked(tmp_path / "trunks" / cell.branch.trunk / "lock"):
        assert runs.run_cell(cell, context) is False
    assert not (tmp_path / "runs" / cell.run_id / "config.json").exists()
    assert runs.run_cell(cell, context) is True
    assert began(tmp_path) == {100: [0]}  # nobody else came: it trained its part of the trunk itself


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> sweep.Plan:
    overrides = {
        key: value for key, _, value in (a.removeprefix("--config.").partition("=") for a in TRUNKS[1:])
    }
    config, _ = configfile.load("sweep.py:smoke", overrides)
    return sweep.plan(config, tmp_path_factory.mktemp("planned"))


def replace(plan: sweep.Plan, part: str, **values) -> list[grid.Cell]:
    config = dataclasses.replace(
        plan.config, **{part: dataclasses.replace(getattr(plan.config, part), **values)}
    )
    return grid.cells(config, plan.dataset, datasets.view(plan.dataset))


def test_trunks_change_no_run_id_and_join_what_differs_in_length_alone(planned):
    alone = replace(planned, "sweep", trunks=False)
    assert [c.run_id for c in alone] == [c.run_id for c in planned.cells] and not any(c.branch for c in alone)
    wide = replace(
        planned, "sweep", models=("w8", "w16"), levels=("raw", "gold"), learning_rate_scales=(0.5, 1.0)
    )
    trunks: dict[str, list[grid.Cell]] = {}
    for cell in wide:
        assert cell.branch is not None and cell.branch.steps[-1] == LEAVE[cell.run.pairs]
        trunks.setdefault(cell.branch.trunk, []).append(cell)
    assert len(trunks) == 2 * 2 * 2 * 2 and all(len(cells) == 3 for cells in trunks.values())
    for cells in trunks.values():
        keys = {(c.run.model_name, c.run.level, c.run.draw, c.run.learning_rate_scale) for c in cells}
        assert len(keys) == 1
        assert [c.branch.follows for c in sorted(cells, key=lambda c: c.run.pairs) if c.branch] == [
            True,
            True,
            False,
        ]


def test_a_smaller_batch_is_another_trunk_and_who_is_alone_has_none(planned):
    cells = replace(planned, "recipe", min_steps=16)  # 100 pairs: 6 wanted a step, so 8; 250 and 700: 8
    assert len({c.branch.trunk for c in cells if c.branch}) == 2
    cells = replace(planned, "recipe", min_steps=50, min_pairs_per_step=1)  # 2, 4 and 8 a step
    assert not any(c.branch for c in cells)


def test_another_cooldown_branches_from_the_same_trunk(planned):
    def trunks(cells: list[grid.Cell]) -> set[str]:
        return {c.branch.trunk for c in cells if c.branch}

    own = trunks(planned.cells)
    assert trunks(replace(planned, "recipe", cooldown=0.5)) == trunks(
        replace(planned, "recipe", schedule="constant")
    )
    assert trunks(replace(planned, "recipe", cooldown=0.5)) == own
    assert not own & trunks(replace(planned, "recipe", weight_decay=0.2))
    assert not own & trunks(replace(planned, "recipe", warmup_steps=4))


def test_the_dry_run_says_what_is_saved(planned):
    """Two trunks of three branches: each draw's largest cell, and a quarter of the others."""
    flops = {(c.run.draw, c.run.pairs): c.flops or 0.0 for c in planned.cells}
    own = sum(f if pairs == 700 else f * (1 - LEAVE[pairs] * 8 / pairs) for (_, pairs), f in flops.items())
    assert sum(c.own_flops for c in planned.cells) == pytest.approx(own, rel=0.01)
    line = next(text for text in dry_run(planned).splitlines() if "trunks" in text)
    saved = 1 - own / sum(flops.values())
    assert (
        line.startswith("6 cells branch from 2 trunks")
        and f"({saved:.0%} saved)" in line
        and 0.2 < saved < 0.3
    )
    without = dataclasses.replace(planned, cells=replace(planned, "sweep", trunks=False))
    assert "trunk" not in dry_run(without)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "cosine"}, r"sweep\.trunks: recipe\.schedule='cosine'.*\"wsd\""),
        ({"warmup_steps": 0}, r"sweep\.trunks: recipe\.warmup=0\.1.*recipe\.warmup_steps"),
        ({"epochs": 2.0}, r"sweep\.trunks: recipe\.epochs=2\.0.*set it to 1"),
    ],
)
def test_recipes_that_have_no_trunk_are_refused_before_anything_runs(values, message, planned):
    with pytest.raises(ConfigError, match=message):
        replace(planned, "recipe", **values)


def test_pairs_that_are_too_long_shorten_the_trunk_as_they_shorten_the_run(planned):
    """The step that the grid names is the step at which the training's own plan begins to cool down."""
    lengths = datasets.view(planned.dataset).lengths.sum(1)
    cells = replace(planned, "recipe", max_length=int(lengths.min()) // 2 + 4)
    assert any(c.branch and c.branch.steps[-1] < LEAVE[c.run.pairs] for c in cells)
    from rewardscale.data import pipeline
    from rewardscale.data.subsets import subset

    view, data = datasets.view(planned.dataset), planned.dataset
    for cell in cells:
        run, branch = cell.run, cell.branch
        assert run.recipe is not None and branch is not None
        chosen = subset(
            data.level(run.level, run.draw), run.pairs, pool=data.pool(-1), seed=run.seed, draw=run.draw
        )
        batches = pipeline.prepare(
            view, chosen, positions=run.pairs, batch=8, seed=run.seed, draw=run.draw,
            max_length=run.recipe.max_length, too_long="drop", row_length=0, rows_per_microbatch=8,
        )  # fmt: skip
        assert batches.dropped > 0
        trunk.Trunk(Path("unused"), branch.steps).check(run.recipe, batches)
        assert branch.steps[-1] == run.recipe.trunk_steps(int(batches.plan.starts[-1]), 8)
