"""Scoring the corpus by tasks of the stage runner: the margins of scoring it in memory, and nothing done twice."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rewardscale.config import ConfigError
from rewardscale.config.curation import CurationConfig
from rewardscale.config.judges import ScoringConfig
from rewardscale.curation import inputs as inputs_
from rewardscale.curation import pipeline
from rewardscale.curation.inputs import Inputs
from rewardscale.curation.rewards import Labels, RewardModel, Trainer
from rewardscale.data.levels import level_names, read_level
from rewardscale.models import convex
from rewardscale.sweeps import configfile

TINY, _ = configfile.load("curate.py:tiny", kind=CurationConfig)
THREE = ScoringConfig(shards=3)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return inputs_.prepare(TINY, tmp_path)


def labels(inputs: Inputs) -> tuple[Labels, Labels]:
    assert inputs.truth is not None
    rows = np.flatnonzero(inputs.pool)
    return Labels(rows[:200], inputs.truth[rows[:200]]), Labels(rows[200:300], inputs.truth[rows[200:300]])


def trained(inputs: Inputs, directory: Path, progress=None, **changes) -> RewardModel:
    trainer = Trainer(dataclasses.replace(TINY, **changes), inputs.corpus, directory)
    return trainer.train("m", *labels(inputs), progress)


@pytest.mark.parametrize("engine", ["inline", "process:2"])
def test_shards_give_the_margins_of_one_process(inputs, tmp_path, monkeypatch, engine):
    monkeypatch.setattr(convex, "_REDUCE_TEXTS", 0)  # of a corpus as small as this features would be rotated
    whole = trained(inputs, tmp_path / "whole")
    made = trained(inputs, tmp_path / "shards", scoring=ScoringConfig(3, engine))
    np.testing.assert_array_equal(made.margins, whole.margins)
    assert made.record == whole.record
    assert not (tmp_path / "shards" / "scoring" / "m").exists()


def test_rotated_features_differ_by_what_the_solver_leaves_open(inputs, tmp_path):
    whole, made = trained(inputs, tmp_path / "whole"), trained(inputs, tmp_path / "shards", scoring=THREE)
    assert np.abs(whole.margins).mean() > 0.1
    np.testing.assert_allclose(made.margins, whole.margins, atol=0.02)


@pytest.mark.slow
def test_a_transformer_scores_by_shards(inputs, tmp_path):
    model = {"reward_model": "w8", "epochs": (1.0,)}
    whole = trained(inputs, tmp_path, **model)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "training").symlink_to(tmp_path / "training")  # trained once is enough
    made = trained(inputs, tmp_path / "again", scoring=THREE, **model)
    np.testing.assert_allclose(made.margins, whole.margins, atol=2e-5)
    assert len(np.unique(made.margins)) > len(inputs) // 2


def test_an_interrupted_scoring_goes_on_and_trains_nothing_again(inputs, tmp_path, monkeypatch):
    def stop(what: str, done: int, of: int) -> None:
        if what.startswith("scoring") and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(inputs, tmp_path, stop, scoring=THREE)
    first = tmp_path / "scoring" / "m" / "margins" / "00000" / "margins.npy"
    before = first.stat().st_mtime_ns
    monkeypatch.setattr(Trainer, "_best", None)
    seen = []

    def note(what: str, done: int, of: int) -> None:
        if first.exists():
            seen.append(first.stat().st_mtime_ns)

    made = trained(inputs, tmp_path, note, scoring=THREE)
    assert set(seen) == {before}
    np.testing.assert_array_equal(made.margins, trained(inputs, tmp_path).margins)
    monkeypatch.undo()
    other = trained(inputs, tmp_path / "other", scoring=THREE)
    np.testing.assert_array_equal(made.margins, other.margins)


def test_a_model_that_reads_all_texts_first_has_no_shards(inputs, tmp_path):
    with pytest.raises(ConfigError, match=r"'vocab64'.*take scoring\.shards=0"):
        trained(inputs, tmp_path, reward_model="vocab64", scoring=THREE)


def test_an_engine_without_shards_is_refused():
    with pytest.raises(ConfigError, match=r"give scoring\.shards too"):
        ScoringConfig(engine="process")


def test_levels_are_the_same_and_a_folder_may_change_over(tmp_path, monkeypatch):
    monkeypatch.setattr(convex, "_REDUCE_TEXTS", 0)
    config = dataclasses.replace(TINY, iterations=0, no_humans=False)
    pipeline.run(config, tmp_path / "whole")
    shards = dataclasses.replace(config, scoring=THREE)
    pipeline.run(shards, tmp_path / "shards")
    pipeline.run(config, tmp_path / "shards")  # done: and no other run
    names = list(level_names(tmp_path / "whole" / "levels"))
    assert "filtered" in names
    for name in names:
        one, other = (read_level(tmp_path / place / "levels" / name) for place in ("whole", "shards"))
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.orientation, other.orientation)
