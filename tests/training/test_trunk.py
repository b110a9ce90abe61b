"""A branch of a trunk is the run that was trained alone, bit for bit, however it was killed on the way."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardscale import atomic
from rewardscale.config import ConfigError, Recipe, RunConfig
from rewardscale.data import pipeline
from rewardscale.data.comparison import DataError
from rewardscale.data.tokenised import TokenisedView
from rewardscale.training import loop, optimizer
from rewardscale.training.checkpoint import Interrupted
from rewardscale.training.trunk import Trunk
from tests import small
from tests.training import running
from tests.training.running import BATCH, metrics

WSD = dataclasses.replace(small.RECIPE, schedule="wsd", warmup_steps=2, cooldown=0.4)
SIZES = (40, 75, 100, 160)  # 3, 5, 7 and 10 steps of 16 pairs; a last step of 8, 11, 4 and 16


def leaves_at(pairs: int, recipe: Recipe = WSD) -> int:
    return recipe.trunk_steps(pairs, BATCH)


def case(view: TokenisedView, pairs: int, recipe: Recipe = WSD) -> tuple[RunConfig, pipeline.TrainingData]:
    """The first `pairs` of 160 pairs, each with a weight, a target and an orientation of its own."""
    whole = small.whole_subset(view, 160)
    nested = dataclasses.replace(
        whole, **{name: getattr(whole, name)[:pairs] for name in ("rows", "orientation", "weight", "target")}
    )
    data = small.training_data(view, nested, batch=BATCH, rows_per_microbatch=4)
    return small.run_config(small.MODEL, recipe, pairs=pairs), data


def train(
    view: TokenisedView,
    pairs: int,
    workdir: Path,
    *,
    trunk: bool = True,
    recipe: Recipe = WSD,
    steps_per_dispatch: int = 5,
    **listeners: Any,
) -> loop.Trained:
    """Trains a size in `workdir/<pairs>`, with the trunk of all sizes up to it in `workdir/trunk` or alone."""
    run, data = case(view, pairs, recipe)
    steps = sorted({leaves_at(n, recipe) for n in SIZES if n <= pairs})
    shared = Trunk(workdir / "trunk", tuple(steps)) if trunk else None
    runtime = dataclasses.replace(running.RUNTIME, steps_per_dispatch=steps_per_dispatch)
    directory = workdir / str(pairs)
    return loop.train(run, data, runtime, running.one_device(), directory, trunk=shared, **listeners)


@pytest.fixture(scope="module")
def alone(
    pairs_view: TokenisedView, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[Path, loop.Trained]]:
    workdir = tmp_path_factory.mktemp("alone")
    return {n: (workdir / str(n), train(pairs_view, n, workdir, trunk=False)) for n in SIZES}


def assert_same_run(directory: Path, trained: loop.Trained, alone: tuple[Path, loop.Trained]) -> None:
    running.assert_same(trained.params, alone[1].params)
    assert metrics(directory) == metrics(alone[0])
    for name in ("steps", "pairs_seen", "tokens", "flops", "batches", "packing_efficiency"):
        assert trained.record[name] == alone[1].record[name]


def test_the_sizes_leave_at_different_steps() -> None:
    assert [leaves_at(n) for n in SIZES] == [2, 3, 4, 6]


def test_branches_equal_runs_trained_alone(
    pairs_view: TokenisedView, tmp_path: Path, alone: dict[int, tuple[Path, loop.Trained]]
) -> None:
    """The longest run leaves the states, the others take only their cooldown's steps; blocks of steps differ too."""
    for n in sorted(SIZES, reverse=True):
        seen: list[dict[str, Any]] = []
        trained = train(pairs_view, n, tmp_path, on_metrics=seen.extend)
        assert_same_run(tmp_path / str(n), trained, alone[n])
        began = 0 if n == max(SIZES) else leaves_at(n)
        assert trained.record["resumed_at"] == trained.record["steps_from_trunk"] == began
        assert (trained.record["trunk"], trained.record["branched_at"]) == ("trunk", leaves_at(n))
        assert [r["step"] for r in seen] == list(
            range(trained.record["steps"])
        )  # what others trained is told too
    assert {p.name for p in (tmp_path / "trunk").iterdir()} == {"2", "3", "4", "6"}


