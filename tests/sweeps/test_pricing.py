"""Hours and cost of a sweep on a slice: what is printed adds up, and is the formula that is printed with it."""

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardscale import flops, launch, plan
from rewardscale.config import AssumedSweep, ModelConfig
from rewardscale.models import presets
from rewardscale.sweeps import configfile, pricing, sweep
from rewardscale.training import dry_run, planning
from tests.sweeps.launching import ROOT, TINY

GRID = ("--config=paper_curves.py:scaling", "--dry_run", "--without_data")
KEPT = sorted((ROOT / "docs" / "pods").glob("*.txt"))


@pytest.fixture(autouse=True)
def no_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(capsys, *arguments: str) -> str:
    assert launch.main(list(arguments)) == 0
    return capsys.readouterr().out


def number(text: str) -> float:
    return float(text.replace(",", ""))


def table(page: str) -> dict[tuple[str, str], list[str]]:
    """(model, pairs) -> the other columns of a line."""
    lines = page[page.index("cells x h") :].split("\n\n")[0].splitlines()[1:]
    return {(words[0], words[1]): words[2:] for words in map(str.split, lines)}


def test_the_eight_models_of_five_sizes_and_four_levels_add_up(capsys) -> None:
    """160 cells; sums over sizes are the models' lines, sums over models the total; chips and price multiply."""
    page = run(capsys, *GRID, "--chip_hour_price=2.5")
    rows = table(page)
    single = {key: words for key, words in rows.items() if key[1] != "all"}
    assert len(single) == 8 * 5 and {words[0] for words in single.values()} == {"4"}
    for name in (*presets.BACKBONES, "all"):
        own = [words for (model, _), words in single.items() if name in (model, "all")]
        cells, hours, chip_hours = rows[name, "all"]
        assert int(cells) == sum(int(words[0]) for words in own)
        assert number(hours) == pytest.approx(sum(number(w[-2]) for w in own), abs=0.005 * (len(own) + 1))
        assert number(chip_hours) == pytest.approx(64 * number(hours), abs=64 * 0.006)
    for words in single.values():
        training, evaluation, start, total = map(number, words[3:7])
        assert total == pytest.approx(4 * (training + evaluation + start), abs=0.012)
    cells, hours, chip_hours = rows["all", "all"]
    assert int(cells) == 160 and page.startswith("160 cells on v5p:4x4x4, 64 chips a cell")
    said = re.search(r"64 chips x ([\d,.]+) hours = ([\d,]+) chip hours", page)
    cost = re.search(r"cost +([\d,]+) chip hours x 2\.5 \(--chip_hour_price\) = ([\d,]+)\n", page)
    assert said and cost and said[1] == hours and said[2] == cost[1]
    assert number(cost[2]) == pytest.approx(2.5 * number(chip_hours), abs=1)


def test_a_cell_s_hours_by_hand() -> None:
    """8 million pairs of Qwen3 8B: nine rows of 32,768 tokens a step in sixteen, at 40 % of 64 chips' peak."""
    config = configfile.load("paper_curves.py:scaling")[0]
    (one,) = [
        p for p in pricing.price(config, pricing.of_grid(config)) if (p.model, p.pairs) == ("qwen3-8b", 8_000_000)
    ]  # fmt: skip
    forward = flops.comparison_flops(presets.BACKBONES["qwen3-8b"].model, 150, [480, 480])
    second = 64 * 459e12 * 0.4
    filled = 256 * 1110 / (16 * 32_768)
    assert one.cells == 4 and one.training.steps == 31_250
    assert one.training_hours == pytest.approx(3 * 8e6 * forward / second / filled / 3600)
    assert one.evaluation_hours == pytest.approx(100_000 * forward / second / 3600)
    assert one.hours == pytest.approx(one.training_hours + one.evaluation_hours + 10 / 60)


