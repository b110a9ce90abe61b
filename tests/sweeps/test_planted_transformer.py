"""Experiment 003's sweeps: one grid, whose data sizes branch from trunks, on worlds that differ in labels alone."""

import dataclasses

import pytest

from rewardscale.sweeps import configfile


@pytest.mark.parametrize("variant", ["", ":bradley_terry", ":length_bias"])
def test_variants_differ_in_labels_and_levels_alone(variant):
    base, _ = configfile.load("planted_transformer.py")
    config, _ = configfile.load(f"planted_transformer.py{variant}")
    planted = dataclasses.replace(
        config.data.planted,
        label_rule=base.data.planted.label_rule,
        corruption=base.data.planted.corruption,
    )
    assert planted == base.data.planted
    assert (config.recipe, config.learning_rates) == (base.recipe, base.learning_rates)
    assert config.sweep == dataclasses.replace(base.sweep, levels=config.sweep.levels)
    assert config.sweep.trunks and not config.recipe.why_no_trunk()
    assert len(config.sweep.models) >= 5 and len(config.sweep.pairs) >= 7 and config.sweep.draws >= 5


def test_tuning_uses_draws_that_nothing_reports():
    config, _ = configfile.load("planted_transformer.py:tune")
    base, _ = configfile.load("planted_transformer.py")
    assert config.sweep.first_draw > base.sweep.first_draw + base.sweep.draws


def test_the_world_is_the_default_sweeps():
    """As config and README say; a second copy of its numbers must not drift."""
    config, _ = configfile.load("planted_transformer.py")
    default, _ = configfile.load("sweep.py")
    assert config.data.planted.world == default.data.planted.world