def test_a_cooldown_changes_what_comes_out(
    alone: dict[int, tuple[Path, loop.Trained]], pairs_view, tmp_path
) -> None:
    """The equality above could fail: a branch without a cooldown, and one that leaves later, are other runs."""
    constant = train(
        pairs_view, 100, tmp_path, trunk=False, recipe=dataclasses.replace(WSD, schedule="constant")
    )
    records = metrics(tmp_path / "100")
    own = metrics(alone[100][0])
    assert records[:4] == own[:4] and records[4]["learning_rate"] > own[4]["learning_rate"]
    with pytest.raises(AssertionError):
        running.assert_same(constant.params, alone[100][1].params)


def test_the_short_ones_first(pairs_view: TokenisedView, tmp_path: Path, alone: Any) -> None:
    """Each goes on where the shorter one left; states that are gone are trained again."""
    for before, n in zip((0, *SIZES), SIZES, strict=False):
        trained = train(pairs_view, n, tmp_path)
        assert trained.record["steps_from_trunk"] == (leaves_at(before) if before else 0)
        assert_same_run(tmp_path / str(n), trained, alone[n])
    shutil.rmtree(tmp_path / "trunk")
    shutil.rmtree(tmp_path / "75")
    trained = train(pairs_view, 75, tmp_path)
    assert trained.record["steps_from_trunk"] == 0
    assert_same_run(tmp_path / "75", trained, alone[75])


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 8])
def test_stopped_anywhere_and_gone_on(
    stop: int, pairs_view: TokenisedView, tmp_path: Path, alone: Any
) -> None:
    """On the trunk, at a branch and in the cooldown: with its own checkpoint, and killed without one."""
    with pytest.raises(Interrupted):
        train(pairs_view, 160, tmp_path, on_progress=running.stop_at(stop), steps_per_dispatch=2)
    shutil.copytree(tmp_path, tmp_path / "killed", ignore=shutil.ignore_patterns("checkpoints", "killed"))
    trained = train(pairs_view, 160, tmp_path)
    assert trained.record["resumed_at"] >= stop
    assert_same_run(tmp_path / "160", trained, alone[160])
    again = train(pairs_view, 160, tmp_path / "killed")  # the newest state of the trunk is all there is
    reached = max((s for s in (2, 3, 4, 6) if (tmp_path / "killed" / "trunk" / str(s)).exists()), default=0)
    assert again.record["resumed_at"] == again.record["steps_from_trunk"] <= reached
    assert_same_run(tmp_path / "killed" / "160", again, alone[160])


def test_a_stopped_branch_goes_on_from_its_own_checkpoint(
    pairs_view: TokenisedView, tmp_path: Path, alone: Any
) -> None:
    train(pairs_view, 160, tmp_path)
    with pytest.raises(Interrupted):
        train(pairs_view, 100, tmp_path, on_progress=running.stop_at(5), steps_per_dispatch=1)
    trained = train(pairs_view, 100, tmp_path)
    assert trained.record["resumed_at"] > trained.record["steps_from_trunk"] == leaves_at(100)
    assert_same_run(tmp_path / "100", trained, alone[100])


def test_one_whole_constant_schedule_is_all_trunk(pairs_view: TokenisedView, tmp_path: Path) -> None:
    recipe = dataclasses.replace(WSD, schedule="constant")
    assert [leaves_at(n, recipe) for n in (160, 100)] == [10, 6]
    train(pairs_view, 160, tmp_path, recipe=recipe)
    trained = train(pairs_view, 100, tmp_path, recipe=recipe)
    assert trained.record["steps_from_trunk"] == 6 and trained.record["steps"] == 7
    assert_same_run(
        tmp_path / "100",
        trained,
        (tmp_path / "x" / "100", train(pairs_view, 100, tmp_path / "x", trunk=False, recipe=recipe)),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": "bfloat16", "moments": "bfloat16", "gradients": "bfloat16"},
        pytest.param({"lora_rank": 2}, marks=pytest.mark.slow),
    ],
    ids=["bfloat16", "adapters"],
)
def test_the_whole_state_is_shared(
    changes: dict[str, Any], pairs_view: TokenisedView, tmp_path: Path
) -> None:
    """Master copies, moments rounded by their count, and adapters."""
    recipe = dataclasses.replace(WSD, **changes)
    train(pairs_view, 160, tmp_path, recipe=recipe)
    branch = train(pairs_view, 100, tmp_path, recipe=recipe)
    assert branch.record["steps_from_trunk"] == leaves_at(100)
    other = train(pairs_view, 100, tmp_path / "alone", trunk=False, recipe=recipe)
    assert_same_run(tmp_path / "100", branch, (tmp_path / "alone" / "100", other))


