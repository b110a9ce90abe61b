"""A damaged checkpoint is passed over, loudly, and the run ends with the same parameters bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardscale.config import ConfigError
from rewardscale.data.tokenised import TokenisedView
from rewardscale.training import loop
from rewardscale.training.checkpoint import Checkpoints, Damaged, load_state, save_state
from rewardscale.training.sums import sums_of
from tests.training import running, test_trunk
from tests.training.running import STEPS, case, metrics, train

# What orbax leaves behind when a read fails: tasks that nobody waits for.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

WAYS = ("gone", "empty", "half", "last", "flipped")
# What orbax writes of a state; for * it draws a name.
FILES = (
    "_CHECKPOINT_METADATA", "commit_success.txt", "state/_METADATA", "state/_sharding",
    "state/array_metadatas/process_0", "state/commit_success.txt", "state/d/*", "state/manifest.ocdbt",
    "state/ocdbt.process_0/d/*",
    "state/ocdbt.process_0/manifest.ocdbt",
)  # fmt: skip


def damage(path: Path, way: str, *, at: float = 0.5) -> None:
    data = path.read_bytes()
    byte = min(int(len(data) * at), len(data) - 1)
    flipped = data[:byte] + bytes([data[byte] ^ 0x10]) + data[byte + 1 :]
    if way == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"empty": b"", "half": data[: len(data) // 2], "last": data[:-1], "flipped": flipped}[way]
        )


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def whole(pairs_view: TokenisedView, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, loop.Trained]:
    """A finished run that has kept two checkpoints, of steps 5 and 10."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, train(*case(pairs_view), directory, checkpoint_seconds=0.0, checkpoints_kept=2)


def go_on(view: TokenisedView, directory: Path, whole: tuple[Path, loop.Trained]) -> loop.Trained:
    """Runs the same training again, which must end as if nothing had happened."""
    trained = train(*case(view), directory, checkpoint_seconds=0.0, checkpoints_kept=2)
    running.assert_same(trained.params, whole[1].params)
    assert metrics(directory) == metrics(whole[0])
    return trained


def check_fallback(
    view: TokenisedView,
    whole: tuple[Path, loop.Trained],
    directory: Path,
    name: str,
    way: str,
    at: float,
    errors: Any,
) -> bool:
    """Damages a file of the newest checkpoint of a copy; whether that was noticed."""
    shutil.copytree(whole[0], directory)
    found = list((directory / "checkpoints" / "10").glob(name))
    assert found, f"orbax writes no {name} any more"
    for path in found:
        damage(path, way, at=at)
    errors.readouterr()
    record = go_on(view, directory, whole).record
    said = [line for line in errors.readouterr().err.splitlines() if line.startswith("warning: ")]
    if record["resumed_at"] == STEPS:  # a file that nothing is read from: whole all the same
        assert record["passed_over"] == [] and not said
        return False
    assert record["resumed_at"] == 5 and record["passed_over"] == ["10.damaged"]
    assert record["restored_from"] == "checkpoints/5"
    assert (
        len(said) == 1 and f"{directory}/checkpoints/10 is damaged (" in said[0] and "10.damaged" in said[0]
    )
    assert {p.name for p in (directory / "checkpoints").iterdir()} >= {"10", "10.damaged"}
    return True


def test_these_are_the_files(whole: tuple[Path, loop.Trained]) -> None:
    folder = whole[0] / "checkpoints" / "10"
    assert {path for name in FILES for path in folder.glob(name)} == set(files_of(folder))


