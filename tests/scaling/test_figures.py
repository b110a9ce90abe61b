"""Every figure draws what its table says, in the same style everywhere, and saves the same bytes twice."""

import shutil
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rewardscale.scaling import figures_compute
from rewardscale.scaling.collect import ScalingError, Sweep, curve, load_sweep
from rewardscale.scaling.figures import FIGURES, loss_vs_pairs, loss_vs_params, save
from rewardscale.scaling.panels import STYLES, compact, level_order, level_styles
from rewardscale.scaling.report import write_report
from tests.scaling import synthetic


@pytest.mark.parametrize("name", list(FIGURES))
@pytest.mark.parametrize("which", ["planted", "votes"])
def test_figures_have_a_panel_a_model_and_a_legend(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    sweep: Sweep = request.getfixturevalue(which)
    figure, points = FIGURES[name](sweep)
    panels = {"raw_vs_recalibrated": 6, "loss_vs_params": 1}.get(name, 3)
    assert len(figure.axes) == panels
    assert figure.get_figwidth() == pytest.approx(6.8)
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    levels = [level.replace("_", " ") for level in level_order(sweep.table["level"])]
    assert entries[: len(levels)] == levels or set(levels) <= set(entries)
    assert points["y"].is_finite().all()
    means = points.filter(pl.col("kind").is_in(["mean", "held-out"]))
    assert len(means) == len(means.unique(["family", "model", "level", "quantity", "x"]))
    for axes in figure.axes:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert left < means["x"].min() or name == "loss_vs_params"  # type: ignore[operator]
        assert right > 0
        assert points["y"].is_between(bottom, top).all()


def test_points_are_the_curve(planted: Sweep) -> None:
    _, points = loss_vs_pairs(planted)
    drawn = points.filter(pl.col("kind").is_in(["mean", "held-out"])).sort("model", "level", "x")
    wanted = curve(planted).sort("model", "level", "pairs")
    assert drawn["y"].equals(wanted["mean"].alias("y"))
    assert drawn["se"].equals(wanted["se"])
    counts = dict(points.group_by("kind").len().rows())
    assert counts["mean"] == 72 and counts["draw"] == 288 and counts["bayes"] == 1
    fits, beyond = (points.filter(pl.col("kind") == kind) for kind in ("fit", "extrapolated"))
    assert fits["x"].is_between(299.99, 30_000.01).all()
    assert beyond.is_empty()  # six sizes: with the largest two hidden too few are left, and none is hidden
    assert fits["low"].null_count() == len(fits)  # four draws: no band


def test_what_is_held_out_lies_where_the_line_is_extrapolated(tmp_path: Path) -> None:
    sizes = [500, 1000, 2000, 4000, 8000, 16_000, 32_000]
    sweep = load_sweep(synthetic.planted(tmp_path / "long", draws=5, sizes=sizes, models=["small"]))
    _, points = loss_vs_pairs(sweep)
    hidden, beyond = (points.filter(pl.col("kind") == kind) for kind in ("held-out", "extrapolated"))
    assert set(hidden["x"]) == {16_000.0, 32_000.0}
    starts = beyond.group_by("level").agg(pl.col("x").min().alias("from"))
    assert (starts["from"] == 8_000).all() and len(starts) == hidden["level"].n_unique()
    bands = points.filter(pl.col("kind").is_in(["fit", "extrapolated"]))
    assert bands["low"].null_count() == 0
    assert ((bands["low"] < bands["y"]) & (bands["y"] < bands["high"])).all()


def test_known_levels_differ_in_colour_and_marker() -> None:
    assert len(set(STYLES.values())) == len(STYLES)
    for together in (
        ["raw", "filtered", "corrected", "gold", "random_matched", "no_humans"],
        ["one_vote", "majority_3", "majority_5", "competence_weighted", "strict"],
    ):
        assert len({STYLES[level].colour for level in together}) == len(together)
        assert level_order(reversed(together)) == sorted(together, key=list(STYLES).index)


def test_unknown_levels_get_styles_of_their_own() -> None:
    names = [*STYLES, *(f"filtered@iter{i}" for i in range(12))]
    styles = level_styles(names)
    assert len(set(styles.values())) == len(names)
    assert styles["raw"] == STYLES["raw"]


def test_saved_twice_gives_the_same_bytes(planted: Sweep, tmp_path: Path) -> None:
    first = save(*loss_vs_pairs(planted), tmp_path / "a", "loss")
    second = save(*loss_vs_pairs(planted), tmp_path / "b", "loss")
    assert sorted(first) == ["csv", "pdf", "png", "svg"]
    for suffix, path in first.items():
        assert path.read_bytes() == second[suffix].read_bytes(), suffix
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [f"loss.{s}" for s in sorted(first)]
    svg = first["svg"].read_text()
    assert ">recalibrated log-loss<" in svg  # text is text
    assert b"/FontFile2" in first["pdf"].read_bytes()  # type 42
    table = pl.read_csv(first["csv"])
    assert table.height == loss_vs_pairs(planted)[1].height


def test_threads_draw_without_disturbing_each_other(small_dir: Path, tmp_path: Path) -> None:
    sweep = load_sweep(small_dir)
    drawn: dict[str, bytes] = {}

    def work(folder: str) -> None:
        drawn[folder] = save(*loss_vs_pairs(sweep), tmp_path / folder, "loss")["svg"].read_bytes()

    work("alone")
    threads = [threading.Thread(target=work, args=(folder,)) for folder in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn["a"] == drawn["b"] == drawn["alone"]


def test_one_size_is_no_curve_over_size(planted: Sweep) -> None:
    with pytest.raises(ScalingError, match="two sizes"):
        loss_vs_params(planted.filter(pl.col("model") == "small"))


def test_few_sizes_and_one_draw_are_still_drawn(planted: Sweep) -> None:
    small = planted.filter((pl.col("pairs") <= 1_000) & (pl.col("draw") == 0) & (pl.col("model") == "tiny"))
    for name in ("loss_vs_pairs", "accuracy_vs_pairs", "loss_vs_cost", "raw_vs_recalibrated"):
        _, points = FIGURES[name](small)
        assert set(points["kind"]) >= {"mean", "draw"}
        assert "fit" not in set(points["kind"])


def test_many_models_wrap(planted: Sweep) -> None:
    copies = [
        planted.table.with_columns(model=pl.lit(f"m{i}"), run_id=pl.col("run_id") + str(i)) for i in range(5)
    ]
    one = [
        table.filter(pl.col("params") == 1_600).with_columns(params=pl.col("params") * (i + 1))
        for i, table in enumerate(copies)
    ]
    sweep = type(planted)("many", planted.directory, pl.concat(one), {**planted.meta, "cells": []}, [])
    for name, panels in (("accuracy_vs_pairs", 5), ("raw_vs_recalibrated", 10)):
        figure, _ = FIGURES[name](sweep)
        assert len(figure.axes) == panels
        boxes = [axes.get_position() for axes in figure.axes]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(
    ("number", "label"), [(300, "300"), (1_000, "1k"), (17_500, "17.5k"), (2e6, "2M"), (0.35, "0.35")]
)
def test_compact(number: float, label: str) -> None:
    assert compact(number) == label


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Five model sizes, seven data sizes, five draws: enough for a law in compute."""
    synthetic.MODELS.update(WIDE)
    sizes = [500 * 2**k for k in range(7)]
    try:
        folder = synthetic.planted(
            tmp_path_factory.mktemp("wide") / "s", draws=5, sizes=sizes, models=list(WIDE)
        )
    finally:
        for name in WIDE:
            del synthetic.MODELS[name]
    return load_sweep(folder)


WIDE = {"a": 3_000, "b": 9_000, "c": 30_000, "d": 90_000, "e": 300_000}


def test_the_frontier_lies_below_every_curve_at_its_budget(wide: Sweep) -> None:
    assert figures_compute.compute_families(wide) == ["transformer"]
    figure, drawn = figures_compute.compute_frontier(wide)
    assert len(figure.axes) == 2 and set(drawn["kind"]) >= {"frontier", "profile"}
    best = drawn.filter(pl.col("kind") == "frontier")
    assert set(best["level"]) == set(wide.table["level"])
    gold = best.filter(pl.col("level") == "gold").sort("budget")
    profiles = drawn.filter(pl.col("kind") == "profile")
    at = np.interp(np.log(profiles["budget"]), np.log(gold["budget"]), gold["loss"])
    assert (profiles["loss"].to_numpy() > at - 0.003).all()
    inside = gold.drop_nulls(["low", "high"])
    assert len(inside) == len(gold) and (inside["low"] <= inside["loss"]).all()
    # twice the compute at the best split never hurts
    assert (gold["loss"].diff().drop_nulls() < 0).all()
    lines = figures_compute.describe(wide)
    assert len(lines) == 4 and all("N* grows as C^0." in line for line in lines)


def test_few_sizes_have_no_frontier(planted: Sweep) -> None:
    assert figures_compute.compute_families(planted) == []
    with pytest.raises(ScalingError, match="5 model sizes and 7 data sizes"):
        figures_compute.compute_frontier(planted)


def test_the_report_draws_the_frontier_where_the_axes_allow_it(wide: Sweep, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wide.directory, tmp_path / "gold"))
    rows = pl.read_parquet(folder / "results.parquet")
    rows.filter(pl.col("level") == "gold").write_parquet(folder / "results.parquet")
    page = write_report(folder).read_text()
    assert "id='compute_frontier'" in page and "<h2>Compute</h2>" in page and "N* grows as C^0." in page
