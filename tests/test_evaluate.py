"""`python -m rewardscale.evaluate` as a user runs it: numbers that rewards.parquet gives anew, clear errors."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from rewardscale import evaluate
from rewardscale.data.comparison import DataError
from rewardscale.evaluation.benchmarks import registry
from rewardscale.evaluation.published import LABEL, published
from rewardscale.evaluation.stored_temperature import read_temperature
from rewardscale.evaluation.texts import prompt_hash
from rewardscale.models import hf
from tests import scoring_small

ROOT = Path(__file__).parents[1]
PAIRS = scoring_small.comparisons(24, seed=3, responses=(2, 2))
LISTS = scoring_small.comparisons(24, seed=4, responses=(4, 4))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    first, second = (scoring_small.model_directory(folder / f"small-{seed}", seed=seed) for seed in (0, 1))
    return first, second


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data directory: a third of RM-Bench's chat part, two files of comparisons."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "rm-bench").mkdir()
    random = np.random.default_rng(0)
    items = [
        {
            "id": str(i), "prompt": scoring_small.text(random, 3, 9), "domain": "chat",
            "chosen": [scoring_small.text(random, 2, 20) for _ in range(3)],
            "rejected": [scoring_small.text(random, 2, 20) for _ in range(3)],
        }
        for i in range(43)
    ]  # fmt: skip
    (folder / "rm-bench" / "chat_filtered.json").write_text(json.dumps(items))
    pairs = [{"prompt": p[0]["content"], "chosen": r[0], "rejected": r[1]} for p, r in PAIRS]
    lists = [{"prompt": p[0]["content"], "responses": r, "correct": [1, 0, 1, 0]} for p, r in LISTS]
    for name, records in (("pairs.jsonl", pairs), ("lists.jsonl", lists)):
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def run(capsys, *flags: Any) -> tuple[int, str, str]:
    code = evaluate.main([*map(str, flags), "--batch_tokens=512"])
    return code, *capsys.readouterr()


def all_of(data: Path) -> str:
    return f"--benchmarks=rm-bench,{data / 'pairs.jsonl'},{data / 'lists.jsonl'}"


def test_a_model_on_three_sets_from_files_to_the_report(capsys, models, data: Path, tmp_path: Path) -> None:
    flags = (f"--model={models[0]}", all_of(data), f"--data_dir={data}", f"--workdir={tmp_path}")
    code, out, _ = run(capsys, *flags)
    assert code == 0 and out.splitlines()[-1] == f"report  {tmp_path / 'eval.html'}"
    assert {p.name for p in tmp_path.iterdir()} == {
        "rewards.parquet", "scoring.json", "lock", "eval.json", "eval.md", "eval.html", "figures",
    }  # fmt: skip
    record = json.loads((tmp_path / "eval.json").read_text())
    (model,) = record["models"]

    # The pairs' score by hand, from the saved rewards and the texts' hashes alone.
    table = pl.read_parquet(tmp_path / "rewards.parquet")
    reward = {(p, r): value for p, r, value in table.select("prompt", "response", "reward").iter_rows()}
    by_response = table.group_by("prompt").agg(pl.len())
    assert by_response["len"].sum() == len(reward) == len(table)
    right = 0
    for prompt, (chosen, rejected) in PAIRS:
        from rewardscale.data.comparison import Message
        from rewardscale.evaluation.texts import _hash

        key = prompt_hash([Message("user", prompt[0]["content"])])
        right += reward[key, _hash(chosen)] > reward[key, _hash(rejected)]
    own = model["benchmarks"]["pairs.jsonl"]
    assert own["score"]["estimate"] == pytest.approx(right / len(PAIRS), abs=1e-12)
    assert own["score"]["low"] < own["score"]["estimate"] < own["score"]["high"]
    assert own["scored"] == 24 and not own["unscored"]

    # What stands beside it.
    bench = registry.load("rm-bench", data)
    assert record["benchmarks"]["rm-bench"]["shown_name"] == bench.shown_name == "RM-Bench 43/1,327"
    assert f"{bench.shown_name} " in out and "length-only" in out and "3.2 %" in out
    assert model["average"] is None and "no mean of the seven: " in out
    assert model["benchmarks"]["lists.jsonl"]["best_of_n"]["n"] == [1, 2, 3, 4]
    assert model["benchmarks"]["rm-bench"]["calibration"]["pairs"] == 43 * 9
    page = (tmp_path / "eval.html").read_text()
    for part in ("RM-Bench 43/1,327", LABEL, "Style against substance", "Best of N", "Calibration", "<svg"):
        assert part in page
    assert "| RM-Bench 43/1,327 |" in (tmp_path / "eval.md").read_text()


def test_numbers_come_again_from_saved_rewards_without_model_or_device(
    capsys, models, data: Path, tmp_path: Path
) -> None:
    flags = (all_of(data), f"--data_dir={data}", f"--workdir={tmp_path}")
    assert run(capsys, f"--model={models[0]}", *flags)[0] == 0
    before = {name: (tmp_path / name).read_bytes() for name in ("eval.json", "eval.md", "rewards.parquet")}
    (tmp_path / "eval.json").unlink()
    for model in ([], [f"--model={models[0]}"]):
        code = (
            "import sys\nfrom rewardscale import evaluate\ncode = evaluate.main(sys.argv[1:])\n"
            "assert not [m for m in sys.modules if m.startswith('rewardscale.models') or m.endswith('reward_scorer')]\n"
            "sys.exit(code)"
        )
        environment = os.environ | {"JAX_PLATFORMS": "none_such"}  # whoever asks for a device fails
        done = subprocess.run(
            [sys.executable, "-c", code, *model, *flags],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_two_models_are_compared_on_the_same_items(capsys, models, data: Path, tmp_path: Path) -> None:
    flags = [*(f"--model={one}" for one in models), all_of(data), f"--data_dir={data}"]
    code, out, _ = run(capsys, *flags, f"--workdir={tmp_path}")
    assert code == 0 and "small-0 – small-1" in out
    assert (tmp_path / "small-0" / "rewards.parquet").exists() and (tmp_path / "eval.html").exists()
    record = json.loads((tmp_path / "eval.json").read_text())
    first, second = (m["benchmarks"] for m in record["models"])
    for one in record["comparisons"]:
        name = one["benchmark"]
        scores = [m[name]["score"]["estimate"] for m in (first, second)]
        assert one["difference"]["estimate"] == pytest.approx(scores[0] - scores[1], abs=1e-12)
        assert one["mcnemar"]["pairs"] == first[name]["pairs"]
    assert {len(rows) for rows in record["agreement"].values()} == {1}
    # The folder of both serves again, and so does that of one.
    assert run(capsys, all_of(data), f"--data_dir={data}", f"--workdir={tmp_path}")[0] == 0
    assert json.loads((tmp_path / "eval.json").read_text()) == record


def test_a_control_scores_what_stands_beside_every_model(capsys, data: Path, tmp_path: Path) -> None:
    flags = (all_of(data), f"--data_dir={data}", f"--workdir={tmp_path}")
    code, _, _ = run(capsys, "--model=control:length", "--model=control:random", *flags)
    assert code == 0
    record = json.loads((tmp_path / "eval.json").read_text())
    for model, control in zip(record["models"], ("length-only", "random"), strict=True):
        assert model["name"] == control
        for name, own in model["benchmarks"].items():
            assert own["score"]["estimate"] == pytest.approx(record["benchmarks"][name]["controls"][control])


def test_what_cannot_be_scored_is_counted_and_exits_with_3(
    capsys, models, data: Path, tmp_path: Path
) -> None:
    lines = (data / "pairs.jsonl").read_text().splitlines()
    bad = {"prompt": "tea", "chosen": "yes <|eot_id|>", "rejected": "no"}
    (tmp_path / "odd.jsonl").write_text("\n".join([*lines, json.dumps(bad)]) + "\n")
    code, out, _ = run(
        capsys,
        f"--model={models[0]}",
        f"--benchmarks={tmp_path / 'odd.jsonl'}",
        f"--workdir={tmp_path / 'w'}",
    )
    assert code == evaluate.SOME_UNSCORED == 3
    assert "24 of 25" in out and "1 could not be" in out
    record = json.loads((tmp_path / "w" / "eval.json").read_text())
    (why,) = record["models"][0]["benchmarks"]["odd.jsonl"]["unscored"].items()
    assert "special token" in why[0] and why[1] == 1
    assert "special token" in (tmp_path / "w" / "eval.html").read_text()


def headless(model: Path, folder: Path) -> Path:
    """The model as a language model, without its head."""
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [config["architectures"][0].replace("SequenceClassification", "CausalLM")]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_bad_input_is_one_error(capsys, models, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model, here = f"--model={models[0]}", f"--data_dir={data}"
    language = f"--model={headless(models[0], tmp_path / 'language')}"
    for flags, message in (
        ((model, here, "--benchmarks=rm-bensh"), "did you mean 'rm-bench'"),
        ((model, here, "--benchmarks=judgebench"), "JudgeBench (gpt) is not in"),
        ((model, "--data_dir=nowhere", "--benchmarks=all"), "no data directory nowhere"),
        ((model, f"--data_dir={tmp_path / 'empty'}"), "holds none of rewardbench"),
        ((language, here, "--benchmarks=rm-bench"), "language model without a reward head"),
        (("--model=nowhere", here), "nowhere"),
        ((f"--model={tmp_path / 'empty'}", here), "config.json is missing"),
        ((here,), "name a --model=DIR, or the --workdir"),
        ((here, f"--workdir={tmp_path / 'empty'}"), "holds no rewards.parquet of an earlier evaluation"),
        ((model, here, "--max_length=9999"), "must lie within 1..256"),
        ((model, here, "--chunk_texts=0"), "chunk_texts=0"),
        ((model, here, f"--corpus={tmp_path / 'empty'}"), "holds no corpus"),
    ):
        own = (
            ()
            if any(str(flag).startswith("--workdir") for flag in flags)
            else (f"--workdir={tmp_path / 'w'}",)
        )
        if flags == (here,):
            own = ()
        code, _, error = run(capsys, *flags, *own)
        assert code == 2 and error.startswith("error: ") and message in error, (flags, error)
        assert "Traceback" not in error and error.count("\n") == 1
    # None of them has claimed the folder for its model or settings.
    assert run(capsys, model, here, f"--workdir={tmp_path / 'w'}", "--max_length=128")[0] == 0


def test_a_temperature_is_kept_with_the_model_it_fits(capsys, data: Path, tmp_path: Path) -> None:
    model = scoring_small.model_directory(tmp_path / "model", seed=7)
    records = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    turned = [r | {"chosen": r["rejected"], "rejected": r["chosen"]} for r in records]
    (tmp_path / "turned.jsonl").write_text("".join(json.dumps(record) + "\n" for record in turned))
    files = {"pairs.jsonl": data / "pairs.jsonl", "turned.jsonl": tmp_path / "turned.jsonl"}
    flags = (
        f"--model={model}",
        f"--benchmarks={','.join(map(str, files.values()))}",
        f"--workdir={tmp_path}/w",
    )
    code, _, error = run(capsys, *flags, "--calibrate=pair")
    assert code == 2 and "none of the benchmarks: pairs.jsonl, turned.jsonl" in error
    record = json.loads((tmp_path / "w" / "eval.json").read_text())["models"][0]["benchmarks"]
    fits = {name: record[name]["calibration"]["temperature"] for name in files}
    (good,), (bad,) = ([n for n in files if (fits[n] is None) == absent] for absent in (False, True))
    code, _, error = run(capsys, *flags, f"--calibrate={bad}")
    assert code == 2 and "no temperature for" in error and not (model / "calibration.json").exists()
    code, out, _ = run(capsys, *flags, f"--calibrate={good}")
    kept = read_temperature(model, hf.fingerprint(hf.open_checkpoint(model)))
    assert code == 0 and kept is not None and "temperature of" in out
    assert (kept.set, kept.pairs, kept.temperature) == (good, len(records), fits[good])
    with pytest.raises(DataError, match="other weights"):
        read_temperature(model, "0" * 32)


def test_a_dry_run_counts_and_writes_nothing(capsys, models, data: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        capsys, f"--model={models[0]}", f"--data_dir={data}", f"--workdir={tmp_path / 'w'}", "--dry_run"
    )
    assert code == 0 and not (tmp_path / "w").exists()
    assert "RM-Bench 43/1,327" in out and "not there: rmb" in out
    assert "small-0: 258 texts to score, about " in out


def test_help_teaches(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--help"])
    out = capsys.readouterr().out
    assert (
        stop.value.code == 0 and "rewards.parquet" in out and "Exit codes" in out and "control:length" in out
    )


def test_published_rows_are_the_papers() -> None:
    source = published()
    assert "2507.01352" in source.address and sum(r.kind == "the paper's model" for r in source.rows) == 8
    for row in source.rows:
        assert set(row.scores) <= set(registry.SEVEN) and set(row.changed) <= {*registry.SEVEN, "average"}
        if len(row.scores) == 7:  # the printed mean is that of the printed scores
            assert row.average == pytest.approx(np.mean(list(row.scores.values())), abs=6e-4)


def test_environment_names_the_data(capsys, data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(os.environ, "REWARDSCALE_DATA", str(data))
    code, out, _ = run(capsys, "--model=control:length", f"--workdir={tmp_path}")
    assert code == 0 and "RM-Bench 43/1,327" in out
