"""The headline under other choices, on SYNTHETIC sweeps."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from rewardscale.scaling.collect import ScalingError, Sweep, load_sweep
from rewardscale.scaling.resample import Interval
from rewardscale.scaling.robustness import (
    BASELINE,
    Settings,
    der_headline,
    largest_model,
    robustness,
    usual_headline,
    without_outliers,
)
from tests.scaling import synthetic

RATIO = (11.0 / 8.0) ** (1 / synthetic.BETA)  # raw pairs a filtered pair: both have the same floor


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    at = tmp_path_factory.mktemp("synthetic") / "five"
    return load_sweep(synthetic.planted(at, draws=5, noise=0.002, models=["tiny", "small"]))


@pytest.fixture(scope="module")
def table(sweep: Sweep) -> pl.DataFrame:
    return robustness(sweep, der_headline("raw", "filtered", resamples=50))


INTERPOLATE = Settings(method="interpolate")


def of(table: pl.DataFrame, choice: str, option: str = "") -> dict:
    rows = table.filter((pl.col("choice") == choice) & pl.col("option").str.contains(option, literal=True))
    assert len(rows) == 1, rows
    return rows.row(0, named=True)


def test_the_baseline_comes_first_and_is_the_headline_itself(sweep, table):
    first = table.row(0, named=True)
    assert first["choice"] == BASELINE
    own = der_headline("raw", "filtered", resamples=50)(sweep, Settings())
    assert (first["estimate"], first["low"], first["high"]) == (own.estimate, own.low, own.high)
    assert first["low"] < RATIO < first["high"]


def test_every_choice_has_its_row(table):
    wanted = {
        "objective",
        "method",
        "model size",
        "chance plateau",
        "units resampled",
        "loss",
        "evaluation set",
    }
    wanted |= {"outliers", "learning rate", "checkpoint", "data sizes"}
    assert wanted == set(table["choice"]) - {BASELINE}
    assert len(table.unique(["choice", "option"])) == len(table)
    # Every row has a number, or says why not.
    assert table.filter(pl.col("estimate").is_null() & (pl.col("note") == "")).is_empty()


def test_a_choice_changes_what_it_says(table):
    base = table.row(0, named=True)
    for choice, option in (("method", "interpolate"), ("data sizes", "largest"), ("evaluation set", "raw")):
        row = of(table, choice, option)
        assert row["estimate"] == pytest.approx(RATIO, rel=0.3)
        assert row["estimate"] != base["estimate"]
    assert "300 pairs dropped" in of(table, "data sizes", "smallest")["note"]


def test_what_changes_nothing_is_said(table):
    assert of(table, "model size")["note"] == "changes nothing"
    assert of(table, "model size")["estimate"] == table["estimate"][0]


def test_what_cannot_be_computed_is_a_row_with_its_reason(table):
    row = of(table, "units resampled", "clusters")
    assert row["estimate"] is None and "results_by_cluster" in row["note"]


def test_a_headline_of_the_callers(sweep):
    def highest(changed: Sweep, settings: Settings) -> Interval:
        return Interval(float(changed.table["pairs"].max()), None, None, None, note="")  # type: ignore[arg-type]

    rows = robustness(sweep, highest)
    assert of(rows, "data sizes", "largest")["estimate"] == 17_000
    assert of(rows, "data sizes", "smallest")["estimate"] == 30_000


def test_points_on_the_chance_plateau_are_left_out_of_every_row_alike(sweep):
    plateau = pl.when(pl.col("pairs") == 300).then(pl.lit(0.69)).otherwise(pl.col("loss_recalibrated"))
    stuck = sweep.table.with_columns(
        loss_recalibrated=pl.when(pl.col("eval_set") == "gold")
        .then(plateau)
        .otherwise(pl.col("loss_recalibrated"))
    )
    rows = robustness(replace(sweep, table=stuck), der_headline("raw", "filtered", resamples=50), INTERPOLATE)
    short = sweep.filter(pl.col("pairs") > 300)
    for eval_set, row in (("gold", rows.row(0, named=True)), ("raw", of(rows, "evaluation set", "raw"))):
        own = der_headline("raw", "filtered", resamples=50)(short, replace(INTERPOLATE, eval_set=eval_set))
        assert row["estimate"] == own.estimate
    assert of(rows, "chance plateau", "kept")["estimate"] != rows["estimate"][0]


def test_errors_that_are_no_sciences_are_not_swallowed(sweep):
    def broken(changed: Sweep, settings: Settings) -> Interval:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        robustness(sweep, broken)


def test_an_outlier_is_dropped_and_counted(sweep):
    run = sweep.table.filter((pl.col("level") == "raw") & (pl.col("pairs") == 1_000))["run_id"][0]
    shifted = pl.when(pl.col("run_id") == run).then(pl.col("loss_recalibrated") + 0.3)
    spoiled = replace(
        sweep,
        table=sweep.table.with_columns(loss_recalibrated=shifted.otherwise(pl.col("loss_recalibrated"))),
    )
    _, before = without_outliers(sweep)
    cleaned, dropped = without_outliers(spoiled)
    assert run not in set(cleaned.table["run_id"])
    assert set(cleaned.table["eval_set"]) == set(sweep.table["eval_set"])
    assert before <= dropped <= before + 1
    assert len(cleaned.table) == len(spoiled.table) - 2 * dropped  # a run is a row an evaluation set


def test_folds_are_not_each_others_outliers(votes):
    _, dropped = without_outliers(votes)
    assert dropped < 0.25 * votes.table["run_id"].n_unique()  # fold sd 0.03, draw sd 0.004


def test_learning_rates(tmp_path: Path):
    plain = load_sweep(synthetic.planted(tmp_path / "s", draws=5, noise=0.002, models=["small"]))
    validation = plain.table.filter(pl.col("eval_set") == "gold").with_columns(eval_set=pl.lit("validation"))
    whole = pl.concat([plain.table, validation])
    worse = whole.with_columns(
        run_id=pl.col("run_id") + "x2",
        lr_scale=pl.lit(2.0),
        loss_recalibrated=pl.col("loss_recalibrated") + 0.02,
    )
    both = replace(plain, table=pl.concat([whole, worse]))
    headline, settings = der_headline("raw", "filtered", resamples=50), Settings(method="interpolate")
    rows, alone = robustness(both, headline, settings), headline(plain, settings).estimate
    assert rows["estimate"][0] == alone
    assert "learning rates 1 of the configured" in rows["note"][0]
    assert of(rows, "learning rate", "best on validation")["estimate"] == alone
    assert of(rows, "learning rate", "2 of")["estimate"] != alone
    unseen = replace(both, table=both.table.filter(pl.col("eval_set") != "validation"))
    row = of(robustness(unseen, headline, settings), "learning rate", "best on validation")
    assert row["estimate"] is None and "no scores on 'validation'" in row["note"]


def test_the_usual_headline_is_the_largest_models(sweep):
    own = usual_headline(sweep)(sweep, Settings())
    assert own == der_headline("raw", "gold", model="small")(sweep, Settings())
    assert largest_model(sweep, ("raw", "gold")) == "small"
    with pytest.raises(ScalingError, match="no model"):
        largest_model(sweep, ("raw", "diamond"))
    with pytest.raises(ScalingError, match="uncurated and curated"):
        usual_headline(sweep.filter(pl.col("level") == "raw"))
