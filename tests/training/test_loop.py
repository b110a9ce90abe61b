"""Ten steps are five, a stop, and five more: bit for bit, on disk and through real signals."""

import contextlib
import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rewardscale import flops
from rewardscale.config import Recipe
from rewardscale.data.tokenised import TokenisedView
from rewardscale.models import reward
from rewardscale.training import loop
from rewardscale.training.checkpoint import Checkpoints, Interrupted
from rewardscale.training.finite import NonFiniteLoss
from rewardscale.training.step import make_step
from tests import small
from tests.training import running
from tests.training.running import STEPS, case, metrics, stop_at, train

REPO = Path(__file__).parents[2]


def saved_state(directory: Path) -> Any:
    """The newest checkpoint of a run: parameters, moments, step."""
    step = make_step(small.MODEL, reward.Options(), running.one_device())
    checkpoints = Checkpoints(directory / "checkpoints", kept=1, seconds=1e9)
    try:
        return checkpoints.restore(step.abstract)
    finally:
        checkpoints.close()


@pytest.fixture(scope="module")
def whole(pairs_view: TokenisedView, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, loop.Trained]:
    """Ten uninterrupted steps."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, train(*case(pairs_view), directory)


def assert_equals_whole(directory: Path, trained: loop.Trained, whole: tuple[Path, loop.Trained]) -> None:
    assert metrics(directory) == metrics(whole[0])
    running.assert_same(trained.params, whole[1].params)
    running.assert_same(saved_state(directory), saved_state(whole[0]))


def test_a_run_leaves_a_record(whole: tuple[Path, loop.Trained], pairs_view: TokenisedView) -> None:
    directory, trained = whole
    run, data = case(pairs_view)
    records = metrics(directory)
    assert [r["step"] for r in records] == list(range(STEPS))
    assert all(r["pairs"] == 16 and np.isfinite(r["loss"]) for r in records)
    state = saved_state(directory)
    assert int(state["step"]) == STEPS
    running.assert_same(state["params"], trained.params)
    record = trained.record
    assert record["steps"] == STEPS and record["pairs_seen"] == 160 and record["resumed_at"] == 0
    assert record["tokens"] == data.plan.tokens and 0.3 < record["packing_efficiency"] <= 1
    assert record["flops"] > 6 * small.MODEL.width**2 * record["tokens"]
    assert record["pairs_per_second"] > 0 and record["attention"] == "dense"
    info = (directory / "model-info.txt").read_text().splitlines()
    assert len(info) == len(jax.tree.leaves(trained.params))
    assert run.recipe is not None


@pytest.mark.parametrize("shared", [True, False])
def test_both_shares_of_the_peak(
    shared: bool, pairs_view: TokenisedView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against each pair's operations, one by one; the peak is a number here, the seconds are the clock's."""
    monkeypatch.setattr(loop.mesh, "peak_flops", lambda dtype: 1e6 if dtype == "bfloat16" else None)
    _, data = case(pairs_view)
    data, model = dataclasses.replace(data, shared=shared), small.MODEL
    left, prompt, right = (sizes.tolist() for sizes in data.trees.sizes(data.lengths))
    pairs = list(zip(prompt, left, right, strict=True))

    def records(pruned: bool) -> list[dict[str, Any]]:
        meter = loop._Meter(model, data, "bfloat16", 2, pruned=pruned)
        made = [meter.records(0, 4, {}, {}), meter.records(4, 6, {}, {})]
        summary = meter.summary(0)
        assert summary["mfu"] == made[1][0]["mfu"]  # the first block compiles
        return [made[0][0], made[1][-1]]

    for steps, record in zip((slice(0, 4), slice(4, 10)), records(False), strict=True):
        here = pairs[16 * steps.start : 16 * steps.stop]
        apart, own = (
            3 * sum(flops.comparison_flops(model, p, (a, b), shared=s) for p, a, b in here)
            for s in (False, shared)
        )
        assert record["mfu"] / record["effective_mfu"] == pytest.approx(own / apart)
        seconds = len(here) / record["pairs_per_second"]
        assert record["effective_mfu"] == pytest.approx(apart / seconds / 2e6)
    pruned = sum(flops.pair_flops(model, p, a, b, shared=shared, pruned=True) for p, a, b in pairs[:64])
    apart = sum(flops.pair_flops(model, p, a, b, shared=False) for p, a, b in pairs[:64])
    record = records(True)[0]
    assert record["mfu"] / record["effective_mfu"] == pytest.approx(pruned / apart)
    assert pruned < 0.9 * apart
    plain = loop._Meter(model, data, "float32", 1, pruned=True)
    assert not {"mfu", "effective_mfu"} & (plain.records(0, 4, {}, {})[0].keys() | plain.summary(0).keys())


