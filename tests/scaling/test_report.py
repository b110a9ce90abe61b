"""The page: complete, escaped, self-contained, the same bytes twice, there even when nothing has finished."""

import dataclasses
import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from rewardscale.scaling.collect import ScalingError, Sweep
from rewardscale.scaling.figures import FIGURES
from rewardscale.scaling.findings import findings, predicted_ratios
from rewardscale.scaling.report import headline, write_report
from tests.scaling import synthetic


class Outline(HTMLParser):
    """Collects ids and addresses, and checks that tags close."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [v for k, v in found.items() if k == "id" and v]
        self.addresses += [v for k, v in found.items() if k in ("href", "src", "xlink:href") and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def reported(planted_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("report") / "planted"
    shutil.copytree(planted_dir, workdir)
    start = time.process_time()
    page = write_report(workdir)
    # About 5 s on an idle core; a guard against quadratic surprises, not a measurement.
    assert time.process_time() - start < 30
    return page


def page_figures() -> list[str]:
    """What a planted sweep of four draws and six sizes is drawn as."""
    return [*FIGURES, "ratios", "collapse", "robustness", "loss_vs_pairs_on_raw", "forest"]


def test_the_page_is_self_contained_and_well_formed(reported: Path) -> None:
    page = Outline(reported.read_text())
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    inside = {f"#{name}" for name in page.ids}
    outside = {address for address in page.addresses if address not in inside}
    assert outside and all((reported.parent / address).is_file() for address in outside)
    assert "url(http" not in reported.read_text()
    assert page.tags.count("figure") == len(page_figures())


def test_figures_lie_beside_it(reported: Path) -> None:
    names = {path.name for path in (reported.parent / "figures").iterdir()}
    assert names == {f"{name}.{suffix}" for name in page_figures() for suffix in ("svg", "pdf", "png", "csv")}


def test_everything_is_escaped(reported: Path) -> None:
    text = reported.read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert" in text


def test_what_it_says(reported: Path) -> None:
    text = reported.read_text()
    for words in (
        "288 of 288 planned runs",
        "SYNTHETIC planted sweep",
        "fewer than 5, no interval",
        "exponent β",
    ):
        assert words in text
    order = [
        "What a curated pair buys",
        "Curves, each fitted alone",
        "Robustness",
        "Means over draws",
        "Checklist",
    ]
    places = [text.index(f"<h2>{title}") for title in [*order, "Where it comes from"]]
    assert places == sorted(places)
    heads = re.findall(r"<th[^>]*>([^<]+)</th>", text)
    means = heads[heads.index("temperature") - 9 :]
    means = means[: means.index("pairs per second") + 1]
    assert means[-2:] == ["training time, s", "pairs per second"]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with intervals: six draws, seven sizes, one model."""
    sizes = [500, 1000, 2000, 4000, 8000, 16_000, 32_000]
    workdir = tmp_path_factory.mktemp("report") / "studied"
    return write_report(synthetic.planted(workdir, draws=6, sizes=sizes, models=["medium"]))


def test_with_enough_draws_the_first_sentence_has_an_interval_that_holds_the_truth(studied: Path) -> None:
    text = studied.read_text()
    said = re.search(r"one gold pair is worth ([\d.]+) \[([\d.]+), ([\d.]+)\] raw pairs", text)
    assert said
    estimate, low, high = map(float, said.groups())
    ratios = []  # raw pairs that give the loss of so many gold pairs, from the formula that made the numbers
    for gold in (1000, 2000, 4000):
        wanted = synthetic.true_loss("gold", gold, 36_864)
        floor, scale, _ = synthetic.LEVELS["raw"]
        rest = wanted - floor - synthetic.SIZE_TERM * 36_864**-synthetic.ALPHA
        ratios.append((scale / rest) ** (1 / synthetic.BETA) / gold)
    assert low < estimate < high
    assert min(ratios) * 0.9 < low < high < max(ratios) * 1.1
    assert "95 % intervals over 6 draws" in text and "nothing is extrapolated" in text
    assert "levels differ in floor and in exchange rate" in text


def test_every_figure_that_the_axes_allow_is_there(studied: Path) -> None:
    drawn = {path.stem for path in (studied.parent / "figures").glob("*.svg")}
    wanted = {
        "loss_vs_pairs",
        "ratios",
        "collapse",
        "forest",
        "held_out",
        "robustness",
        "raw_vs_recalibrated",
    }
    assert wanted <= drawn
    for name in drawn:
        points = pl.read_csv(studied.parent / "figures" / f"{name}.csv")
        assert len(points) > 0
    ratios = pl.read_csv(studied.parent / "figures" / "ratios.csv")
    assert ratios["low"].null_count() < len(ratios)


