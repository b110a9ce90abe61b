"""``points``: the covariance that its shifts carry, and sweeps that are incomplete, doubled or broken.

The sweeps are SYNTHETIC (``synthetic.py``); clusters are made up here in the schema of results_by_cluster.parquet.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from rewardscale.scaling import forms
from rewardscale.scaling.collect import ScalingError, curve, load_sweep
from rewardscale.scaling.fit import fit
from rewardscale.scaling.points import Points, from_draws, points
from rewardscale.scaling.resample import of_fit, resample
from tests.scaling import synthetic

SIZES = np.geomspace(250, 16_000, 5)


def covariance(shifts: NDArray) -> NDArray:
    return shifts.T @ shifts


def losses(draws: int, seed: int = 0) -> NDArray:
    """[draws, 5], correlated between points."""
    rng = np.random.default_rng(seed)
    return 0.5 + 0.02 * rng.normal(size=(draws, 1)) + 0.01 * rng.normal(size=(draws, 5))


# Shifts of draws.


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_shifts_carry_the_covariance_of_the_means(draws: int, seed: int) -> None:
    y = losses(draws, seed)
    made = from_draws({"pairs": SIZES}, y)
    assert made.mean == pytest.approx(y.mean(0))
    assert covariance(made.shifts["draws"]) == pytest.approx(np.cov(y.T) / draws, rel=1e-9, abs=1e-15)
    assert made.se == pytest.approx(y.std(0, ddof=1) / np.sqrt(draws))
    assert made.shifts["draws"].sum(0) == pytest.approx(np.zeros(5), abs=1e-14)
    assert made.units == {"draws": draws} and (made.draws == draws).all()


def test_unbalanced_draws() -> None:
    """Each point's standard error is that of its own draws; a pair of points is correlated by the draws both have."""
    y = losses(8)
    y[5:, 3] = np.nan
    y[0, 4] = np.nan
    made = from_draws({"pairs": SIZES}, y)
    assert made.mean == pytest.approx(np.nanmean(y, 0))
    assert made.draws.tolist() == [8, 8, 8, 5, 7]
    assert made.se == pytest.approx(np.nanstd(y, 0, ddof=1) / np.sqrt(made.draws))
    both = covariance(made.shifts["draws"])
    residual = y - np.nanmean(y, 0)
    shared = np.nansum(residual[:, 0] * residual[:, 3]) / np.sqrt(8 * 7 * 5 * 4)
    assert both[0, 3] == pytest.approx(shared)
    assert both[:3, :3] == pytest.approx(np.cov(y[:, :3].T) / 8)
    assert np.linalg.eigvalsh(both).min() > -1e-15


def test_points_of_unequal_draws_have_the_right_spread() -> None:
    """Over many simulated data sets the mean of shift covariances is the true covariance of the means, or near it."""
    rng = np.random.default_rng(0)
    true = np.array([[1.0, 0.6], [0.6, 1.0]])
    halves = rng.multivariate_normal([0, 0], true, size=(4_000, 8))
    halves[:, 6:, 1] = np.nan
    estimates = [covariance(from_draws({"pairs": [1, 2]}, h).shifts["draws"]) for h in halves]
    means = np.nanmean(halves, 1)
    assert np.diag(np.mean(estimates, 0)) == pytest.approx([1 / 8, 1 / 6], rel=0.03)
    assert np.diag(np.cov(means.T)) == pytest.approx([1 / 8, 1 / 6], rel=0.08)
    # cov(mean_1, mean_2) = 6 shared draws / (8 * 6) * 0.6; the estimate is 2.4 % off at 6 of 8 draws.
    assert np.mean(estimates, 0)[0, 1] == pytest.approx(0.6 / 8, rel=0.07)


