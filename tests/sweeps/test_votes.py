"""The sweep on people's votes, on the real data; skipped where that is absent."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rewardscale.sweeps import configfile, datasets, grid
from tests.sweeps.launching import launch

DATA = Path(os.environ.get("REWARDSCALE_DATA") or Path(__file__).parents[3] / "shared" / "data")
pytestmark = pytest.mark.skipif(
    not (DATA / "ukpconvarg1").is_dir(),
    reason="ukpconvarg1 is not there: set REWARDSCALE_DATA to its folder's parent",
)
SMALL = (
    "--config.sweep.models=hash1024",
    "--config.sweep.pairs=250,1000",
    "--config.sweep.levels=one_vote,strict",
    "--config.sweep.draws=1",
    "--config.sweep.folds=2",
    "--config.also.models=w8",
    "--config.learning_rates.w8=5e-3",
    "--config.also.pairs=250",
    "--config.also.levels=strict",
    "--config.also.folds=1",
    "--config.also.draws=1",
    "--config.recipe.epochs=1",
)


@pytest.fixture(scope="module")
def votes(tmp_path_factory):
    config, _ = configfile.load("sweep.py:votes")
    return config, datasets.prepare(config.data, tmp_path_factory.mktemp("votes"), DATA)


def test_no_debate_is_both_trained_on_and_tested_on(votes):
    config, dataset = votes
    groups = dataset.groups()
    tested = []
    for fold in range(config.data.votes.folds):
        parts = {"train": set(groups[dataset.pool(fold)])}
        parts |= {name: set(groups[e.pairs.rows]) for name, e in dataset.evaluations(fold).items()}
        assert parts["strict"] == parts["votes"] and len(parts["strict"]) == 4
        assert not parts["train"] & (parts["strict"] | parts["validation"])
        assert not parts["strict"] & parts["validation"] and len(parts["validation"]) == 2
        for e in dataset.evaluations(fold).values():
            assert set(groups[e.calibration.rows]) == parts["validation"]
        tested += sorted(parts["strict"])
    assert len(tested) == len(set(tested)) == 16


def test_every_level_has_the_pairs_that_the_config_asks_for(votes):
    config, dataset = votes
    small = configfile.load("sweep.py:votes", {"also.models": "", "sweep.draws": "1"})[0]
    cells = grid.cells(small, dataset, None)
    assert len(cells) == len(config.sweep.models) * len(config.sweep.pairs) * len(config.sweep.levels) * 4
    for cell in cells:
        votes_a_pair = cell.cost / cell.run.pairs
        low, high = {"one_vote": (1, 2), "majority_3": (3, 4.5)}.get(cell.run.level, (4.5, 11))
        assert low <= votes_a_pair <= high


def test_the_test_labels_are_the_same_for_all_levels_and_draws(votes):
    _, dataset = votes
    first = dataset.evaluations(1)
    assert np.array_equal(first["strict"].pairs.rows, dataset.evaluations(1)["strict"].pairs.rows)
    strict = dataset.level("strict", 0)
    assert np.isin(first["strict"].pairs.rows, strict.rows).all()


def test_it_runs_end_to_end_and_draws_both_axes(tmp_path):
    code, out, error = launch(tmp_path, "--config=sweep.py:votes", f"--data_dir={DATA}", *SMALL)
    assert code == 0, error
    assert "9 of 9 cells done" in out
    table = pl.read_parquet(tmp_path / "results.parquet")
    assert set(table["eval_set"]) == {"strict", "votes", "validation"}
    assert set(table["family"]) == {"transformer", "convex"} and set(table["cost_unit"]) == {"votes"}
    convex = table.filter((pl.col("family") == "convex") & (pl.col("eval_set") == "strict"))
    assert (convex["accuracy"] > 0.6).all()  # far from chance on debates never seen
    assert (convex["loss_recalibrated"] < np.log(2)).all() and convex["l2"].null_count() == 0
    report = (tmp_path / "report.html").read_text()
    assert "votes" in report and "one vote" in report
    assert {p.stem for p in (tmp_path / "figures").glob("*.svg")} >= {"loss_vs_pairs", "loss_vs_cost"}