def test_it_learns(pairs_view: TokenisedView, tmp_path: Path) -> None:
    """Ten passes over the same pairs: the soft labels' loss comes down."""
    recipe = dataclasses.replace(small.RECIPE, learning_rate=3e-2, weight_decay=0.0)
    subset = dataclasses.replace(
        small.whole_subset(pairs_view, 32), target=np.ones(32, np.float32), weight=np.ones(32, np.float32)
    )
    data = small.training_data(pairs_view, subset, epochs=15, rows_per_microbatch=4)
    train(small.run_config(recipe=recipe, pairs=32), data, tmp_path)
    records = metrics(tmp_path)
    assert records[-1]["loss"] < 0.3 < 0.6 < records[0]["loss"]
    assert records[-1]["accuracy"] > 0.85


@pytest.mark.parametrize("steps_per_dispatch", [5, 2])
def test_ten_steps_are_five_and_five(
    steps_per_dispatch: int, whole: tuple[Path, loop.Trained], pairs_view: TokenisedView, tmp_path: Path
) -> None:
    run, data = case(pairs_view)
    with pytest.raises(Interrupted, match=r"stopped at step \d of 10, state saved"):
        train(run, data, tmp_path, on_progress=stop_at(4), steps_per_dispatch=steps_per_dispatch)
    stopped = int(saved_state(tmp_path)["step"])
    assert stopped == {5: 5, 2: 4}[steps_per_dispatch]
    assert [r["step"] for r in metrics(tmp_path)] == list(range(stopped))
    trained = train(run, data, tmp_path, steps_per_dispatch=steps_per_dispatch)
    assert trained.record["resumed_at"] == stopped
    assert_equals_whole(tmp_path, trained, whole)


