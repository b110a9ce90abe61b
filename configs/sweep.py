"""Pairs x curation level x model size, on a planted world or on real people's votes.

python -m rewardscale.launch --config=sweep.py                        # default: planted world
python -m rewardscale.launch --config=sweep.py:smoke                  # the same in small, under a minute
python -m rewardscale.launch --config=sweep.py:votes --data_dir=DIR   # ukpconvarg1: people's votes
python -m rewardscale.launch --config=sweep.py:convex                 # a planted convex world, law known: a minute
python -m rewardscale.launch --config=sweep.py:dose_objective --data_dir=DIR   # known flips, MMLU-Pro answers
python -m rewardscale.launch --config=sweep.py:objective --data_dir=DIR        # to 300,000 MMLU-Pro pairs, a judge
python -m rewardscale.launch --config=sweep.py:dose_votes --data_dir=DIR       # known flips, ukpconvarg1
python -m rewardscale.launch --config=sweep.py:curator                # an independent curator on faint signal
python -m rewardscale.launch --config=sweep.py:curated --config.data.curated.workdir=runs/curate-planted    # its levels
python -m rewardscale.launch --config=sweep.py:full                   # 5 sizes x 7 data sizes x 5 draws: hours
python -m rewardscale.launch --config=sweep.py:trunks                 # one epoch, data sizes branch from trunks
python -m rewardscale.launch --config=sweep.py:tune                   # learning rates, on validation
"""

from ml_collections import ConfigDict

from rewardscale.sweeps.configfile import choose_variant, defaults

# Peak rate 0.08 / width, tuned at raw and at gold on validation: experiments/000_default_sweep.
RATE_TIMES_WIDTH = 0.08
_DOSES = (0.1, 0.2, 0.3, 0.4)  # rates of flips
_DOSE_L2 = tuple(10.0 ** (k / 2) for k in range(-8, 5))  # many flips and few pairs want more than 10


def get_config(variant: str = "") -> ConfigDict:
    config = defaults()
    variants = {
        "": _planted,
        "smoke": _smoke,
        "votes": _votes,
        "convex": _convex,
        "full": _full,
        "tune": _tune,
    }
    variants |= {"dose_objective": _dose_objective, "dose_votes": _dose_votes}
    variants |= {"curator": _curator, "curated": _curated, "trunks": _trunks, "objective": _objective}
    choose_variant(variant, variants, "sweep.py")(config)
    return config


def _planted(config: ConfigDict) -> None:
    """3 sizes x 6 data sizes over two decades x 4 levels x 4 draws = 288 runs."""
    config.name = "planted"
    world = config.data.planted.world
    world.words, world.topics, world.rank = 64, 6, 3
    world.shortest, world.longest = 8, 12
    world.order, world.skill_sd = 0.2, 0.35
    _models(config, 8, 16, 40)
    config.sweep.pairs = (250, 630, 1600, 4000, 10_000, 25_000)
    config.sweep.levels = ("raw", "filtered", "corrected", "gold")
    config.sweep.draws = 4
    config.recipe.max_length = 32
    config.runtime.row_length = 28  # the longest pair: one pair a row computes least on a CPU
    config.runtime.rows_per_microbatch = 32
    config.runtime.scan_layers = False


def _smoke(config: ConfigDict) -> None:
    """16 cells of the planted world: shows that everything works, and no law."""
    _planted(config)
    config.name = "smoke"
    config.data.planted.train = 4_000
    config.data.planted.validation = 400
    config.data.planted.test = 800
    _models(config, 8, 16)
    config.sweep.pairs = (250, 630, 1600, 3600)
    config.sweep.levels = ("raw", "gold")
    config.sweep.draws = 2


def _full(config: ConfigDict) -> None:
    """What fits in N and D need: 5 sizes x 7 data sizes x 4 levels x 5 draws = 700 runs."""
    _planted(config)
    config.name = "planted-full"
    config.data.planted.train = 200_000
    _models(config, 8, 16, 24, 40, 64)
    config.sweep.pairs = (250, 630, 1600, 4000, 10_000, 25_000, 63_000)
    config.sweep.draws = 5


