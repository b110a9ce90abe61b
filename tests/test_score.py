"""`python -m rewardscale.score`: real files, real processes; nothing lost, nothing twice, resumed to the byte."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rewardscale import score
from rewardscale.evaluation.reward_scorer import RewardScorer
from tests import scoring_small

ROOT = Path(__file__).parents[1]
PAIRS = scoring_small.comparisons(30, responses=(2, 2))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return scoring_small.model_directory(tmp_path_factory.mktemp("model") / "small")


def run(capsys, model: Path, source: Path, output: Path, *flags: str) -> tuple[int, str, str]:
    code = score.main(
        [f"--model={model}", f"--input={source}", f"--output={output}", "--batch_tokens=512", *flags]
    )
    return code, *capsys.readouterr()


def write(path: Path, records: list) -> Path:
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def records() -> list[dict]:
    return [
        {"id": f"p{i}", "prompt": p, "chosen": r[0], "rejected": r[1]}
        if i % 2
        else {"chosen": [*p, answer(r[0])], "rejected": [*p, answer(r[1])]}
        for i, (p, r) in enumerate(PAIRS)
    ]


def answer(text: str) -> dict:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def expected(model: Path) -> np.ndarray:
    """Rewards [pairs, 2], each response scored alone."""
    scorer = RewardScorer.load(model, mesh=scoring_small.one_device(), batch_tokens=256)
    out = []
    for prompt, responses in PAIRS:
        ids = [scorer.chat.encode([*prompt, answer(response)]) for response in responses]
        out.append([scorer.score(scorer.prepare_texts([one], add_special_tokens=False))[0][0] for one in ids])  # type: ignore[arg-type]
    return np.array(out)


def test_pairs_in_rewards_and_accuracy_out(capsys, model: Path, tmp_path: Path, expected: np.ndarray) -> None:
    source = write(tmp_path / "in.jsonl", records())
    code, out, _ = run(capsys, model, source, tmp_path / "out.jsonl", "--chunk_items=7")
    assert code == 0
    found = read(tmp_path / "out.jsonl")
    assert [r["index"] for r in found] == list(range(30))
    assert [r["id"] for r in found] == [f"p{i}" if i % 2 else None for i in range(30)]
    np.testing.assert_allclose([r["rewards"] for r in found], expected, atol=1e-5)
    assert all(r["error"] is None and not r["truncated"] and len(r["tokens"]) == 2 for r in found)
    right = int((expected[:, 0] > expected[:, 1]).sum())
    assert "read 30 = scored 30 + refused 0 items" in out and f"in {right} of 30 pairs" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.summary.json"]
    summary = json.loads((tmp_path / "out.jsonl.summary.json").read_text())
    assert (
        summary["accuracy"] == right / 30 and summary["scored"] + summary["refused"] == summary["read"] == 30
    )


def test_parquet_gives_what_jsonl_gives(capsys, model: Path, tmp_path: Path) -> None:
    items = [{"id": i, "prompt": p[0]["content"], "responses": r} for i, (p, r) in enumerate(PAIRS)]
    items[3]["responses"] = ["tea", ""]
    source = write(tmp_path / "in.jsonl", items)
    pl.DataFrame(items).write_parquet(tmp_path / "in.parquet")
    for name in ("in.jsonl", "in.parquet"):
        for suffix in ("jsonl", "parquet"):
            code, *_ = run(capsys, model, tmp_path / name, tmp_path / f"{name}.out.{suffix}")
            assert code == 3
    first = read(tmp_path / "in.jsonl.out.jsonl")
    assert read(tmp_path / "in.parquet.out.jsonl") == first and source.exists()
    for name in ("in.jsonl", "in.parquet"):
        table = pl.read_parquet(tmp_path / f"{name}.out.parquet")
        assert table["id"].to_list() == [str(i) for i in range(30)] and table["error"].null_count() == 29
        for row, record in zip(table.to_dicts(), first, strict=True):
            assert (
                row == {**record, "id": str(record["id"])}
                or np.float32(record["rewards"]).tolist() == row["rewards"]
            )


def test_one_bad_item_never_stops_the_rest(capsys, model: Path, tmp_path: Path, expected: np.ndarray) -> None:
    good = records()
    bad = [
        b'{"prompt": "tea", "responses": ["yes"',
        b"\xff\xfe nonsense",
        b"[" * 100_000,
        b'{"prompt": "tea \\ud800", "responses": ["yes", "no"]}',
        {"id": "empty", "prompt": "tea", "responses": ["yes", ""]},
        {"id": "long", "prompt": "tea " * 400, "responses": ["yes", "no"]},
        {"id": "special", "prompt": "tea", "responses": ["yes<|eot_id|>", "no"]},
        {"id": 1.5, "prompt": "tea", "responses": ["yes", "no"]},
        {"id": "role", "prompt": [{"role": "nobody", "content": "tea"}], "responses": ["yes", "no"]},
        b"7",
        b"",
        b"  ",
    ]
    mixed = [one for pair in zip(good, [*bad, *[b""] * 18], strict=True) for one in pair]
    code, out, error = run(capsys, model, write(tmp_path / "in.jsonl", mixed), tmp_path / "out.jsonl")
    assert code == score.SOME_REFUSED == 3
    assert "read 40 = scored 30 + refused 10 items" in out
    assert "item 1: line 2 is not JSON" in error and "refused: 5 more" in error
    found = read(tmp_path / "out.jsonl")
    refused = {r["index"]: r for r in found if r["error"] is not None}
    assert list(refused) == list(range(1, 20, 2))
    assert all(r["rewards"] is None and r["tokens"] is None for r in refused.values())
    assert [r["id"] for r in refused.values()] == [None] * 4 + [
        "empty",
        "long",
        "special",
        None,
        "role",
        None,
    ]
    assert "response 1 is empty" in refused[9]["error"] and "256 are allowed" in refused[11]["error"]
    rewards = [r["rewards"] for r in found if r["error"] is None]
    np.testing.assert_allclose(rewards, expected, atol=1e-5)


def test_too_long_prompts_are_cut_where_it_is_allowed(capsys, model: Path, tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.jsonl", [{"prompt": "tea " * 400, "responses": ["yes", "no"]}, records()[0]]
    )
    code, out, _ = run(capsys, model, source, tmp_path / "o.jsonl", "--too_long=truncate_left_of_prompt")
    assert code == 0 and "1 truncated" in out
    found = read(tmp_path / "o.jsonl")
    assert [r["truncated"] for r in found] == [True, False] and max(
        found[0]["tokens"]
    ) == scoring_small.CONTEXT


def test_ties_are_counted_and_wrong(capsys, model: Path, tmp_path: Path) -> None:
    same = {"prompt": "tea", "chosen": "yes", "rejected": "yes"}
    _, out, _ = run(capsys, model, write(tmp_path / "in.jsonl", [same, same]), tmp_path / "o.jsonl")
    assert "in 0 of 2 pairs: accuracy 0.0000 (2 exact ties" in out


def test_an_empty_file_is_scored(capsys, model: Path, tmp_path: Path) -> None:
    for suffix in ("jsonl", "parquet"):
        code, out, _ = run(capsys, model, write(tmp_path / "in.jsonl", []), tmp_path / f"o.{suffix}")
        assert code == 0 and "read 0 = scored 0 + refused 0" in out
    assert (tmp_path / "o.jsonl").read_bytes() == b"" and not len(pl.read_parquet(tmp_path / "o.parquet"))


def test_done_is_not_done_again_and_nothing_is_overwritten_unasked(
    capsys, model: Path, tmp_path: Path
) -> None:
    source, output = write(tmp_path / "in.jsonl", records()), tmp_path / "out.jsonl"
    assert run(capsys, model, source, output)[0] == 0
    first, stamp = output.read_bytes(), output.stat().st_mtime_ns
    code, out, _ = run(capsys, model, source, output)
    assert code == 0 and "had been done before" in out and output.stat().st_mtime_ns == stamp
    code, _, error = run(capsys, model, source, output, "--max_length=200")
    assert code == 2 and "was not made from this model, input and settings" in error
    assert output.read_bytes() == first and not (tmp_path / "out.jsonl.parts").exists()
    code, *_ = run(capsys, model, source, output, "--max_length=200", "--overwrite")
    assert code == 0 and output.stat().st_mtime_ns != stamp


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input=nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["--input=x.csv"], "must end in .jsonl or .parquet"),
        (["--output=x.txt"], "must end in .jsonl or .parquet"),
        (["--model=nowhere"], "nowhere"),
        (["--max_length=9999"], "max_length=9999 must lie within 1..256"),
        (["--chunk_items=0"], "chunk_items=0"),
    ],
)
def test_bad_settings_are_one_error(
    capsys, model: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    source = write(tmp_path / "in.jsonl", records()[:1])
    code, _, error = run(capsys, model, source, tmp_path / "o.jsonl", *flags)
    assert code == 2 and error.startswith("error: ") and message in error and "Traceback" not in error


def test_help_teaches(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        score.main(["--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "exit code" in out and "--too_long" in out and '"responses"' in out


def start(model: Path, source: Path, output: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rewardscale.score", f"--model={model}", f"--input={source}"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [*command, f"--output={output}", "--batch_tokens=512", "--chunk_items=8", *flags],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_killed_and_started_again_it_writes_the_same_bytes(capsys, model: Path, tmp_path: Path) -> None:
    many = [{"prompt": p, "responses": r} for p, r in scoring_small.comparisons(240, seed=5)]
    many[100]["responses"] = [""]
    source, output = write(tmp_path / "in.jsonl", many), tmp_path / "out.jsonl"
    parts = tmp_path / "out.jsonl.parts"
    process = start(model, source, output)
    while process.poll() is None and len(list(parts.glob("*.jsonl"))) < 10:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("*.jsonl")}
    assert not output.exists() and 10 <= len(kept) < 30, "killed too late to test anything"

    code, _, error = run(capsys, model, source, output, "--chunk_items=8", "--dtype=bfloat16")
    assert code == 2 and "differs in: dtype" in error
    write(source, [*many, many[0]])
    code, _, error = run(capsys, model, source, output, "--chunk_items=8")
    assert code == 2 and "differs in: input" in error
    write(source, many)
    assert kept == {path: path.stat().st_mtime_ns for path in parts.glob("*.jsonl")}

    process = start(model, source, output)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 3 and not parts.exists(), error
    assert "read 240 = scored 239 + refused 1" in out
    start(model, source, tmp_path / "fresh.jsonl").communicate(timeout=240)
    assert output.read_bytes() == (tmp_path / "fresh.jsonl").read_bytes()
