"""Experiment 003: L(N, D) of transformers by curation level and label rule, on planted worlds; then best of n.

python -m rewardscale.launch --config=planted_transformer.py                  # deterministic labels, flips: 4 levels
python -m rewardscale.launch --config=planted_transformer.py:bradley_terry    # sampled labels, flips
python -m rewardscale.launch --config=planted_transformer.py:length_bias      # raters who now and then follow length
python -m rewardscale.launch --config=planted_transformer.py:tune             # learning rates, on validation

The world is the default sweep's (configs/sweep.py). One epoch at a constant rate, a cooldown a data size, 16 pairs a
step: data sizes branch from trunks, and a pair is seen once.
"""

from ml_collections import ConfigDict

from rewardscale.sweeps.configfile import choose_variant, defaults

RATE_TIMES_WIDTH = 0.08
WIDTHS = (8, 16, 24, 32, 40)
PAIRS = (800, 1600, 3200, 6400, 12_800, 25_600, 51_200)
LEVELS = ("raw", "filtered", "corrected", "gold")


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    choose_variant(variant, VARIANTS, "planted_transformer.py")(config)
    return config


def _flips(config: ConfigDict) -> None:
    """5 sizes x 7 data sizes x 4 levels x 5 draws = 700 runs."""
    config.name = "planted-transformer"
    world = config.data.planted.world
    world.words, world.topics, world.rank = 64, 6, 3
    world.shortest, world.longest = 8, 12
    world.order, world.skill_sd = 0.2, 0.35
    config.data.planted.train = 100_000  # of which the curator keeps two thirds
    config.sweep.models = tuple(f"w{width}" for width in WIDTHS)
    config.learning_rates = {f"w{width}": RATE_TIMES_WIDTH / width for width in WIDTHS}
    config.sweep.pairs = PAIRS
    config.sweep.levels = LEVELS
    config.sweep.draws = 5
    config.sweep.trunks = True
    recipe = config.recipe
    recipe.epochs, recipe.schedule, recipe.warmup_steps = 1.0, "wsd", 10
    recipe.pairs_per_step = recipe.min_pairs_per_step = 16
    recipe.max_length = 32
    config.runtime.row_length = 28
    config.runtime.rows_per_microbatch = 16
    config.runtime.scan_layers = False


def _bradley_terry(config: ConfigDict) -> None:
    """Gold labels sampled from the gold margin; 5 sizes x 7 data sizes x 2 levels x 5 draws = 350 runs."""
    _flips(config)
    config.name = "planted-transformer-bt"
    config.data.planted.label_rule = "bradley_terry"
    config.sweep.levels = ("raw", "gold")


def _length_bias(config: ConfigDict) -> None:
    """Raw labels that follow length as often as the others are flipped; gold is the first variant's. 175 runs."""
    _flips(config)
    config.name = "planted-transformer-length"
    config.data.planted.corruption = "length_bias"
    config.sweep.levels = ("raw",)


def _tune(config: ConfigDict) -> None:
    """3 sizes at raw and at gold over a grid of rates; the evaluation set to look at is "validation"."""
    _flips(config)
    config.name = "planted-transformer-tune"
    config.sweep.models = ("w8", "w16", "w40")
    config.sweep.levels = ("raw", "gold")
    config.sweep.pairs = (3200, 25_600)
    config.sweep.first_draw, config.sweep.draws = 100, 1  # none of the draws that are reported
    config.sweep.learning_rate_scales = (0.5, 1.0, 2.0)


VARIANTS = {"": _flips, "bradley_terry": _bradley_terry, "length_bias": _length_bias, "tune": _tune}