def _trunks(config: ConfigDict) -> None:
    """The default sweep's grid in one epoch at a constant rate, a cooldown a data size: a third less to compute.

    One batch size throughout, since runs of another batch share no step. The rates are the default sweep's, untuned.
    """
    _planted(config)
    config.name = "planted-trunks"
    config.recipe.epochs = 1.0
    config.recipe.schedule = "wsd"
    config.recipe.warmup_steps = 10
    config.recipe.pairs_per_step = 16
    config.recipe.min_pairs_per_step = 16
    config.sweep.trunks = True


def _tune(config: ConfigDict) -> None:
    """Each size at raw and at gold over a grid of rates; the evaluation set to look at is "validation"."""
    _planted(config)
    config.name = "tune"
    config.sweep.levels = ("raw", "gold")
    config.sweep.pairs = (4000, 25_000)
    config.sweep.first_draw = 100  # none of the draws that the default sweep reports
    config.sweep.draws = 4
    config.sweep.learning_rate_scales = (0.5, 0.71, 1.0, 1.41, 2.0)


def _votes(config: ConfigDict) -> None:
    """Experiment 001: 16,927 pairs of arguments, about five votes each; 16 debates in four folds; two families.

    8,640 runs: 8,400 convex ones in about 40 min on two cores, then 240 of a transformer in about as long.
    """
    config.name = "votes"
    config.data.source = "votes"
    config.sweep.models = ("hash256", "hash1024", "hash4096", "hash16384", "hash65536")
    config.sweep.pairs = (125, 250, 500, 1000, 2000, 4000, 6000)
    config.sweep.levels = (
        "one_vote",
        "one_vote_on_strict",
        "majority_3",
        "majority_5",
        "competence_weighted",
        "strict",
    )
    config.sweep.draws = 10
    config.sweep.folds = 4
    config.also.models = ("w16",)
    config.also.pairs = (500, 1000, 2000)
    config.also.levels = ("one_vote", "strict")
    config.also.draws = 10
    config.also.folds = 4
    config.learning_rates = {"w16": 3e-3}
    config.recipe.epochs = 1.0  # a second one is learned by heart
    config.recipe.max_length = 288
    config.runtime.rows_per_microbatch = 2
    config.runtime.scan_layers = False


def _convex(config: ConfigDict) -> None:
    """A law that is known: alpha, beta, E, and what each level does to them (truth.json beside the corpus).

    `also`: the student that knows all words, where labels without noise make another exponent in D.
    """
    config.name = "convex"
    config.data.source = "planted_linear"
    config.convex.l2_grid = (1e-7,)  # 17 weights need no more, and more would bend the curves
    config.sweep.models = ("vocab16", "vocab32", "vocab64", "vocab128", "vocab256")
    config.sweep.pairs = (250, 500, 1000, 2000, 4000, 8000, 16_000)
    config.sweep.levels = ("raw", "biased", "weakly_corrected", "weakly_filtered", "gold")
    config.sweep.draws = 5
    config.also.models = ("vocab512",)
    config.also.pairs = config.sweep.pairs
    config.also.levels = ("raw", "gold", "deterministic+flip0.2", "deterministic")
    config.also.draws = 5


def _dose_objective(config: ConfigDict) -> None:
    """Experiment 004: known flips on right-wrong pairs of MMLU-Pro answers matched in length, style and letter.

    1 model x 7 sizes x 5 rates x 10 draws = 350 runs: about 5 min on two cores, and 1 for the data. The reward
    sees the answer and not the question: it learns little, about 0.006 nats of 0.693 from 16,000 clean pairs.
    """
    config.name = "dose-objective"
    config.data.source = "objective"
    config.convex.ngram = 1
    config.convex.l2_grid = _DOSE_L2
    config.sweep.models = ("hash16384",)
    config.sweep.pairs = (250, 500, 1000, 2000, 4000, 8000, 16_000)
    config.sweep.levels = ("key", *(f"key+flip{rate}" for rate in _DOSES))
    config.sweep.draws = 10


