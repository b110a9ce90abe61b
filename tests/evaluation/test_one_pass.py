"""One pass over the texts of all benchmarks: each once, whatever stands beside it; killed and resumed to the byte."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rewardscale.config import ConfigError
from rewardscale.data.comparison import Message
from rewardscale.evaluation import one_pass
from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Scores, ratio
from rewardscale.evaluation.controls import random_control
from rewardscale.evaluation.identity import model_hash
from rewardscale.evaluation.one_pass import Settings, read_rewards, score_texts
from rewardscale.evaluation.reward_scorer import RewardScorer
from rewardscale.evaluation.texts import union
from tests import scoring_small

ROOT = Path(__file__).parents[2]


def first_is_best(rewards: np.ndarray, weights: np.ndarray) -> Scores:
    return {"accuracy": ratio((rewards[:, :1] > rewards[:, 1:]).all(axis=1).astype(float), weights)}


def benchmark(name: str, pairs: list[tuple[list, list[str]]]) -> Benchmark:
    items = [
        BenchmarkItem(f"{name}{i}", tuple(Message(m["role"], m["content"]) for m in prompt), tuple(responses))
        for i, (prompt, responses) in enumerate(pairs)
    ]
    none = np.zeros((0, 3), np.int64)
    return Benchmark(name, name, tuple(items), 0, first_is_best, "accuracy", none)


PAIRS = scoring_small.comparisons(40, responses=(1, 5))
# Shares prompts and texts with the first one, in another order, and has new ones.
FIRST = benchmark("first", PAIRS)
SECOND = benchmark("second", [(p, [*r[::-1], "tea and the house"]) for p, r in PAIRS[:10]] + PAIRS[30:])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return scoring_small.model_directory(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module")
def alone(model: Path) -> dict[str, float]:
    """The reward of each text, each conversation encoded and scored by itself."""
    scorer = RewardScorer.load(model, mesh=scoring_small.one_device(), batch_tokens=256)
    out = {}
    for group in union([FIRST, SECOND]).groups:
        prompt = [{"role": m.role, "content": m.content} for m in group.prompt]
        for text, response in zip(group.ids, group.responses, strict=True):
            ids = scorer.chat.encode([*prompt, {"role": "assistant", "content": response}])
            (one,) = scorer.prepare_texts([ids], add_special_tokens=False)
            out[text] = float(scorer.score([one])[0][0])  # type: ignore[list-item]
    return out


def settings(model: Path | str, **others: Any) -> Settings:
    chosen: dict[str, Any] = {"batch_tokens": 512, "chunk_texts": 16, **others}
    return Settings(str(model), **chosen)


def rewards(table: pl.DataFrame) -> dict[str, float]:
    return dict(table.select("text", "reward").iter_rows())


def test_the_union_has_each_text_once_and_finds_all_again() -> None:
    texts = union([FIRST, SECOND])
    named = {one: (g.prompt, r) for g in texts.groups for one, r in zip(g.ids, g.responses, strict=True)}
    assert len(texts.ids) == len(set(texts.ids)) == len(named)
    assert len(set(named.values())) == len(named)
    for one in (FIRST, SECOND):
        for item, places in zip(one.items, texts.places[one.name], strict=True):
            found = [named[texts.ids[place]] for place in places if place >= 0]
            assert found == [(item.prompt, response) for response in item.responses]
            assert (places[len(item.responses) :] == -1).all()
    values = np.arange(len(texts.ids), dtype=np.float32)
    matrix = texts.matrix("second", values)
    assert matrix.dtype == np.float64 and (np.isnan(matrix) == (texts.places["second"] < 0)).all()
    assert (matrix[~np.isnan(matrix)] == texts.places["second"][texts.places["second"] >= 0]).all()


@pytest.mark.parametrize(
    "how", [{}, {"batch_tokens": 2048, "chunk_texts": 1000}, {"batch_tokens": 256, "chunk_texts": 1}]
)
def test_no_batch_size_chunk_size_or_order_moves_a_reward(
    model: Path, alone: dict[str, float], tmp_path: Path, how: dict
) -> None:
    for order in ([FIRST, SECOND], [SECOND, FIRST]):
        texts = union(order)
        table = score_texts(texts, settings(model, **how), tmp_path / order[0].name)
        found = rewards(table)
        assert found.keys() == alone.keys() and table["error"].null_count() == len(table)
        np.testing.assert_allclose([found[one] for one in alone], list(alone.values()), atol=1e-5)
        expected = np.array([alone[one] for one in texts.ids])
        ours = np.array([found[one] for one in texts.ids])
        for one in order:
            assert one.scores(texts.matrix(one.name, ours)) == one.scores(texts.matrix(one.name, expected))


def test_a_benchmark_added_later_scores_only_new_texts(
    model: Path, alone: dict[str, float], tmp_path: Path, monkeypatch
) -> None:
    before = score_texts(union([FIRST]), settings(model), tmp_path)
    prepared: list[str] = []
    real = one_pass._Model.prepare
    monkeypatch.setattr(
        one_pass._Model, "prepare",
        lambda self, groups: prepared.extend(one for g in groups for one in g.ids) or real(self, groups),
    )  # fmt: skip
    after = score_texts(union([SECOND, FIRST]), settings(model), tmp_path)
    assert set(prepared) == set(after["text"]) - set(before["text"]) and len(prepared) == 10
    assert after.join(before, on="text", how="semi").equals(before)  # to the bit
    np.testing.assert_allclose([rewards(after)[one] for one in alone], list(alone.values()), atol=1e-5)
    prepared.clear()
    assert score_texts(union([SECOND]), settings(model), tmp_path).equals(after) and not prepared


def test_what_cannot_be_scored_is_a_row_with_its_reason_and_moves_nothing_else(
    model: Path, tmp_path: Path
) -> None:
    prompt, responses = PAIRS[0][0], ["yes", "", "no <|eot_id|>", "tea \ud800", "calms " * 400, "and no"]
    long = [{"role": "user", "content": "tea " * 60}]
    odd = [
        (prompt, responses),
        (long, ["yes", "they say " * 60, ""]),
        ([{"role": "nobody", "content": "x"}], ["y"]),
    ]
    texts = union([benchmark("odd", odd)])
    for chunk in (1, 100):
        table = score_texts(texts, settings(model, chunk_texts=chunk), tmp_path / f"{chunk}")
        by_id = {row["text"]: row for row in table.to_dicts()}
        rows = [by_id[one] for one in texts.ids]
        reasons = [
            "",
            "is empty",
            "special token",
            "not valid Unicode",
            "leaves no room",
            "",
            "",
            "",
            "is empty",
            "nobody",
        ]
        scored = [row["reward"] is not None for row in rows]
        assert [row["error"] is None for row in rows] == scored
        for row, reason in zip(rows, reasons, strict=True):
            assert reason in (row["error"] or "") and bool(reason) == bool(row["error"])
        assert [row["truncated"] for row in rows] == [False] * 7 + [True, False, False]
        assert rows[7]["tokens"] == scoring_small.CONTEXT
        # Of two responses to one prompt, the long one alone made it shorter.
        short = score_texts(
            union([benchmark("short", [(long, ["yes"])])]), settings(model), tmp_path / "short"
        )
        assert rows[6]["reward"] == pytest.approx(short["reward"][0], abs=1e-5)
        assert rows[6]["tokens"] == short["tokens"][0] and not rows[6]["truncated"]


def test_too_long_can_be_refused(model: Path, tmp_path: Path) -> None:
    texts = union([benchmark("long", [([{"role": "user", "content": "tea " * 400}], ["yes", "no"])])])
    table = score_texts(texts, settings(model, too_long="refuse"), tmp_path)
    assert table["reward"].null_count() == 2 and all("256 are allowed" in why for why in table["error"])


def test_rewards_of_two_models_or_settings_are_never_mixed(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rewards"
    before = score_texts(union([FIRST]), settings(model), folder)
    other = scoring_small.model_directory(tmp_path / "other", seed=1)
    assert model_hash(other) != model_hash(model)
    for changed, named in ((settings(other), "model"), (settings(model, max_length=128), "max_length"),
                           (settings("control:length"), "dtype")):  # fmt: skip
        with pytest.raises(ConfigError, match=f"differ in: .*{named}.*--overwrite"):
            score_texts(union([FIRST, SECOND]), changed, folder)
    assert pl.read_parquet(folder / "rewards.parquet").equals(before)
    anew = score_texts(union([FIRST]), settings(other, overwrite=True), folder)
    assert set(anew["text"]) == set(before["text"]) and anew["reward"][0] != before["reward"][0]


def test_no_two_processes_score_into_one_folder(model: Path, tmp_path: Path) -> None:
    from rewardscale import atomic

    with atomic.locked(tmp_path / "lock"), pytest.raises(ConfigError, match="another process"):
        score_texts(union([FIRST]), settings(model), tmp_path)


def test_controls_are_models_that_read_lengths_or_nothing(tmp_path: Path) -> None:
    texts = union([FIRST])
    table = score_texts(texts, Settings("control:length"), tmp_path / "length")
    lengths = {one: len(r) for g in texts.groups for one, r in zip(g.ids, g.responses, strict=True)}
    assert rewards(table) == lengths
    drawn = score_texts(texts, Settings("control:random"), tmp_path / "random")["reward"].to_numpy()
    values = np.array([dict(zip(table["text"], drawn, strict=True))[one] for one in texts.ids])
    np.testing.assert_array_equal(  # the random control of every benchmark, as float32
        texts.matrix("first", values), random_control(FIRST).astype(np.float32).astype(np.float64)
    )
    again = score_texts(texts, Settings("control:random", chunk_texts=3), tmp_path / "again")[
        "reward"
    ].to_numpy()
    assert (drawn == again).all() and len(np.unique(drawn)) == len(drawn) and abs(drawn.mean() - 0.5) < 0.1


def test_finished_rewards_are_read_without_a_model(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no rewards"):
        read_rewards(tmp_path, union([FIRST]))
    score_texts(union([FIRST]), settings(model), tmp_path)
    assert len(read_rewards(tmp_path, union([FIRST]))) == len(union([FIRST]).ids)
    with pytest.raises(ConfigError, match="lacks 10 of"):
        read_rewards(tmp_path, union([FIRST, SECOND]))


MANY = benchmark("many", scoring_small.comparisons(200, seed=5))
SCRIPT = """
import sys
from pathlib import Path
from tests.evaluation import test_one_pass as here
from rewardscale.evaluation.one_pass import score_texts
score_texts(here.union([here.MANY]), here.settings(sys.argv[1]), Path(sys.argv[2]))
"""


def start(model: Path, folder: Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(model), str(folder)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_killed_and_started_again_it_writes_the_same_bytes(model: Path, tmp_path: Path) -> None:
    folder, parts = tmp_path / "killed", tmp_path / "killed" / "parts"
    process = start(model, folder)
    while process.poll() is None and len(list(parts.glob("*.parquet"))) < 8:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert 8 <= len(kept) < 25 and not (folder / "rewards.parquet").exists(), (
        "killed too late to test anything"
    )
    process = start(model, folder)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0 and not parts.exists(), error
    start(model, tmp_path / "fresh").communicate(timeout=240)
    names = ("rewards.parquet", "scoring.json")
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_what_an_interrupted_pass_has_finished_serves_another_choice(
    model: Path, tmp_path: Path, monkeypatch
) -> None:
    def stop(done: int, total: int, beside: str) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_texts(union([FIRST]), settings(model), tmp_path, progress=stop)
    part = sorted((tmp_path / "parts").glob("0*.parquet"))
    assert part and not (tmp_path / "rewards.parquet").exists()
    done = pl.concat([pl.read_parquet(path) for path in part])
    table = score_texts(union([SECOND, FIRST]), settings(model), tmp_path)
    assert table.join(done, on="text", how="semi").equals(done.sort("text"))
    assert json.loads((tmp_path / "scoring.json").read_text())["identity"]["dtype"] == "float32"
