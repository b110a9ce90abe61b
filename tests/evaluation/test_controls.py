"""Controls: the longer response, and lots that are drawn by the text."""

from pathlib import Path

import numpy as np
import pytest

from rewardscale.evaluation.benchmarks.registry import load, load_all
from rewardscale.evaluation.controls import controls, length_control, random_control
from tests import benchmark_files as files


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    files.write_seven(folder)
    return folder


def test_the_longer_response_wins(tmp_path: Path) -> None:
    path = files.jsonl(
        tmp_path / "pairs.jsonl",
        [
            {"prompt": "q", "chosen": "longer", "rejected": "short"},
            {"prompt": "q", "chosen": "a", "rejected": "longer"},
            {"prompt": "q", "chosen": "same", "rejected": "size"},
            {"prompt": "q", "chosen": "äöü", "rejected": "abcd"},  # characters, not bytes
        ],
    )
    benchmark = load(str(path), None)
    assert length_control(benchmark).tolist() == [[6, 5], [1, 6], [4, 4], [3, 4]]
    assert controls(benchmark)["longer"]["accuracy"][0] == 0.25


def test_every_benchmark_has_both(folder: Path) -> None:
    for benchmark in load_all("all", folder)[0]:
        found = controls(benchmark, weights=np.ones((3, len(benchmark.items))))
        assert found.keys() == {"longer", "random"}
        for scores in found.values():
            assert scores[benchmark.headline].shape == (3,)
            assert 0 <= scores[benchmark.headline][0] <= 1.01
        assert benchmark.scored(length_control(benchmark)).all()


def test_lots_depend_on_the_text_alone(folder: Path) -> None:
    benchmark = load("rmb", folder)
    whole = random_control(benchmark)
    keep = np.arange(len(benchmark.items)) % 2 == 1
    part = random_control(benchmark.only(keep, "half"))
    np.testing.assert_array_equal(part, whole[keep][:, : part.shape[1]])
    assert not np.array_equal(random_control(benchmark, seed=1), whole, equal_nan=True)
    values = whole[np.isfinite(whole)]
    assert len(set(values.tolist())) == len(values) and values.min() >= 0 and values.max() < 1


def test_lots_are_even(tmp_path: Path) -> None:
    records = [{"prompt": f"q{n}", "chosen": "a", "rejected": "b"} for n in range(4_000)]
    benchmark = load(str(files.jsonl(tmp_path / "pairs.jsonl", records)), None)
    values = random_control(benchmark)
    assert values.mean() == pytest.approx(0.5, abs=0.02)
    assert values.std() == pytest.approx(12**-0.5, abs=0.01)
    assert controls(benchmark)["random"]["accuracy"][0] == pytest.approx(0.5, abs=0.04)