def kept_pages(path: Path) -> list[tuple[list[str], str]]:
    """The flags of each command of a kept file, and what it printed."""
    parts = re.split(r"^\$ python -m rewardscale\.launch (.*)\n", path.read_text(), flags=re.MULTILINE)
    assert parts[0] == "" and len(parts) > 2
    return [(shlex.split(flags), page) for flags, page in zip(parts[1::2], parts[2::2], strict=True)]


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_pages_that_are_kept_are_what_their_commands_print(capsys, path: Path) -> None:
    """But for the compiler's bytes, which are in the cache of whoever has asked it: here, that all were asked for."""
    memory = re.compile(r"(\d%) +(?:[\d.]+|not compiled)$", flags=re.MULTILINE)
    for flags, page in kept_pages(path):
        assert "not compiled" not in page
        assert memory.sub(r"\1", page).strip() == memory.sub(r"\1", run(capsys, *flags)).strip()


def test_the_v5p_128_is_kept_with_the_compiler_s_bytes() -> None:
    (first, page), *_ = kept_pages(ROOT / "docs" / "pods" / "v5p-128.txt")
    assert tuple(first) == GRID and page.startswith("160 cells on v5p:4x4x4, 64 chips a cell")
    found = [float(m) for m in re.findall(r"\d% +([\d.]+)$", page, flags=re.MULTILINE)]
    assert len(found) == 8 and all(0 < gib < planning.HBM["v5p"] / planning.GIB for gib in found)


def test_without_a_price_the_formula_asks_for_one(capsys) -> None:
    page = run(capsys, *GRID)
    assert re.search(r"cost +[\d,]+ chip hours x the price of one, which --chip_hour_price=\.\.\. says", page)
    assert "hours    of a cell = (FLOPs / filled + evaluation FLOPs) / (64 chips x 459 TFLOP/s x 40%" in page


def test_smaller_slices_at_once_fill_their_rows_better(capsys) -> None:
    """The same chips as four slices: 9 rows in 12 instead of in 16."""
    whole = table(run(capsys, *GRID))["all", "all"]
    flags = ("--config.assumed.topology=v5p:2x2x4", "--config.runtime.rows_per_microbatch=4")
    page = run(capsys, *GRID, *flags, "--config.assumed.slices=4", "--config.assumed.start_minutes=0")
    assert number(table(page)["all", "all"][2]) < 0.75 * number(whole[2])
    assert "4 slices, a cell each" in page and "72%" in page
    assert "cannot be dealt" not in page
    assert "cannot be dealt over data x fsdp" in run(capsys, *GRID, "--config.runtime.rows_per_microbatch=4")


def test_gpus_are_priced_too(capsys) -> None:
    page = run(
        capsys, *GRID, "--config.assumed.topology=h100:8", "--config.runtime.mesh=1,-1,1",
        "--config.runtime.rows_per_microbatch=8",
    )  # fmt: skip
    assert "160 cells on h100:8, 8 chips a cell" in page and "8 chips x 990 TFLOP/s" in page
    config = configfile.load(
        "skywork_v2.py:qwen3-8b", {"assumed.topology": "h100:64"}, kind=dry_run.TrainConfig
    )[0]
    step = planning.by_arithmetic(dry_run.step_job(config))
    assert pricing.bytes_a_chip(config, dry_run.model_of(config)) == f"{step.gib:.1f}"


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0.01, 50)), min_size=1, max_size=8), st.integers(1, 6))
def test_the_last_cell_ends_between_what_no_order_beats_and_twice_that(
    kinds: list[tuple[int, float]], slices: int
) -> None:
    config = configfile.load("paper_curves.py:scaling")[0]
    some = pricing.price(config, {("qwen3-0.6b", 80_000): 1})[0]
    priced = [
        dataclasses.replace(some, cells=n, training_hours=hours, evaluation_hours=0.0, start_hours=0.0)
        for n, hours in kinds
    ]
    best = max(sum(n * h for n, h in kinds) / slices, max(h for _, h in kinds))
    assert best * (1 - 1e-9) <= pricing.wall_hours(priced, slices) <= 2 * best