def _objective(config: ConfigDict) -> None:
    """Experiment 011: 1,000 to 300,000 right-wrong pairs of MMLU-Pro answers, and the levels of a simulated judge.

    560,125 pairs of 207,407 answers to 10,790 questions; raw labels 30 % wrong, the judge right in 90 %.
    1 model x 7 sizes x 5 levels x 5 draws + 2 models x 4 sizes x 2 levels x 5 draws = 255 runs: about 35 min on a
    busy machine's one core, and 4 for the data.
    """
    config.name = "objective"
    config.data.source = "objective"
    pairs = config.data.objective
    pairs.max_pairs, pairs.pairs_per_question, pairs.pairs_per_answer = 1_000_000, 200, 29  # all that balance
    pairs.caliper, pairs.longest, pairs.validation, pairs.test = 2.0, 300, 0.05, 0.12
    config.convex.ngram = 1
    config.convex.l2_grid = tuple(10.0 ** (k / 2) for k in range(-7, 3))
    config.convex.folds = 2
    config.sweep.models = ("hash4096",)
    config.sweep.pairs = (1000, 2500, 6300, 16_000, 40_000, 100_000, 300_000)
    config.sweep.levels = ("raw", "filtered", "corrected", "gold", "random_matched")
    config.also.models = ("hash1024", "hash16384")
    config.also.pairs = (2500, 16_000, 100_000, 300_000)
    config.also.levels = ("raw", "gold")
    config.sweep.draws = config.also.draws = 5


def _dose_votes(config: ConfigDict) -> None:
    """Experiment 004: known flips on people's gold labels (ukpconvarg1, strict).

    1 model x 7 sizes x 5 rates x 10 draws x 4 folds = 1,400 runs.
    """
    config.name = "dose-votes"
    config.data.source = "votes"
    config.convex.l2_grid = _DOSE_L2
    config.sweep.models = ("hash16384",)
    config.sweep.pairs = (125, 250, 500, 1000, 2000, 4000, 6000)  # no fold has 8,000
    config.sweep.levels = ("strict", *(f"strict+flip{rate}" for rate in _DOSES))
    config.sweep.draws = 10
    config.sweep.folds = 4


def _curator(config: ConfigDict) -> None:
    """Experiment 005: an independent curator on faint signal, of some --config.data.planted.curator_accuracy.

    Bradley-Terry labels at a margin sd of 1 nat, a quarter flipped; a reward of 64 words and nothing else, all of which
    the student sees. 1 model x 6 sizes x 4 levels x 20 draws = 480 runs.
    """
    config.name = "curator"
    world = config.data.planted.world
    world.words, world.topics, world.zipf = 64, 20, 0.0
    world.unigram, world.topical, world.bigram, world.order = 1.0, 0.0, 0.0, 0.0
    world.shortest, world.longest, world.margin_sd = 8, 12, 1.0
    config.data.planted.label_rule = "bradley_terry"
    config.data.planted.rate = 0.25
    config.data.planted.train, config.data.planted.test = 100_000, 8_000
    config.convex.ngram = 1
    config.convex.l2_grid = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    config.sweep.models = ("hash4096",)
    config.sweep.pairs = (500, 1000, 2000, 4000, 8000, 16_000)
    config.sweep.levels = ("raw", "filtered", "corrected", "gold")
    config.sweep.draws = 20


def _curated(config: ConfigDict) -> None:
    """Experiment 005: levels and placebos of a curation run (configs/curate.py). Few pairs are gold: it ends early.

    1 model x (3 sizes x 11 levels + 2 sizes x 10 levels) x 10 draws = 530 runs: minutes.
    """
    config.name = "curated"
    config.data.source = "curated"
    config.convex.l2_grid = _DOSE_L2
    everywhere = (
        *("raw", "filtered", "corrected", "no_humans", "best_only", "gold_only"),
        *("shuffled_scores", "random_matched", "matched", "selection_only"),
    )
    config.sweep.models = config.also.models = ("hash4096",)
    config.sweep.pairs, config.also.pairs = (125, 250, 500), (1000, 2000)
    config.sweep.levels, config.also.levels = (*everywhere, "gold"), everywhere
    config.sweep.draws = config.also.draws = 10


def _models(config: ConfigDict, *widths: int) -> None:
    config.sweep.models = tuple(f"w{width}" for width in widths)
    config.learning_rates = {f"w{width}": RATE_TIMES_WIDTH / width for width in widths}
