"""`python -m rewardscale.plan`: real compiles for TPUs that are not there, their cache, the searches, bad input."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale import flops, plan
from rewardscale.config import REMAT, TrainConfig
from rewardscale.models import presets
from rewardscale.sweeps import configfile
from rewardscale.training import dry_run, plan_table, planning, searches
from rewardscale.training.planning import GIB, Job, Result

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra 'aot' or 'test')"
)
REPO = Path(__file__).parents[1]
SMALLEST = "qwen3-0.6b"


def job(mode: str = "train", topology: str = "v5e:2x2", name: str = SMALLEST, **changes: Any) -> Job:
    model = presets.BACKBONES[name].model
    start = Job(mode, model, topology, planning.mesh_over(topology, model=model))
    return dataclasses.replace(start, **changes)


def result(needed: float, *, limit: float = planning.HBM["v5e"], key: str = "") -> Result:
    part = int(needed) // 2
    return Result(
        needed <= limit, int(needed), part, int(needed) - part, 0, 1.0, 0, planning.code_hash(), key
    )


def _size(name: str) -> str:
    model = presets.BACKBONES[name].model
    return f"{model.layers} layers of width {model.width}"


def remember(cache: Path, a_job: Job, a_result: Result) -> None:
    """Puts a result into the cache, as a compile would."""
    cache.mkdir(exist_ok=True)
    (cache / f"{a_job.key}.json").write_text(json.dumps({"result": dataclasses.asdict(a_result)}))


@needs_libtpu
@pytest.mark.parametrize("name", [SMALLEST, pytest.param("llama3.2-1b", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["train", "score"])
def test_the_two_smallest_presets_compile_for_four_chips_and_are_remembered(
    name: str, mode: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = [
        f"--model={name}",
        "--topology=v5e:2x2",
        f"--mode={mode}",
        "--rows_per_chip=1",
        "--remat=full",
        f"--cache={tmp_path}",
    ]
    assert plan.main(flags) == 0
    first = capfd.readouterr()
    assert "fits: " in first.err and f"{mode} {_size(name)}, v5e:2x2 as (1, 4, 1)" in first.out
    (kept,) = tmp_path.glob("*.json")
    record = json.loads(kept.read_text())["result"]
    print(f"{mode}: {record['needed_bytes'] / GIB:.2f} GiB a chip, compiled in {record['seconds']:.0f} s")
    assert record["fits"] and record["rematerialized"] == 0
    state = flops.state_bytes(job(name=name).model, planning.STORAGE)
    held = state["parameters"] + (state["master"] + state["moments"] if mode == "train" else 0)
    assert (
        0.99 * held / 4 < record["argument_bytes"] < 1.02 * held / 4 + 2**20
    )  # all of it split over the chips
    # One row of 4,096 tokens: scores of all its heads, with their weights and cotangents, would be 4 GiB (6 of
    # the wider model, whose gradients take more too).
    most = {"qwen3-0.6b": 2.25, "llama3.2-1b": 3.0}[name] if mode == "train" else 0.75
    assert record["temporary_bytes"] < most * GIB
    capfd.readouterr()
    assert plan.main([*flags, "--offline"]) == 0
    again = capfd.readouterr()
    assert again.out == first.out and not again.err


@needs_libtpu
def test_what_does_not_fit_is_said_with_its_bytes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--model=llama3.1-8b",
        "--topology=v5e:1x1",
        "--mode=train",
        "--rows_per_chip=1",
        "--remat=full",
        f"--cache={tmp_path}",
    ]
    assert plan.main(flags) == 1
    found = re.search(r"does not fit: needs ([\d.]+) GiB of 15\.75", capfd.readouterr().out)
    assert found and 100 < float(found[1]) < 200


@needs_libtpu
def test_a_compile_that_dies_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    compiler = planning.Compiler(tmp_path)
    with pytest.raises(planning.CompileError, match=r"(?s)exit code 1.*uses 3 of 4"):
        compiler(job(mesh=(1, 3, 1)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model=qwen-0.6b", "--topology=v5e:2x2"), "did you mean 'qwen3-0.6b'?"),
        (("--model=qwen3-0.6b", "--topology=v5x:2x2"), "must be one of v5e, v6e, v5p"),
        (("--model=qwen3-0.6b", "--topology=h100"), "must be one of v5e, v6e, v5p"),
        (("--model=qwen3-0.6b", "--topology=v5p:4x4"), "slices of v5p are 1x1x1, 2x1x1"),
        (("--model=qwen3-0.6b", "--topology=v5e:4x4", "--mesh=1,3,1"), "whose product is 16, the chips of v5e:4x4"),
        (("--model=qwen3-0.6b", "--topology=v5e:4x4", "--mesh=1,-1,3"), "whose product is 16, the chips of v5e:4x4"),
        (("--model=qwen3-0.6b", "--topology=v5e:4x4", "--mesh=4,4"), "three sizes (data, fsdp, tensor)"),
        (("--model=qwen3-0.6b", "--topology=v5e:4x4", "--mesh=a,b,c"), "three whole numbers"),
    ],
)  # fmt: skip
def test_bad_input(
    flags: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main([*flags, f"--cache={tmp_path}"]) == 2
    assert message in capsys.readouterr().err


def test_a_mesh_may_leave_one_size_open() -> None:
    assert planning.mesh_over("v5e:4x4") == (1, 16, 1)
    assert planning.mesh_over("v5e:4x4", (2, -1, 4)) == (2, 2, 4)
    assert planning.mesh_over("v5p:4x4x4", (64, 1, -1)) == (64, 1, 1)


def test_by_default_shares_of_the_width_are_not_narrower_than_a_register() -> None:
    meshes = {name: job(name=name, topology="v5e:16x16").mesh for name in presets.BACKBONES}
    assert meshes["qwen3-0.6b"] == (32, 8, 1) and meshes["llama3.1-8b"] == (8, 32, 1)
    assert meshes["qwen3-4b"] == meshes["llama3.2-3b"] == (16, 16, 1)  # widths 2,560 and 3,072
    assert job(topology="v5e:1x1").mesh == (1, 1, 1)


@needs_libtpu
def test_a_job_survives_its_way_to_the_compiler_and_names_its_result_by_all_it_says() -> None:
    one = job(name="llama3.1-8b")
    assert planning.job_from(json.loads(json.dumps(dataclasses.asdict(one)))) == one
    changes: list[dict[str, Any]] = [
        {}, {"mode": "score"}, {"rows": 2}, {"length": 8192}, {"effort": "O2"}, {"remat": "dots"}
    ]  # fmt: skip
    others = [job(name="llama3.1-8b", **change) for change in changes]
    assert others[0].key == one.key and len({other.key for other in others}) == len(others)
    assert job(name="llama3.1-8b-40m").key == one.key  # the same architecture


@settings(max_examples=200, deadline=None)
@given(
    base=st.floats(0.05, 1.2),
    slope=st.floats(1e-4, 0.6),
    bend=st.floats(0, 0.1),
    guess=st.floats(0.01, 30),
    cap=st.sampled_from([1, 16, 64, 500]),
)
def test_the_largest_that_fits_is_found_by_few_compiles(
    base: float, slope: float, bend: float, guess: float, cap: int
) -> None:
    """Bytes grow with n nearly as a line; the first guess is off by up to thirty times."""
    compiles: set[int] = set()

    def needed(n: int) -> float:
        return base + slope * n * (1 + bend * n / cap)

    def run(n: int) -> Result:
        compiles.add(n)
        return result(needed(n) * 1e9, limit=1e9)

    start = (1 - base) / slope * guess
    n, found = searches.largest(run, start=1, guess=start, cap=cap, step=1, limit=1e9)
    assert len(compiles) <= 5 and max(compiles) <= cap
    if n == 0:
        assert needed(1) > 1 and not found.fits
        return
    assert found.fits and found.needed_bytes == int(needed(n) * 1e9)
    assert cap <= n * 9 / 8 or needed(int(n * 9 / 8) + 2) > 1 - 0.05 or len(compiles) == 5


def test_an_interrupted_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Only what is not in the cache yet is asked for."""

    def run(one: Job) -> Result:
        return result((1 + one.rows * one.length / 4096) * GIB)

    whole = searches.plan(job(), run, context=40_960)
    assert (whole.rows, whole.longest) == (14, 40_960) and whole.at_rows.fits and whole.at_longest.fits
    for rows in (1, whole.rows):
        remember(tmp_path, job(rows=rows), run(job(rows=rows)))
    wanted: list[str] = []
    compiler = planning.Compiler(tmp_path, offline=True)

    def recorded(one: Job) -> Result:
        try:
            return compiler(one)
        except planning.Missing as missing:
            wanted.append(str(missing))
            return run(one)

    assert searches.plan(job(), recorded, context=40_960).longest == 40_960
    assert wanted and not any(" 14 x 4096 tokens" in line or " 1 x 4096 tokens" in line for line in wanted)


