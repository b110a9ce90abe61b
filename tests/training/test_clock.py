"""The parts of a training's wall time, in its metrics and its record."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewardscale.data import pipeline
from rewardscale.data.tokenised import TokenisedView
from rewardscale.training.clock import PARTS, Clock
from tests.training.running import STEPS, case, train

SLOW = 0.08


def test_parts_add_up() -> None:
    clock = Clock()
    with clock("device"):
        time.sleep(0.05)
    assert list(clock.each("data", (time.sleep(0.02) or n for n in range(3)))) == [0, 1, 2]
    clock.timed("checkpoint", lambda: time.sleep(0.03))()
    one, two, summary = clock.share(5), clock.share(5), clock.summary()
    assert one["device_seconds"] * 5 == pytest.approx(0.05, rel=0.5) and set(two.values()) == {0.0}
    assert summary["data_seconds"] >= 0.06 and summary["checkpoint_seconds"] >= 0.03
    parts = sum(summary[f"{part}_seconds"] for part in PARTS)
    assert 0.9 * summary["loop_seconds"] <= parts <= summary["loop_seconds"]
    clock.begin()
    assert clock.summary()["data_seconds"] == 0


def test_the_parts_of_a_training(
    pairs_view: TokenisedView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow source and a slow disk: each is seen as what it is, and the parts are nearly all of the time."""
    whole = pipeline.blocks

    def slow(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for item in whole(*args, **kwargs):
            time.sleep(SLOW)
            yield item

    train(*case(pairs_view), tmp_path / "warm", steps_per_dispatch=1)  # compiled, orbax imported
    monkeypatch.setattr(pipeline, "blocks", slow)
    record = train(*case(pairs_view), tmp_path / "run", steps_per_dispatch=1).record
    assert record["data_seconds"] >= STEPS * SLOW
    parts = sum(record[f"{part}_seconds"] for part in PARTS)
    assert 0.93 * record["loop_seconds"] <= parts <= record["loop_seconds"]
    assert record["checkpoint_seconds"] > 0 and record["device_seconds"] > 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for part in ("data", "device"):
        total = sum(line[f"{part}_seconds"] for line in lines)
        assert total == pytest.approx(record[f"{part}_seconds"], rel=0.05)
    often = train(*case(pairs_view), tmp_path / "often", steps_per_dispatch=1, checkpoint_seconds=0.0).record
    assert often["checkpoint_seconds"] > 2 * record["checkpoint_seconds"]


def test_blocks_of_many_steps_share_their_time(pairs_view: TokenisedView, tmp_path: Path) -> None:
    record = train(*case(pairs_view), tmp_path).record
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len({line["device_seconds"] for line in lines[:5]}) == 1
    assert sum(line["device_seconds"] for line in lines) == pytest.approx(record["device_seconds"], rel=0.05)
