"""Cells: what enters a run id, and what a grid refuses."""

import dataclasses

import numpy as np
import pytest

from rewardscale.config import ConfigError, SweepConfig
from rewardscale.data.comparison import DataError
from rewardscale.sweeps import configfile, datasets, grid
from tests.sweeps.launching import TINY


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    overrides = {
        key: value for key, _, value in (a.removeprefix("--config.").partition("=") for a in TINY[1:])
    }
    config, _ = configfile.load("sweep.py:smoke", overrides)
    dataset = datasets.prepare(config.data, tmp_path_factory.mktemp("grid"), None)
    return config, dataset, datasets.view(dataset)


def ids(config: SweepConfig, tiny) -> list[str]:
    return [c.run_id for c in grid.cells(config, *tiny[1:])]


def replace(config: SweepConfig, part: str, **values) -> SweepConfig:
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **values)})


def test_the_grid_is_the_product_of_its_axes_each_cell_once(tiny):
    config = dataclasses.replace(tiny[0], also=tiny[0].sweep)
    cells = grid.cells(config, *tiny[1:])
    assert len({c.run_id for c in cells}) == len(cells) == 4
    assert {(c.run.level, c.run.pairs) for c in cells} == {
        ("raw", 100),
        ("raw", 250),
        ("gold", 100),
        ("gold", 250),
    }


def test_hardware_does_not_enter_the_run_id(tiny):
    config = tiny[0]
    other = replace(
        config, "runtime", mesh=(1, 1, 1), rows_per_microbatch=64, steps_per_dispatch=5, workers=3
    )
    assert ids(other, tiny) == ids(config, tiny)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("recipe", {"epochs": 3.0}),
        ("recipe", {"dtype": "bfloat16"}),
        ("recipe", {"max_length": 30}),
        ("sweep", {"first_draw": 1}),
    ],
)
def test_science_enters_the_run_id(tiny, part, values):
    assert not set(ids(replace(tiny[0], part, **values), tiny)) & set(ids(tiny[0], tiny))


def test_seed_and_learning_rate_enter_the_run_id(tiny):
    before = set(ids(tiny[0], tiny))
    assert not before & set(ids(dataclasses.replace(tiny[0], seed=1), tiny))
    assert not before & set(ids(dataclasses.replace(tiny[0], learning_rates={"w8": 1e-3}), tiny))


def test_more_pairs_than_the_level_has_is_refused_before_anything_runs(tiny):
    with pytest.raises(
        DataError, match=r"level 'raw' keeps 700 of the 700 pairs.*701 were asked for.*sweep\.pairs"
    ):
        grid.cells(replace(tiny[0], "sweep", pairs=(701,)), *tiny[1:])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"levels": ("golden",)}, r"level 'golden'.*did you mean 'gold'"),
        ({"models": ("w9",)}, r"learning_rates\.w9|multiple of 8"),
        ({"models": ("gpt",)}, r"unknown model 'gpt'"),
        ({"models": ("w24",)}, r"learning_rates\.w24 is not set"),
        ({"draws": 0}, r"no cells"),
        ({"folds": 2}, r"folds"),
    ],
)
def test_an_impossible_grid_is_named(tiny, values, message):
    with pytest.raises(ConfigError, match=message):
        grid.cells(replace(tiny[0], "sweep", **values), *tiny[1:])


def test_tokens_and_pairs_of_a_cell_add_up(tiny):
    _, _, view = tiny
    for cell in grid.cells(*tiny):
        assert cell.tokens is not None and cell.raw_pairs >= cell.run.pairs
        recipe = cell.run.recipe
        assert recipe is not None
        per_pair = cell.tokens / recipe.positions(cell.run.pairs)
        assert view.lengths.sum(1).min() <= per_pair <= view.lengths.sum(1).max()


def test_both_launches_of_one_config_find_the_same_data(tiny, tmp_path):
    config, dataset, view = tiny
    again = datasets.prepare(config.data, tmp_path, None)
    assert again.corpus.fingerprint == dataset.corpus.fingerprint
    assert datasets.view(again).key == view.key
    assert again.level("filtered", 0).fingerprint == dataset.level("filtered", 0).fingerprint


def test_a_length_too_short_for_evaluation_pairs_is_refused_before_anything_is_trained(tiny):
    """At the length that the message names the plan is laid out, and one below it is refused."""
    config, dataset, view = tiny
    rows = np.unique(
        np.concatenate([e.pairs.rows for e in dataset.evaluations(-1).values()])
    )  # validation among them
    needed = int(view.lengths[rows][:, 1:].max()) + 1
    assert len(grid.cells(replace(config, "recipe", max_length=needed), dataset, view)) == 4
    with pytest.raises(
        ConfigError, match=rf"max_length={needed - 1} is too short for .* to at least {needed}"
    ):
        grid.cells(replace(config, "recipe", max_length=needed - 1), dataset, view)
    convex = replace(replace(config, "recipe", max_length=1), "sweep", models=("hash64",))
    assert len(grid.cells(convex, dataset, view)) == 4  # which reads no tokens