def test_one_draw_has_no_shifts() -> None:
    made = from_draws({"pairs": SIZES}, losses(1))
    assert made.shifts == {} and (made.se == 0).all()
    assert made.why_no_interval() == "nothing was repeated: no interval"


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (losses(3)[0], r"shape \[draws, points\], got shape \(5,\)"),
        (np.where(np.arange(5) == 2, np.inf, losses(3)), "must be finite numbers"),
        (np.where(np.isin(np.arange(5), [1, 4]), np.nan, losses(3)), r"positions \[1, 4\] have no draw"),
    ],
)
def test_unusable_draws(y: NDArray, message: str) -> None:
    with pytest.raises(ScalingError, match=message):
        from_draws({"pairs": SIZES}, y)


@pytest.mark.parametrize("draws", [2, 4])
def test_under_five_draws_no_interval(draws: int) -> None:
    sizes = np.geomspace(250, 16_000, 7)
    y = forms.power_law(sizes, 0.3, 3, 0.35) * np.exp(0.01 * np.random.default_rng(0).normal(size=(draws, 7)))
    made = from_draws({"pairs": sizes}, y)
    assert made.why_no_interval() == f"{draws} draws: fewer than 5, no interval"
    found = fit(forms.POWER_FLOOR, made.x, made.mean)
    interval = resample(made, of_fit(found)).interval(2)
    assert interval.estimate == pytest.approx(found.parameters["exponent"])
    assert (interval.low, interval.high) == (None, None)
    assert "fewer than 5" in str(interval)


def test_one_point_short_of_draws_no_interval() -> None:
    y = losses(6)
    y[4:, 2] = np.nan
    assert from_draws({"pairs": SIZES}, y).why_no_interval() == (
        "some points have 4 draws, fewer than 5: no interval"
    )
    y[4, 2] = 0.5
    assert from_draws({"pairs": SIZES}, y).why_no_interval() == ""


def test_select_and_inputs() -> None:
    made = from_draws({"pairs": SIZES}, losses(6), pl.DataFrame({"level": list("aabbb")}))
    part = made.select(SIZES > 300).with_inputs(quality=[1, 0.5, 0.5, 0.2])
    assert len(part) == 4 and part.x["quality"].tolist() == [1, 0.5, 0.5, 0.2]
    assert part.table["level"].to_list() == list("abbb")
    assert covariance(part.shifts["draws"]) == pytest.approx(covariance(made.shifts["draws"])[1:, 1:])
    assert made.select([4, 0]).mean.tolist() == [made.mean[4], made.mean[0]]


# Sweeps.


def test_points_of_a_sweep_are_those_of_its_curves(planted_dir: Path) -> None:
    sweep = load_sweep(planted_dir)
    made = points(sweep)
    table = curve(sweep)
    assert made.table.select("family", "model", "params", "level", "pairs").equals(
        table.select("family", "model", "params", "level", "pairs").sort(
            "family", "params", "model", "level", "pairs"
        )
    )
    assert made.mean == pytest.approx(table["mean"].to_numpy())
    assert made.se == pytest.approx(table["se"].to_numpy())
    assert made.x["pairs"].tolist() == table["pairs"].to_list() and not made.notes
    assert made.table.filter(pl.col("level") == "filtered")["cost"].to_numpy() == pytest.approx(
        made.table.filter(pl.col("level") == "filtered")["pairs"].to_numpy() / 0.6, rel=0.02
    )


def test_choosing(planted_dir: Path) -> None:
    sweep = load_sweep(planted_dir)
    made = points(sweep, models=["small"], levels=["raw", "gold"], size="params_with_embeddings")
    assert set(made.table["level"]) == {"raw", "gold"} and set(made.table["model"]) == {"small"}
    assert set(made.x["params"]) == {synthetic.MODELS["small"] + 2_048}
    raw = points(sweep, "loss", eval_set="raw", levels=["gold"], models=["small"])
    assert raw.mean == pytest.approx(
        curve(sweep, "loss", eval_set="raw").filter(
            (pl.col("level") == "gold") & (pl.col("model") == "small")
        )["mean"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ["gold", "perfect"]}, r"no level \['perfect'\]; it has \['corrected', 'filtered'"),
        ({"models": ["huge"]}, r"no model \['huge'\]; it has \['medium'"),
        ({"family": "convex"}, r"no family \['convex'\]; it has \['transformer'\]"),
        ({"eval_set": "holdout"}, "no evaluation set 'holdout'"),
        ({"y": "elo"}, "'elo' is not a number column"),
        ({"units": "runs"}, "units='runs' must be one of"),
        ({"units": "clusters"}, "no results_by_cluster.parquet: .*launch the sweep again"),
        ({"size": "flops_per_pair"}, "size='flops_per_pair'"),
    ],
)
def test_unknown_names(planted_dir: Path, options: dict, message: str) -> None:
    with pytest.raises(ScalingError, match=message):
        points(load_sweep(planted_dir), **options)