def test_a_trunk_of_other_pairs_is_refused(pairs_view: TokenisedView, tmp_path: Path) -> None:
    train(pairs_view, 160, tmp_path)
    run, data = case(pairs_view, 100)
    target = data.target.copy()
    target[leaves_at(100) * BATCH - 1] *= 0.5
    other = dataclasses.replace(data, target=target)
    shared = Trunk(tmp_path / "trunk", (leaves_at(100),))
    with pytest.raises(DataError, match=r"trunk/4 was trained on other pairs.*first 4 steps.*delete .*trunk"):
        loop.train(run, other, running.RUNTIME, running.one_device(), tmp_path / "other", trunk=shared)
    assert not (tmp_path / "other" / "trunk.json").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (dataclasses.replace(WSD, schedule="cosine"), r"shares 0 steps.*recipe\.schedule='cosine'.*\"wsd\""),
        (dataclasses.replace(WSD, warmup_steps=0), r"recipe\.warmup=0\.1 is a share.*warmup_steps"),
        (dataclasses.replace(WSD, epochs=2.0), r"recipe\.epochs=2\.0"),
        (
            dataclasses.replace(WSD, cooldown=0.9),
            r"shares 1 steps with longer ones, not 4: then its cooldown begins",
        ),
    ],
)
def test_recipes_without_a_trunk(
    recipe: Recipe, message: str, pairs_view: TokenisedView, tmp_path: Path
) -> None:
    run, data = case(pairs_view, 100, recipe)
    with pytest.raises(ConfigError, match=message):
        loop.train(
            run, data, running.RUNTIME, running.one_device(), tmp_path, trunk=Trunk(tmp_path / "trunk", (4,))
        )


def test_one_run_at_a_time_extends_a_trunk(tmp_path: Path) -> None:
    one, other, short = (Trunk(tmp_path / "t", steps) for steps in ((2, 5), (2, 5, 9), (2,)))
    with one.joined() as mine:
        assert mine
        with other.joined() as theirs:
            assert not theirs
        atomic.write_json(tmp_path / "t" / "2" / "trunk.json", {})
        with short.joined() as free:
            assert free  # what it begins with is there: it waits for nobody
        one.leave()
        with other.joined() as theirs:
            assert theirs
            assert other.newest() == 2


def test_what_is_half_written_is_no_state(pairs_view: TokenisedView, tmp_path: Path) -> None:
    train(pairs_view, 160, tmp_path)
    (tmp_path / "trunk" / "4" / "trunk.json").unlink()
    trunk = Trunk(tmp_path / "trunk", (4,))
    assert trunk.stored(3) and not trunk.stored(4)  # what taking it does: test_damage.py
    record = json.loads((tmp_path / "trunk" / "3" / "trunk.json").read_text())
    assert record["step"] == 3


@given(
    warmup_steps=st.integers(0, 30),
    cooldown=st.floats(0, 1),
    positions=st.integers(1, 700),
    longer=st.integers(0, 700),
    batch=st.integers(1, 40),
    schedule=st.sampled_from(["wsd", "constant"]),
)
def test_a_longer_run_begins_with_the_same_rates(
    warmup_steps: int, cooldown: float, positions: int, longer: int, batch: int, schedule: str
) -> None:
    recipe = Recipe(
        schedule=schedule,
        warmup=0.0,
        warmup_steps=warmup_steps,
        cooldown=cooldown,
        epochs=1.0,
        pairs_per_step=64,
    )

    def rates(positions: int) -> np.ndarray:
        return optimizer.learning_rates(recipe, steps=-(-positions // batch), batch=batch)

    shared = recipe.trunk_steps(positions, batch)
    assert shared <= recipe.trunk_steps(positions + longer, batch)
    own = rates(positions)
    np.testing.assert_array_equal(own[:shared], rates(positions + longer)[:shared])
    if (
        schedule == "wsd" and shared < positions // batch
    ):  # the next step is in the cooldown: nothing was given away
        peak = rates(10**5)[shared]
        into = (shared + 0.5) / len(own) - (1 - cooldown)
        assert own[shared] < peak or 0 < into < 1e-12  # too little to be seen in float32