@pytest.mark.parametrize(
    ("name", "way"),
    [("state/d/*", "gone"), ("state/_METADATA", "empty"), ("state/manifest.ocdbt", "half"),
     ("state/ocdbt.process_0/d/*", "flipped"), ("_CHECKPOINT_METADATA", "half")],
)  # fmt: skip
def test_a_damaged_newest_is_passed_over(
    name: str, way: str, whole: Any, pairs_view: TokenisedView, tmp_path: Path, capsys: Any
) -> None:
    assert check_fallback(pairs_view, whole, tmp_path / "run", name, way, 0.4, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_whatever_is_damaged_the_end_is_the_same(
    name: str, whole: Any, pairs_view: TokenisedView, tmp_path: Path, capsys: Any
) -> None:
    """Each file, gone or cut off, and with a bit flipped in twenty places."""
    cases = [(way, 0.0) for way in WAYS[:-1]] + [("flipped", at) for at in np.linspace(0, 0.999, 20)]
    noticed = [
        check_fallback(pairs_view, whole, tmp_path / str(n), name, way, at, capsys)
        for n, (way, at) in enumerate(cases)
    ]
    if name in ("_CHECKPOINT_METADATA", "state/_METADATA", "state/d/*", "state/manifest.ocdbt"):
        assert all(noticed[:3])


def test_with_none_whole_it_begins_again(
    whole: Any, pairs_view: TokenisedView, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    for step in ("5", "10"):
        damage(tmp_path / "run" / "checkpoints" / step / "state" / "manifest.ocdbt", "half")
    record = go_on(pairs_view, tmp_path / "run", whole).record
    assert record["resumed_at"] == 0 and record["passed_over"] == ["10.damaged", "5.damaged"]
    assert record["restored_from"] == ""
    assert "going on from checkpoint: none: there is no older one" in capsys.readouterr().err
    # and once more: what was set aside before stays beside it
    damage(tmp_path / "run" / "checkpoints" / "10" / "state" / "manifest.ocdbt", "half")
    record = go_on(pairs_view, tmp_path / "run", whole).record
    assert record["resumed_at"] == 5
    assert record["passed_over"] == ["10.damaged", "10.damaged-2", "5.damaged"]


def test_another_state_is_not_damage(whole: Any, tmp_path: Path) -> None:
    """A whole checkpoint of another model stays where it is."""
    shutil.copytree(whole[0] / "checkpoints", tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run", kept=2, seconds=0.0)
    with pytest.raises(ConfigError, match=r"holds another state than this run's: .* must be"):
        checkpoints.restore({"step": jax.ShapeDtypeStruct((), jnp.int32)})
    checkpoints.close()
    assert {"5", "10"} == {p.name for p in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize(
    ("name", "way"),
    [("trunk.json", "gone"), ("trunk.json", "half"), ("metrics.jsonl", "half"), ("metrics.jsonl", "gone"),
     ("state/state/manifest.ocdbt", "flipped"), ("state/state/ocdbt.process_0/d/*", "flipped")],
)  # fmt: skip
def test_a_trunk_whose_state_is_damaged(
    name: str, way: str, pairs_view: TokenisedView, tmp_path: Path, capsys: Any
) -> None:
    """A branch begins with the state before it, and leaves a whole one for others."""
    test_trunk.train(pairs_view, 100, tmp_path)
    alone = test_trunk.train(pairs_view, 100, tmp_path / "alone", trunk=False)
    shutil.rmtree(tmp_path / "100")
    for path in (tmp_path / "trunk" / "4").glob(name):
        damage(path, way, at=0.4)
    trained = test_trunk.train(pairs_view, 100, tmp_path)
    running.assert_same(trained.params, alone.params)
    assert metrics(tmp_path / "100") == metrics(tmp_path / "alone" / "100")
    assert trained.record["restored_from"] == "trunk/3" and trained.record["passed_over"] == ["4.damaged"]
    assert "4 is damaged (" in (said := capsys.readouterr().err) or "4/state is damaged (" in said
    shutil.rmtree(tmp_path / "100")
    assert test_trunk.train(pairs_view, 100, tmp_path).record["resumed_at"] == 4


def test_a_single_state(tmp_path: Path) -> None:
    state = {"a": jnp.arange(300.0) ** 0.5, "b": jnp.ones((3, 4), jnp.bfloat16)}
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    save_state(tmp_path / "one", state)
    running.assert_same(load_state(tmp_path / "one", abstract), state)
    (data,) = (tmp_path / "one" / "state" / "ocdbt.process_0" / "d").iterdir()
    damage(data, "flipped", at=0.4)
    with pytest.raises(Damaged, match=r"one is damaged \(.*: remove it, and run the same command again"):
        load_state(tmp_path / "one", abstract)


def test_every_bit_counts() -> None:
    """Any one bit changed, and any two elements exchanged, change the sum; the mesh does not."""
    for dtype in (jnp.float32, jnp.bfloat16, jnp.int32):
        values = np.asarray(jnp.arange(24).reshape(4, 6).astype(dtype))
        before = sums_of({"a": values})
        assert before == sums_of({"a": jnp.asarray(values)})
        raw = values.tobytes()
        for bit in range(len(raw) * 8):
            other = bytearray(raw)
            other[bit // 8] ^= 1 << (bit % 8)
            assert sums_of({"a": np.frombuffer(bytes(other), values.dtype).reshape(4, 6)}) != before
        assert sums_of({"a": values[::-1]}) != before
    spread = jax.device_put(jnp.arange(64.0).reshape(8, 8), running.spread_over_eight())
    assert sums_of({"a": spread}) == sums_of({"a": np.arange(64, dtype=np.float32).reshape(8, 8)})
