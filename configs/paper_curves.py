"""The curves of Skywork-Reward-V2 (arXiv 2507.01352, figure 7, left) and the arms that it lacks, on a curation run.

python -m rewardscale.curate --config=curate.py:paper                        # first: the levels (a planted world)
python -m rewardscale.launch --config=paper_curves.py:small                  # the figure, on that run
python -m rewardscale.launch --config=paper_curves.py:small_snapshots        # what each stage knows, at equal sizes
python -m rewardscale.launch --config=paper_curves.py:small_votes            # both on people's votes, after
python -m rewardscale.launch --config=paper_curves.py:small_votes_snapshots  # curate.py:paper_votes
python -m rewardscale.launch --config=paper_curves.py --dry_run --config.data.curated.workdir=DIR
python -m rewardscale.launch --config=paper_curves.py:snapshots --dry_run --config.data.curated.workdir=DIR
python -m rewardscale.launch --config=paper_curves.py:scaling --dry_run --without_data   # hours, on assumed lengths

DIR: a finished run of rewardscale.curate with eight iterations and the levels of curate.py:paper.

    ""           the figure: {raw, filtered, corrected, no_humans} x {seed, iterations 1 to 8, stage 2} = 40 levels,
                 each on all it has, as in the paper (pairs 0); and the same 40, with 4 placebos, at one size
    snapshots    size-matched: what the rules keep of the whole pool with what each stage knows, 27 snapshots, 4 levels
                 and 4 placebos, at 3 sizes
    scaling      8 models x 5 data sizes x 4 levels

The paper's points mix three things: which pairs were retrieved, how many, and how they are labelled. At one size
`gathered_raw@iter3` against `raw` is retrieval alone, `gathered_filtered@iter3` against `gathered_raw@iter3` the
labels. A placebo keeps as many pairs and knows nothing: `shuffled_scores`, `random_matched`, `matched`, and, on planted
worlds, `selection_only` (`--config.also.levels` leaves it out elsewhere).

Draws of a level that is used whole differ by order and initialisation (convex: by the hash) alone. What another pool
and other annotators would give is seen by repeating the curation: --config.seed, --config.planted.seed. Raw pairs
consumed mean nothing for gathered levels, which are not drawn at random but retrieved.

Without "small" the models are the paper's backbones, the recipe its development recipe: sizes to be laid out, priced
and compiled (`rewardscale.plan --sweep=paper_curves.py:scaling`; docs/pods.md has what both print). Prices are for a
v5p-128, 64 chips, a cell at a time: a step of 256 pairs is nine rows of 32,768 tokens, dealt over 16 groups of four
chips. A sweep starts from random weights; published ones are trained level by level with `rewardscale.train`.
llama3.1-8b-40m is llama3.1-8b again: a second run of it.
"""

from ml_collections import ConfigDict

from rewardscale.models.presets import BACKBONES
from rewardscale.sweeps.configfile import choose_variant, defaults

CURVES = ("raw", "filtered", "corrected", "no_humans")
STAGES = tuple(f"@iter{n}" for n in range(9))  # the seed, iterations 1 to 8; stage 2 is the level itself
FIGURE = (*(f"gathered_{curve}{stage}" for curve in CURVES for stage in STAGES), *CURVES)
SNAPSHOTS = (*(f"{curve}{stage}" for curve in CURVES[1:] for stage in STAGES), *CURVES)
PLACEBOS = ("shuffled_scores", "random_matched", "matched", "selection_only")
_L2 = tuple(10.0 ** (k / 2) for k in range(-8, 1))


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    config.data.source = "curated"
    choose_variant(variant, VARIANTS, "paper_curves.py")(config)
    return config


def _figure(config: ConfigDict) -> None:
    """1 model x (40 levels whole + 44 at one size) x 1 draw = 84 runs. One draw, as in the paper: no interval."""
    config.name = "paper-figure"
    _backbones(config, "llama3.1-8b")
    _whole_and_at(config, 80_000)