def test_other_sources_count_only_if_asked(tmp_path: Path) -> None:
    old = dataclasses.replace(result(GIB), code="another")
    remember(tmp_path, job(), old)
    assert planning.Compiler(tmp_path, offline=True)(job()) == old
    with pytest.raises(planning.Missing):
        planning.Compiler(tmp_path, offline=True, fresh=True)(job())


@pytest.mark.slow
@needs_libtpu
def test_the_step_of_a_trainings_config_compiles(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The development recipe of the smallest backbone, as it is: its 16 chips, rows of 32,768 tokens, tensor split."""
    flags = ["--config=skywork_v2.py:qwen3-0.6b-dev", f"--cache={tmp_path}"]
    assert plan.main(flags) == 0
    said = capfd.readouterr().out
    assert "v5p:2x2x4 as (1, 4, 4), 1 x 32768 tokens a chip, remat=full, 64 trees a row: fits" in said
    (kept,) = tmp_path.glob("*.json")
    assert json.loads(kept.read_text())["result"]["rematerialized"] == 0
    assert plan.main([*flags, "--offline"]) == 0 and plan.main([*flags, "--offline", "--slots=8"]) == 1


def test_overrides_want_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plan.main(["--model=qwen3-0.6b", "--topology=v5e", "--config.runtime.remat=none"])
    assert "name it with --config" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        plan.main(["--config=skywork_v2.py:qwen3-0.6b", "--length=8192"])
    assert "--length is for a preset" in capsys.readouterr().err


def tables(text: str) -> dict[str, list[list[str]]]:
    """Rows of cells of each Markdown table, by the heading above it."""
    out: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        elif line.startswith("|"):
            out.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return out


def test_the_page_without_compiles_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.md"
    assert plan.main(["--table", "--offline", f"--cache={tmp_path}", f"--out={out}"]) == 1
    found = tables(out.read_text())
    pods = [name for name in found if name.startswith(("v5e", "v6e", "v5p"))]
    assert len(pods) == 3  # of each the last table, scoring's, stands
    for name in pods:
        assert [row[0] for row in found[name][2:9]] == list(plan_table.architectures().values())
        assert {cell for row in found[name][2:9] for cell in row[1:]} == {plan_table.ABSENT}
    assert "0 new compiles, 91 cells without a compile" in capsys.readouterr().out


def test_the_page_shows_what_the_cache_holds(tmp_path: Path) -> None:
    def compile_it(one: Job) -> Result:
        done = result((1 + one.rows * one.length / 4096) * GIB)
        remember(tmp_path, one, done)
        return done

    searches.plan(job(topology="v5e:16x16"), compile_it, context=40_960)
    out = tmp_path / "plan.md"
    plan.main(["--table", "--offline", f"--cache={tmp_path}", f"--out={out}"])
    (row, *_) = [
        line for line in out.read_text().splitlines() if line.startswith("| qwen3-0.6b | 32,8,1 | 2.00")
    ]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["qwen3-0.6b", "32,8,1", "2.00", "1.00", "1.00", "14 (15.0)", "40,960 (11.0)"]
    assert "Nothing was run" in out.read_text() and "not compiled, not run" in out.read_text()


def test_analytic_bytes_of_gpus() -> None:
    """Llama 3.1 8B: eight H100 hold it in float32 moments, one H200 in bfloat16 ones; by hand for the state."""
    rows = {(row[0], row[1]): row for row in plan_table._gpu_rows(["llama3.1-8b"], 4096)}
    eight, one = (rows[plan_table.architectures()["llama3.1-8b"], label] for label, _ in plan_table.CARDS)
    count = 7_504_924_672  # parameters without a language-model head
    assert eight[2] == "float32" and one[2] == "bfloat16"
    assert float(eight[3]) == pytest.approx(count * (2 + 4 + 8 + 4 + 2) / 8 / 1e9, abs=0.1)
    assert float(one[3]) == pytest.approx(count * (2 + 4 + 4 + 2 + 2) / 1e9, abs=0.1)
    assert int(eight[-1]) > 10 and int(one[-1]) >= 1
    assert float(one[4]) == 0  # nothing is gathered on one device


def bytes_by_remat(one: Job, *, kept: dict[str, float]) -> Result:
    """A stand-in for the compiler: 2 GiB of state, and so many GiB kept for each 4,096 tokens by each policy."""
    return result((2 + kept[one.remat] * one.rows * one.length / 4096) * GIB)


KEPT = {"none": 40.0, "dots": 20.0, "attention": 3.0, "full": 1.0}


@pytest.mark.parametrize(
    ("scale", "taken"), [(0.1, "none"), (0.5, "dots"), (1, "attention"), (10, "full"), (99, "")]
)
def test_the_least_recomputation_that_fits_is_taken_and_no_more_is_tried(scale: float, taken: str) -> None:
    kept = {name: scale * gib for name, gib in KEPT.items()}
    choice = searches.least_recomputation(job(rows=1), lambda one: bytes_by_remat(one, kept=kept))
    assert choice.result.fits == bool(taken) and choice.job == job(remat=taken or "full")
    assert tuple(name for name, _ in choice.tried) == REMAT[: REMAT.index(taken or "full") + 1]
    assert [result.fits for _, result in choice.tried[:-1]] == [False] * (len(choice.tried) - 1)


@needs_libtpu
def test_what_was_tried_is_printed_and_what_was_taken_is_what_a_training_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The most rows are of what was taken, the longest row is looked for with all recomputed."""

    def run(one: Job) -> Result:
        done = bytes_by_remat(one, kept=KEPT)
        remember(tmp_path, one, done)
        return done

    chosen = searches.least_recomputation(job(topology="v5e:4x4"), run)
    done = searches.plan(chosen.job, run, context=40_960, longest_with="full")
    assert (done.rows, done.longest) == (4, 40_960) and done.at_longest.gib == 12
    flags = [f"--model={SMALLEST}", "--topology=v5e:4x4", "--mode=train", f"--cache={tmp_path}", "--offline"]
    assert plan.main(flags) == 0
    said = capsys.readouterr().out
    lines = [re.split(r"  +", line) for line in said.splitlines()]
    assert lines[1:3] == [[*REMAT, "taken"], ["42.0: too many", "22.0: too many", "5.0", "–", "attention"]]
    assert lines[4][-1] == "longest row, remat=full (GiB)" and lines[5][-2:] == ["4 (14.0)", "40,960 (12.0)"]
    (told,) = [line for line in said.splitlines() if line.startswith("recommended: ")]
    words = [word.removeprefix("--config.").split("=") for word in told.split()[1:]]
    config, _ = configfile.load("train.py", dict(words), kind=TrainConfig)
    assert config.runtime.remat == "attention" and config.runtime.rows_per_microbatch == 4 * 16
    assert config.recipe.dtype == "bfloat16"
    step = dry_run.step_job(config, topology="v5e:4x4", slots=8, model=chosen.job.model)
    assert step == dataclasses.replace(chosen.job, rows=4)


@needs_libtpu
def test_of_a_kind_of_chip_the_smallest_slice_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for remat in REMAT:
        one = job(topology="v5e:1x1", remat=remat)
        remember(tmp_path, one, bytes_by_remat(one, kept=KEPT))
    flags = [f"--model={SMALLEST}", "--topology=v5e", "--mode=train", f"--cache={tmp_path}", "--offline"]
    assert plan.main(flags) == 0
    said = capsys.readouterr().out
    assert "v5e:1x1 as (1, 1, 1), 1 x 4096 tokens a chip, remat=attention: fits: 5.00 of 15.75 GiB" in said
    assert "--config.runtime.remat=attention" in said


@needs_libtpu
def test_a_configs_own_policy_stands_unless_auto_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = "skywork_v2.py:qwen3-0.6b-dev"
    step = dry_run.step_job(configfile.load(spec, kind=TrainConfig)[0])
    for remat, gib in {"none": 99, "dots": 90, "full": 9}.items():
        one = dataclasses.replace(step, remat=remat)
        remember(tmp_path, one, result(gib * GIB, limit=planning.HBM["v5p"]))
    flags = [f"--config={spec}", f"--cache={tmp_path}", "--offline"]
    assert plan.main(flags) == 0
    said = capsys.readouterr().out
    assert "remat=full" in said and "recommended" not in said
    assert plan.main([*flags, "--remat=auto"]) == 0
    said = capsys.readouterr().out
    assert "99.0: too many" in said and said.endswith("recommended: --config.runtime.remat=dots\n")


def test_gpus_by_arithmetic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Llama 3.2 3B fits eight H100 with everything kept, and one H200; of longer rows less is kept."""
    flags = ["--model=llama3.2-3b", f"--cache={tmp_path}", "--rows_per_chip=1"]
    assert plan.main([*flags, "--topology=h100:8"]) == 0
    said = capsys.readouterr().out
    assert "remat=none: fits by arithmetic: " in said and "--config.runtime.mesh=1,8,1" in said
    found = []
    for length in (4096, 16_384, 32_768, 65_536):
        assert plan.main([*flags, "--topology=h100:8", f"--length={length}"]) == 0
        found.append(re.findall(r"runtime\.remat=(\w+)", capsys.readouterr().out)[0])
    assert found == sorted(found, key=REMAT.index) and found[0] == "none" and found[-1] != "none"
    assert plan.main([*flags, "--topology=h100:8", "--mode=score"]) == 2
    assert "of GPUs there is arithmetic of --mode=train alone" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # nothing was compiled


def test_of_a_sweep_the_policy_with_which_all_models_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep has one: that of the model which has to recompute most."""
    rows = "--config.runtime.rows_per_microbatch=4"
    flags = ["--sweep=paper_curves.py:scaling", "--topology=h100:16", rows, "--remat=auto"]
    assert plan.main(flags) == 0
    said = capsys.readouterr().out
    taken = set(re.findall(r"remat=(\w+), \d+ trees a row: fits by arithmetic", said))
    assert len(taken) > 1  # small models and large ones
    last = said.splitlines()[-1]
    assert last == f"recommended, with which all fit: --config.runtime.remat={max(taken, key=REMAT.index)}"


@needs_libtpu
@pytest.mark.slow
def test_the_compiler_itself_decides_what_is_recomputed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On one v5e chip the smallest backbone's row of 4,096 tokens fits by recomputing something, not nothing."""
    flags = [f"--model={SMALLEST}", "--topology=v5e:1x1", "--mode=train", "--rows_per_chip=1"]
    assert plan.main([*flags, f"--cache={tmp_path}"]) == 0
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    needed = {r["job"]["remat"]: r["result"]["needed_bytes"] for r in records}
    fits = {r["job"]["remat"]: r["result"]["fits"] for r in records}
    assert list(needed) and sorted(needed, key=needed.__getitem__, reverse=True) == sorted(
        needed, key=REMAT.index
    )
    for record in records:
        one = planning.job_from(record["job"])
        parts = flops.device_bytes(
            one.model, one.storage, devices=1, rows=1, length=4096, remat=one.remat, queries=0
        )
        assert (
            0.8 < sum(parts.values()) / record["result"]["needed_bytes"] < 1.25
        )  # what GPUs are reckoned by
    taken = max(needed, key=REMAT.index)
    assert fits.pop(taken) and not any(fits.values()) and fits
    assert f"--config.runtime.remat={taken}" in capsys.readouterr().out
