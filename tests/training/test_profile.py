"""Tracing some steps of a training."""

import gzip
import json
from pathlib import Path

import jax
import pytest

from rewardscale.config import ConfigError, Runtime
from rewardscale.data.tokenised import TokenisedView
from rewardscale.training.profile import ANNOTATION
from tests.training import running
from tests.training.running import STEPS, case, metrics, train


def traced(directory: Path) -> list[int]:
    """The numbers of the steps in the one trace of a run, by XProf's own reader."""
    (path,) = (directory / "profile").rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
    events = [e for plane in data.planes for line in plane.lines for e in line.events]
    return sorted(int(dict(e.stats)["step_num"]) for e in events if e.name == ANNOTATION)


@pytest.mark.parametrize(("steps", "expected"), [((3, 6), [3, 4, 5]), ((8, 20), [8, 9]), ((5, 6), [5])])
def test_the_steps_that_were_asked_for(
    steps: tuple[int, int], expected: list[int], pairs_view: TokenisedView, tmp_path: Path
) -> None:
    plain = train(*case(pairs_view), tmp_path / "plain")
    trained = train(*case(pairs_view), tmp_path / "traced", profile_steps=steps)
    assert traced(tmp_path / "traced") == expected
    running.assert_same(trained.params, plain.params)
    assert metrics(tmp_path / "traced") == metrics(tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()


def test_perfetto_can_read_it(pairs_view: TokenisedView, tmp_path: Path) -> None:
    train(*case(pairs_view), tmp_path, profile_steps=(4, 5))
    (path,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    marks = [e for e in events if e.get("name", "").startswith(ANNOTATION) and e.get("ph") == "X"]
    assert any(str(e.get("args", {}).get("step_num")) == "4" for e in marks)


def test_a_run_that_goes_on_after_them_traces_nothing(pairs_view: TokenisedView, tmp_path: Path) -> None:
    train(*case(pairs_view), tmp_path)
    assert train(*case(pairs_view), tmp_path, profile_steps=(2, 4)).record["resumed_at"] == STEPS
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("steps", [(3, 2), (-1, 4), (3,)])
def test_steps_that_are_none(steps: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"runtime.profile_steps=.*: the first step to trace"):
        Runtime(profile_steps=steps)  # pyright: ignore[reportArgumentType]