def results(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "results.parquet")


@pytest.fixture
def own(planted_dir: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(planted_dir, tmp_path / "own"))


def one_run(table: pl.DataFrame) -> str:
    row = table.filter(
        (pl.col("model") == "small")
        & (pl.col("level") == "raw")
        & (pl.col("pairs") == 1_000)
        & (pl.col("draw") == 2)
    )
    return row["run_id"][0]


def test_missing_cell_is_named(own: Path) -> None:
    table = results(own)
    run = one_run(table)
    table.filter(pl.col("run_id") != run).write_parquet(own / "results.parquet")
    whole, made = points(load_sweep(own, allow_unfinished=False)), None
    made = whole
    assert made.notes == ("fewer draws than elsewhere at small/raw/1,000",)
    at = made.table.with_row_index().filter(
        (pl.col("model") == "small") & (pl.col("level") == "raw") & (pl.col("pairs") == 1_000)
    )["index"][0]
    assert made.draws[at] == 3 and np.delete(made.draws, at).tolist() == [4] * (len(made) - 1)


def test_missing_point_is_no_point(own: Path) -> None:
    table = results(own)
    gone = (pl.col("level") == "raw") & (pl.col("pairs") == 1_000)
    table.filter(~gone).write_parquet(own / "results.parquet")
    made = points(load_sweep(own))
    assert len(made) == 3 * 6 * 4 - 3 and not made.notes


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_value_that_is_not_there_is_named(own: Path, value: float | None) -> None:
    table = results(own)
    run = one_run(table)
    broken = pl.when(pl.col("run_id") == run).then(pl.lit(value, pl.Float64)).otherwise("loss_recalibrated")
    table.with_columns(broken.alias("loss_recalibrated")).write_parquet(own / "results.parquet")
    with pytest.raises(ScalingError, match=f"'loss_recalibrated' .* not finite for runs {run}"):
        points(load_sweep(own))
    assert len(points(load_sweep(own), "loss")) == 72, "another column is whole"
    assert len(points(load_sweep(own), levels=["gold"])) == 18, "so is another level"


def test_run_twice_is_named(own: Path) -> None:
    table = results(own)
    run = one_run(table)
    pl.concat([table, table.filter(pl.col("run_id") == run)]).write_parquet(own / "results.parquet")
    with pytest.raises(ScalingError, match=f"more than once: {run}"):
        load_sweep(own)


def test_runs_that_differ_in_learning_rate_are_no_draws(own: Path) -> None:
    table = results(own)
    run = one_run(table)
    tuned = table.filter(pl.col("run_id") == run).with_columns(
        pl.lit(f"{run}-fast").alias("run_id"), pl.lit(2.0).alias("lr_scale")
    )
    pl.concat([table, tuned]).write_parquet(own / "results.parquet")
    with pytest.raises(ScalingError, match=r"'pairs': 1000, .*differing in \['lr_scale'\]"):
        points(load_sweep(own))


# Trunks.


def trunks_of(y: NDArray) -> NDArray:
    """SYNTHETIC losses [draws, 5] whose noise is the trunk's: sizes that branched share 95 % of its variance."""
    noise = 0.02 * (np.sqrt(0.95) * y[:, :1] + np.sqrt(0.05) * y[:, 1:])
    return 0.5 + np.linspace(0.2, 0.0, 5) + noise