def test_with_data_their_lengths_take_the_place_of_assumed_ones(capsys, tmp_path) -> None:
    """A sweep that is laid out: all its cells, and nearly their FLOPs, by the mean lengths of its corpus."""
    flags = [*TINY, f"--workdir={tmp_path / 'w'}", "--config.assumed.topology=v5e:2x4", "--dry_run"]
    page = run(capsys, *flags)
    assert "4 cells, 0 done" in page and "4 cells on v5e:2x4, 8 chips a cell" in page
    assert "of the sweep's corpus: means of the" in page
    config = configfile.load(TINY[0].partition("=")[2], {"assumed.topology": "v5e:2x4"})[0]
    narrow = dataclasses.replace(
        config.sweep, models=("w8",), pairs=(100, 250), levels=("raw", "gold"), draws=1
    )
    laid = sweep.plan(dataclasses.replace(config, sweep=narrow), tmp_path / "w")
    view = laid.context().view
    assert view is not None
    training = pricing.training_of(laid.config, "w8", 250)
    sizes = dry_run.sizes_of(training, np.asarray(view.lengths), source="")
    for cell in laid.cells:
        assert isinstance(cell.run.model, ModelConfig)
        counted = {("w8", cell.run.pairs): 1}
        (one,) = pricing.price(laid.config, counted, sizes, {"w8": cell.run.model})
        assert one.training.flops == pytest.approx(cell.flops, rel=0.1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config.sweep.pairs=0",), "which data must say"),
        (("--config.sweep.models=hash4096",), "is a convex model, fitted on a CPU"),
        (("--config.assumed.topology=",), "no slice to price"),
        (("--config.assumed.topology=h100:many",), "GPUs are a kind and how many"),
        (("--config.assumed.topology=v5p:3x3x3",), "slices of v5p are"),
        (("--config.assumed.slices=0",), "assumed.slices=0 must be greater"),
        (("--config.sweep.levels=",), "the sweep has no cells"),
    ],
)
def test_what_cannot_be_priced_is_one_error(capsys, flags, message) -> None:
    assert launch.main([*GRID, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("error: ") == 1


@pytest.mark.parametrize(
    "flags",
    [GRID[:1] + GRID[2:], (*GRID, "--executor=slurm"), (*GRID, "--cell=x"), (*GRID, "--chip_hour_price=-1")],
)
def test_flags_that_do_not_go_together_are_refused(capsys, flags) -> None:
    with pytest.raises(SystemExit) as stop:
        launch.main(list(flags))
    assert stop.value.code == 2 and capsys.readouterr().err.count("error: ") == 1


def test_the_compiler_s_bytes_are_shown_where_it_was_asked(capsys, monkeypatch, tmp_path) -> None:
    """A result as the cache keeps it; the compile itself is tests/test_plan.py's."""
    config = configfile.load("paper_curves.py:scaling")[0]
    job = dry_run.step_job(pricing.training_of(config, "qwen3-4b", 1))
    assert (job.mesh, job.rows, job.length, job.slots) == ((1, 16, 4), 1, 32_768, 64)
    answer = planning.Result(True, 7 * 2**30, 0, 0, 0, 0.0, 0, planning.code_hash(), job.key)
    asked = []
    monkeypatch.setattr(planning, "compile_apart", lambda job: asked.append(job) or answer)
    assert plan.main(["--sweep=paper_curves.py:scaling"]) == 0
    out = capsys.readouterr().out
    assert out.count("64 trees a row: fits: 7.00 of 95.73 GiB") == 8 and len(asked) == 7
    page = run(capsys, *GRID)
    assert page.count("54%              7.0\n") == 8 and "not compiled" not in page


def test_no_run_id_depends_on_what_is_assumed(tmp_path) -> None:
    config = configfile.load(TINY[0].partition("=")[2])[0]
    other = dataclasses.replace(config, assumed=AssumedSweep(topology="v5e:2x4", slices=3))
    ids = [[c.run_id for c in sweep.plan(c, tmp_path).cells] for c in (config, other)]
    assert ids[0] == ids[1]