def test_two_writes_are_the_same_bytes(small_dir: Path, tmp_path: Path) -> None:
    pages, drawn = [], []
    for name in ("a", "b"):
        shutil.copytree(small_dir, tmp_path / name)
        pages.append(write_report(tmp_path / name).read_bytes())
        drawn.append({path.name: path.read_bytes() for path in (tmp_path / name / "figures").iterdir()})
    assert pages[0] == pages[1]
    assert drawn[0] == drawn[1]


def test_headline_numbers_are_those_of_the_table(planted: Sweep) -> None:
    worth, kind, levels, gap = headline(planted)
    at = planted.table.filter(
        pl.col("model").eq("medium") & pl.col("pairs").eq(30_000) & pl.col("eval_set").eq("gold")
    )
    for level in synthetic.LEVELS:
        rows = at.filter(pl.col("level") == level)
        assert f"{100 * rows['accuracy'].mean():.2f}" in levels  # type: ignore[operator]
        assert f"{rows['loss_recalibrated'].mean():.4f}" in levels
    assert "gold minus raw" in gap and "The signs agree." in gap
    assert "one gold pair is worth" in worth and "no interval" in worth and "[" not in worth
    assert "not tested" in kind


def test_a_base_that_has_learned_nothing_predicts_no_ratio(planted: Sweep) -> None:
    flips = {"corruption": "flips", "rate": 0.3, "curator_accuracy": 0.9}
    known = dataclasses.replace(
        planted, meta={**planted.meta, "config": {"data": {"source": "planted", "planted": flips}}}
    )
    (found,) = findings(known.filter(pl.col("family") == "transformer"))[:1]
    assert found.base == "raw" and predicted_ratios(known, [found])["gold"] == pytest.approx(1 / 0.4**2)
    learned = found.points.table["level"] != found.base
    without = dataclasses.replace(found, points=found.points.select(learned.to_numpy()))
    assert predicted_ratios(known, [without]) == {}


def test_votes_speak_of_votes(votes: Sweep) -> None:
    sentences = headline(votes)
    assert len(sentences) == 8  # four a family
    assert "Counted in votes, one spent on strict buys what 0." in sentences[0]


@pytest.mark.slow
def test_a_votes_report_with_a_fold_missing(votes_dir: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "votes"
    shutil.copytree(votes_dir, workdir)
    table = pl.read_parquet(workdir / "results.parquet")
    table.filter(pl.col("run_id") != table["run_id"][0]).write_parquet(workdir / "results.parquet")
    text = write_report(workdir).read_text()
    assert "719 of 720 planned runs" in text
    assert "1 draws lack some of their folds" in text
    assert "majority_5" in text
    assert "votes paid" in text
    assert Outline(text).open == []


def test_missing_runs_are_listed_with_reasons(small_dir: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "partial"
    shutil.copytree(small_dir, workdir)
    table = pl.read_parquet(workdir / "results.parquet")
    gone = table["run_id"][0]
    table.filter(pl.col("run_id") != gone).write_parquet(workdir / "results.parquet")
    (workdir / "missing.json").write_text(
        json.dumps([{"run_id": gone, "reason": "loss became NaN at <step> 7"}])
    )
    text = write_report(workdir).read_text()
    assert "31 of 32 planned runs" in text
    assert "1 runs without a result" in text
    assert "loss became NaN at &lt;step&gt; 7" in text


@pytest.mark.parametrize("empty_table", [False, True])
def test_a_sweep_without_a_finished_run_gets_a_page(
    small_dir: Path, tmp_path: Path, empty_table: bool
) -> None:
    shutil.copy(small_dir / "sweep.json", tmp_path)
    if empty_table:
        pl.read_parquet(small_dir / "results.parquet").head(0).write_parquet(tmp_path / "results.parquet")
    text = write_report(tmp_path).read_text()
    assert "0 of 32 planned runs" in text
    assert "No run has finished yet" in text
    assert "32 runs without a result" in text
    assert Outline(text).open == []


def test_one_finished_run_is_enough(small_dir: Path, tmp_path: Path) -> None:
    shutil.copy(small_dir / "sweep.json", tmp_path)
    table = pl.read_parquet(small_dir / "results.parquet")
    table.filter(pl.col("run_id") == table["run_id"][0]).write_parquet(tmp_path / "results.parquet")
    text = write_report(tmp_path).read_text()
    assert "1 of 32 planned runs" in text
    assert "not drawn: loss against model size wants two sizes" in text


def test_learning_rate_scales_are_not_mixed(small_dir: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "rates"
    shutil.copytree(small_dir, workdir)
    table = pl.read_parquet(workdir / "results.parquet")
    hot = table.with_columns(
        pl.col("run_id") + "-hot", pl.col("lr_scale") * 3, pl.col("loss_recalibrated") + 1
    )
    pl.concat([table, hot]).write_parquet(workdir / "results.parquet")
    text = write_report(workdir).read_text()
    assert "Figures and tables show learning-rate scale 1; results.parquet also holds 3." in text
    assert "Not shown" not in text


def test_not_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(ScalingError, match=r"no sweep\.json"):
        write_report(tmp_path)