def test_resume_from_an_older_checkpoint_writes_each_step_once(
    whole: tuple[Path, loop.Trained], pairs_view: TokenisedView, tmp_path: Path
) -> None:
    """Killed after more metrics than its checkpoint covers, in the middle of a line."""
    run, data = case(pairs_view)
    with pytest.raises(Interrupted):
        train(run, data, tmp_path, on_progress=stop_at(5))
    whole_lines = (whole[0] / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(whole_lines[: int(len(whole_lines) * 0.83)])
    assert_equals_whole(tmp_path, train(run, data, tmp_path), whole)


def test_a_finished_run_trains_nothing(
    whole: tuple[Path, loop.Trained], pairs_view: TokenisedView, tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path / "copy")
    trained = train(*case(pairs_view), tmp_path / "copy")
    assert trained.record["resumed_at"] == STEPS
    assert_equals_whole(tmp_path / "copy", trained, whole)


def test_checkpoints_on_the_way_change_nothing(
    whole: tuple[Path, loop.Trained], pairs_view: TokenisedView, tmp_path: Path
) -> None:
    run, data = case(pairs_view)
    trained = train(run, data, tmp_path, checkpoint_seconds=0.0, checkpoints_kept=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["10", "5"]
    assert_equals_whole(tmp_path, trained, whole)


def test_who_waits_for_the_last_checkpoint_later_finds_it_whole(
    whole: tuple[Path, loop.Trained],
    pairs_view: TokenisedView,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sweep's cell scores its model meanwhile."""
    closed, close = [], Checkpoints.close
    monkeypatch.setattr(Checkpoints, "close", lambda self: (close(self), closed.append(self)))
    with contextlib.ExitStack() as closing:
        trained = train(*case(pairs_view), tmp_path, closing=closing)
        assert not closed
    assert len(closed) == 1
    assert_equals_whole(tmp_path, trained, whole)


def test_a_stop_at_the_last_step_is_passed_on(pairs_view: TokenisedView, tmp_path: Path) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        trained = train(*case(pairs_view), tmp_path, on_progress=stop_at(STEPS))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    assert trained.record["steps"] == STEPS and int(saved_state(tmp_path)["step"]) == STEPS


def test_runs_of_one_shape_share_one_executable(
    whole: Any, pairs_view: TokenisedView, tmp_path: Path
) -> None:
    step = make_step(small.MODEL, reward.Options(), running.one_device())
    before = step.train._cache_size()
    for number, recipe in enumerate(
        (
            dataclasses.replace(small.RECIPE, learning_rate=1e-3, schedule="wsd"),
            dataclasses.replace(small.RECIPE, weight_decay=0.0, clip_norm=0.1, center=0.01),
        )
    ):
        run, data = case(pairs_view, recipe=recipe, pairs=90 + number, draw=number)
        train(run, data, tmp_path / str(number))
    assert step.train._cache_size() == before
    assert metrics(tmp_path / "0")[0]["loss"] != metrics(tmp_path / "1")[0]["loss"]  # another draw


def test_draws_differ_and_levels_do_not_by_initialisation() -> None:
    one, two = (reward.init(small.MODEL, (0, draw)) for draw in (0, 1))
    assert (one["embedding"] != two["embedding"]).all()


@pytest.mark.parametrize("rate", [1e30, 3e38])
def test_a_loss_that_is_not_finite_names_the_step(
    rate: float, pairs_view: TokenisedView, tmp_path: Path
) -> None:
    recipe = Recipe(
        **dataclasses.asdict(small.RECIPE) | {"learning_rate": rate, "schedule": "constant", "warmup": 0.0}
    )
    run, data = case(pairs_view, recipe=recipe)
    with pytest.raises(NonFiniteLoss, match=r"at step 0 .*lower the learning rate"):
        train(run, data, tmp_path, checkpoint_seconds=0.0, steps_per_dispatch=5)
    assert saved_state(tmp_path) is None  # nothing that is not finite is kept


def test_the_last_good_checkpoint_stays(pairs_view: TokenisedView, tmp_path: Path) -> None:
    """Steps 0 to 4 are fine; the data of a later step has an infinite weight."""
    run, data = case(pairs_view)
    weight = data.weight.copy()
    weight[7 * 16 + 3] = np.inf
    poisoned = dataclasses.replace(data, weight=weight)
    for _ in range(2):  # the same command again fails the same way
        with pytest.raises(NonFiniteLoss, match="at step 7 "):
            train(run, poisoned, tmp_path, checkpoint_seconds=0.0)
        state = saved_state(tmp_path)
        assert int(state["step"]) == 5
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert [r["step"] for r in metrics(tmp_path)] == list(range(STEPS))


SCRIPT = """
import pickle, sys
from pathlib import Path
from tests.training import running
run, data = pickle.loads(Path(sys.argv[1]).read_bytes())

def progress(done, steps):
    print("done", done, flush=True)
    sys.stdin.readline()  # the test sends the signal, then a line

running.train(run, data, Path(sys.argv[2]), steps_per_dispatch=5, on_progress=progress)
"""


def test_sigterm_to_a_process_saves_and_the_next_one_continues(
    whole: tuple[Path, loop.Trained], pairs_view: TokenisedView, tmp_path: Path
) -> None:
    run, data = case(pairs_view)
    (tmp_path / "case.pickle").write_bytes(pickle.dumps((run, data)))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "case.pickle"), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=REPO, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "done 5\n"
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate("\n", timeout=120)
    assert process.returncode != 0 and "Interrupted: stopped at step 5 of 10, state saved" in errors, errors
    assert output == ""
    assert [
        json.loads(x)["step"] for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ] == list(range(5))
    trained = train(run, data, tmp_path / "run")
    assert trained.record["resumed_at"] == 5
    assert_equals_whole(tmp_path / "run", trained, whole)


def test_what_a_run_saves_is_only_work(pairs_view: TokenisedView, tmp_path: Path) -> None:
    """Prompts computed twice and the last layer whole: the same losses within 1e-5 of their values."""
    run, data = case(pairs_view)
    apart = small.training_data(
        pairs_view, small.whole_subset(pairs_view, len(data.trees)), rows_per_microbatch=4, shared=False
    )
    assert apart.plan.tokens > data.plan.tokens
    train(run, data, tmp_path / "saving")
    train(run, apart, tmp_path / "all", prune_last_layer=False)
    ours, slow = (np.array([line["loss"] for line in metrics(tmp_path / name)]) for name in ("saving", "all"))
    assert len(ours) == STEPS and np.ptp(ours) > 0.05
    np.testing.assert_allclose(ours, slow, rtol=1e-5)