def test_intervals_over_draws_cover_where_sizes_share_trunks() -> None:
    """The mean over sizes of 5 draws: covered by whole draws (trunks), not by points as if they were independent."""
    rng = np.random.default_rng(0)
    weights, truth, sets = np.full(5, 0.2), 0.6, 600

    def mean_over_sizes(means: NDArray) -> tuple[NDArray, NDArray]:
        return means @ weights[:, None], np.broadcast_to(weights, (len(means), 1, 5))

    whole = alone = 0
    for _ in range(sets):
        made = from_draws({"pairs": SIZES}, trunks_of(rng.normal(size=(5, 6))))
        found = resample(made, mean_over_sizes, resamples=999).interval(0)
        assert found.low is not None and found.high is not None
        whole += found.low < truth < found.high
        se = np.sqrt((weights**2 * made.se**2).sum())
        alone += abs(made.mean @ weights - truth) < stats.t(4).ppf(0.975) * se
    assert 0.925 < whole / sets < 0.975
    assert alone / sets < 0.8


def test_a_trunk_is_of_one_draw(own: Path) -> None:
    """Tables without the column, without trunks, and with them give the same points; a split trunk is named."""
    table, before = results(own), points(load_sweep(own))
    trunk = pl.format("{}-{}-{}", "model", "level", "draw").alias("trunk")
    for column in (trunk, pl.lit(None, pl.String).alias("trunk")):
        table.with_columns(column).write_parquet(own / "results.parquet")
        made = points(load_sweep(own))
        assert made.mean.tolist() == before.mean.tolist()
        assert made.units == before.units == {"draws": 4}, "as many units as there are draws, not trunks"
    split = pl.format("{}-{}-{}", "model", "level", pl.col("draw") // 2).alias("trunk")
    table.with_columns(split).write_parquet(own / "results.parquet")
    with pytest.raises(ScalingError, match=r"trunk 'medium-corrected-0' .*draws \[0, 1\]: .*not independent"):
        points(load_sweep(own))


def test_no_finished_run(own: Path) -> None:
    (own / "results.parquet").unlink()
    with pytest.raises(ScalingError, match="no finished run"):
        points(load_sweep(own, allow_unfinished=True))


# Clusters of the evaluation set.

CLUSTERS, DRAWS = 40, 6


def clustered(folder: Path, *, noise: float = 0.3, seed: int = 0) -> tuple[Path, NDArray]:
    """A SYNTHETIC sweep of two levels and four sizes whose losses come from 40 clusters; and losses [c, draw, point].

    A cluster is as hard for every run, and a bit harder for the second level.
    """
    rng = np.random.default_rng(seed)
    sizes, levels = synthetic.SIZES[:4], ("gold", "raw")
    hard, extra = noise * rng.normal(size=CLUSTERS), 0.1 * noise * rng.normal(size=CLUSTERS)
    pairs_of = rng.integers(5, 60, CLUSTERS)
    rows, parts, values = [], [], np.empty((CLUSTERS, DRAWS, len(levels) * len(sizes)))
    for i, level in enumerate(levels):
        for j, pairs in enumerate(sizes):
            for draw in range(DRAWS):
                mean = 1 + synthetic.true_loss(level, pairs, 6_144) + 0.01 * rng.normal()
                of_cluster = mean + hard + i * extra
                values[:, draw, i * len(sizes) + j] = of_cluster
                loss = float(np.average(of_cluster, weights=pairs_of))
                base = synthetic._row(
                    "transformer", "small", 6_144, level, pairs, draw, -1, pairs, "raw pairs", rng
                )
                scores = synthetic._scores("gold", 0.5, 0.0, int(pairs_of.sum()), None, rng)
                rows.append(base | scores | {"loss": loss, "loss_recalibrated": loss})
                parts += [
                    {
                        "run_id": base["run_id"],
                        "eval_set": "gold",
                        "cluster": f"prompt-{c:02}",
                        "eval_pairs": int(pairs_of[c]),
                        "accuracy": 0.5,
                        "loss": float(of_cluster[c]),
                        "loss_recalibrated": float(of_cluster[c]),
                    }
                    for c in range(CLUSTERS)
                ]
    synthetic.write(folder, "clustered", rows, ["gold"], "gold", "raw pairs")
    pl.DataFrame(parts).write_parquet(folder / "results_by_cluster.parquet")
    return folder, values


def test_clusters_move_points_together(tmp_path: Path) -> None:
    folder, values = clustered(tmp_path / "clustered")
    sweep = load_sweep(folder)
    made = points(sweep, units="clusters")
    assert made.units == {"clusters": CLUSTERS}
    assert made.shifts["clusters"].sum(0) == pytest.approx(np.zeros(8), abs=1e-12)
    # The ratio estimate's variance, written out: sum_c w_c^2 (y_c - mean)^2 C / (C - 1).
    per_cluster = values.mean(1)
    sizes = pl.read_parquet(folder / "results_by_cluster.parquet").filter(
        pl.col("run_id") == sweep.table["run_id"][0]
    )
    weight = sizes.sort("cluster")["eval_pairs"].to_numpy()
    weight = weight / weight.sum()
    mean = weight @ per_cluster
    assert made.mean == pytest.approx(mean)
    expected = np.sqrt((weight[:, None] ** 2 * (per_cluster - mean) ** 2).sum(0) * CLUSTERS / (CLUSTERS - 1))
    assert made.se == pytest.approx(expected)
    cov = covariance(made.shifts["clusters"])
    difference = np.sqrt(cov[0, 0] + cov[4, 4] - 2 * cov[0, 4])
    assert difference < 0.3 * made.se[0], "levels share their clusters: their difference is known better"


def test_cluster_intervals_cover_other_test_sets(tmp_path: Path) -> None:
    """The standard error is the spread of the mean over test sets that were drawn anew."""
    means = [points(load_sweep(clustered(tmp_path / str(s), seed=s)[0])).mean[0] for s in range(30)]
    one = points(load_sweep(tmp_path / "0"), units="clusters")
    assert np.std(means, ddof=1) == pytest.approx(one.se[0], rel=0.45)


def test_draws_and_clusters_together(tmp_path: Path) -> None:
    sweep = load_sweep(clustered(tmp_path / "clustered")[0])
    draws, clusters, both = (points(sweep, units=u) for u in ("draws", "clusters", "both"))
    assert both.units == {"draws": DRAWS, "clusters": CLUSTERS}
    assert both.se**2 == pytest.approx(draws.se**2 + clusters.se**2)
    assert draws.se.max() < clusters.se.min(), "what was planted"


def test_clusters_allow_intervals_with_few_draws(tmp_path: Path) -> None:
    """Clusters are units too: with three draws an interval over test sets still stands, one over draws does not."""
    folder, _ = clustered(tmp_path / "clustered")
    table = results(folder)
    table.filter(pl.col("draw") < 3).write_parquet(folder / "results.parquet")
    sweep = load_sweep(folder)
    assert points(sweep, units="clusters").why_no_interval() == ""
    assert "3 draws" in points(sweep).why_no_interval()
    assert "3 draws" in points(sweep, units="both").why_no_interval()


@pytest.mark.parametrize("which", ["runs", "column"])
def test_clusters_that_are_not_all_there(tmp_path: Path, which: str) -> None:
    folder, _ = clustered(tmp_path / "clustered")
    path = folder / "results_by_cluster.parquet"
    table = pl.read_parquet(path)
    run = table["run_id"][0]
    if which == "runs":
        table.filter(pl.col("run_id") != run).write_parquet(path)
        with pytest.raises(
            ScalingError, match="1 of 48 runs have no scores by cluster: launch the sweep again"
        ):
            points(load_sweep(folder), units="clusters")
    else:
        table.drop("loss_recalibrated").write_parquet(path)
        with pytest.raises(ScalingError, match="'loss_recalibrated' is not recorded by cluster"):
            points(load_sweep(folder), units="both")


def test_folds_are_put_together_inside_a_draw(votes_dir: Path) -> None:
    """Folds are parts of one test set: as many units as draws, whatever the folds."""
    made = points(load_sweep(votes_dir), family="convex")
    assert made.units == {"draws": 3}
    assert json.loads((votes_dir / "sweep.json").read_text())["name"] == "votes"
    assert isinstance(made, Points) and len(made) == 2 * 5 * 4