def _snapshots(config: ConfigDict) -> None:
    """1 model x 35 levels x 3 sizes x 1 draw = 105 runs."""
    config.name = "paper-snapshots"
    _backbones(config, "llama3.1-8b")
    config.sweep.levels = (*SNAPSHOTS, *PLACEBOS)
    config.sweep.pairs = (80_000, 800_000, 8_000_000)


def _scaling(config: ConfigDict) -> None:
    """8 models x 5 sizes over two decades x 4 levels x 1 draw = 160 runs. A fit in D needs seven sizes."""
    config.name = "paper-scaling"
    _backbones(config, *BACKBONES)
    config.sweep.levels = CURVES
    config.sweep.pairs = (80_000, 250_000, 800_000, 2_500_000, 8_000_000)


def _small(config: ConfigDict) -> None:
    """Convex students of curate.py:paper: 1 model x (40 whole + 44 at 200 pairs) x 5 draws = 420 runs.

    About 8 minutes of one core.
    """
    config.name = "paper-figure-small"
    _convex(config)
    _whole_and_at(config, 200)
    config.also.draws = 5


def _small_snapshots(config: ConfigDict) -> None:
    """1 model x 35 levels x 3 sizes x 5 draws = 525 runs."""
    config.name = "paper-snapshots-small"
    _convex(config)
    config.sweep.levels = (*SNAPSHOTS, *PLACEBOS)
    config.sweep.pairs = (500, 2000, 8000)


def _small_votes(config: ConfigDict) -> None:
    """Convex students of curate.py:paper_votes: 1 model x (40 whole + 43 at 200 pairs) x 5 draws = 415 runs."""
    config.name = "paper-figure-votes"
    _convex(config, "runs/curate-paper-votes")
    _whole_and_at(config, 200, PLACEBOS[:3])
    config.also.draws = 5


def _small_votes_snapshots(config: ConfigDict) -> None:
    """1 model x 34 levels x 3 sizes x 5 draws = 510 runs."""
    config.name = "paper-snapshots-votes"
    _convex(config, "runs/curate-paper-votes")
    config.sweep.levels = (*SNAPSHOTS, *PLACEBOS[:3])
    config.sweep.pairs = (500, 1000, 3000)


def _whole_and_at(config: ConfigDict, size: int, placebos: tuple[str, ...] = PLACEBOS) -> None:
    """The figure's levels with all their pairs, and the same with placebos at a size that the seed has too."""
    config.sweep.levels, config.sweep.pairs = FIGURE, (0,)
    config.also.levels, config.also.pairs = (*FIGURE, *placebos), (size,)
    config.also.models = config.sweep.models


def _convex(config: ConfigDict, curation: str = "runs/curate-paper") -> None:
    config.data.curated.workdir = curation
    config.convex.l2_grid = _L2
    config.sweep.models = ("hash4096",)
    config.sweep.draws = 5


def _backbones(config: ConfigDict, *names: str) -> None:
    """With the development recipe of configs/skywork_v2.py."""
    config.sweep.models = names
    for name in names:
        config.learning_rates[name] = 1e-6 if "8b" in name else 4e-6
    recipe = config.recipe
    recipe.pairs_per_step, recipe.schedule, recipe.warmup, recipe.epochs = 256, "linear", 0.03, 1.0
    recipe.max_length, recipe.weight_decay, recipe.b2 = 16_384, 0.0, 0.999
    recipe.dtype = recipe.parameters = "bfloat16"
    runtime, assumed = config.runtime, config.assumed
    runtime.remat, runtime.mesh = "full", (1, -1, 4)
    runtime.row_length, runtime.rows_per_microbatch = 2 * recipe.max_length, 16
    assumed.topology = "v5p:4x4x4"
    assumed.evaluation_pairs, assumed.start_minutes = 100_000, 10.0


VARIANTS = {
    "": _figure,
    "snapshots": _snapshots,
    "scaling": _scaling,
    "small": _small,
    "small_snapshots": _small_snapshots,
    "small_votes": _small_votes,
    "small_votes_snapshots": _small_votes_snapshots,
}
