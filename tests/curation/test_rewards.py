"""Reward models on the way: the candidate that validation chooses scores the corpus, and no other one does."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rewardscale.config.curation import CurationConfig
from rewardscale.curation import inputs as inputs_
from rewardscale.curation.rewards import Labels, Trainer
from rewardscale.data.comparison import DataError
from rewardscale.evaluation import statistics
from rewardscale.sweeps import configfile

TINY, _ = configfile.load("curate.py:tiny", kind=CurationConfig)


@pytest.mark.parametrize("model", ["hash256", pytest.param("w8", marks=pytest.mark.slow)])
def test_the_chosen_candidate_is_the_best_on_validation_and_its_margins_are_those_of_all(
    tmp_path: Path, model: str
) -> None:
    config = dataclasses.replace(TINY, reward_model=model, epochs=(1.0, 4.0))
    inputs = inputs_.prepare(config, tmp_path)
    assert inputs.truth is not None
    rows = np.flatnonzero(inputs.pool)
    train, validation = (Labels(part, inputs.truth[part]) for part in (rows[:200], rows[200:300]))
    trainer = Trainer(config, inputs.corpus, tmp_path)
    made = trainer.train("m", train, validation)
    everything = np.arange(len(inputs))
    candidates = trainer._transformer if model == "w8" else trainer._convex
    slow = {one.label: one.score(everything) for one in candidates("m", train, validation)}
    assert len(slow) == len(made.record["candidates"]) > 1
    for one in made.record["candidates"]:
        own = slow[one["candidate"]][validation.rows] * validation.preferred
        assert one["accuracy"] == (own > 0).mean()
        assert one["loss"] == pytest.approx(statistics.log_loss(own.astype(np.float64)), abs=1e-5)
    ranked = sorted(made.record["candidates"], key=lambda one: (-one["accuracy"], one["loss"]))
    assert made.record["chosen"] == ranked[0]
    np.testing.assert_allclose(made.margins, slow[ranked[0]["candidate"]], atol=2e-5)
    again = Trainer(config, inputs.corpus, tmp_path).train("m", train, validation)
    np.testing.assert_array_equal(again.margins, made.margins)


def test_too_little_to_train_on_or_to_choose_by_is_one_clear_error(tmp_path: Path) -> None:
    inputs = inputs_.prepare(TINY, tmp_path)
    some, none = Labels(np.arange(5), np.ones(5, np.int8)), Labels(np.arange(0), np.ones(0, np.int8))
    trainer = Trainer(TINY, inputs.corpus, tmp_path)
    for train, validation in ((none, some), (some, none)):
        with pytest.raises(DataError, match="raise seed_pairs, seed_people or validation"):
            trainer.train("m", train, validation)
