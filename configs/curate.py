"""The two-stage curation pipeline, from raw labels to levels that a sweep trains on.

python -m rewardscale.curate --config=curate.py                        # a planted world of 5,000 pairs
python -m rewardscale.curate --config=curate.py:tiny                   # 600 pairs, seconds
python -m rewardscale.curate --config=curate.py:votes --data_dir=DIR   # ukpconvarg1: people's votes, a simulated judge
python -m rewardscale.curate --config=curate.py:paper                  # 20,000 pairs, for configs/paper_curves.py
python -m rewardscale.curate --config=curate.py:paper_votes --data_dir=DIR   # the same on ukpconvarg1
python -m rewardscale.curate plan --config=curate.py                   # what it would ask and cost

Judges and people of all are simulated, with error rates that are written here. Expect of the first: a quarter of
the raw labels is wrong; `filtered` keeps about six in ten with 5 % wrong. A corpus of your own, with real people and
endpoints, is in docs/curation.md.
"""

from ml_collections import ConfigDict

from rewardscale.config.curation import GATHERED, LEVELS, PARTS, CurationConfig
from rewardscale.sweeps.configfile import choose_variant, defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults(CurationConfig)
    choose_variant(variant, VARIANTS, "curate.py")(config)
    return config


JUDGES = (
    {
        "name": "judge-large",
        "rates": {"lapse": 0.08, "noise": 0.6, "shown_first": 0.04},
        "votes": 4,
        "cost": 0.002,
    },
    {
        "name": "judge-small",
        "rates": {"lapse": 0.12, "noise": 0.9, "shown_first": 0.15, "longer": 0.1, "shared": 0.3},
        "votes": 4,
        "cost": 0.0002,
    },
)
PEOPLE = tuple(
    {"name": f"person-{i}", "rates": {"lapse": lapse, "noise": 0.2, "skips": 0.02}, "seconds": 60.0}
    for i, lapse in enumerate((0.02, 0.04, 0.06))
)


def _planted(config: ConfigDict) -> None:
    """A reward that n-grams can learn, raw labels with a quarter of them flipped."""
    config.name = "curate-planted"
    world = config.planted.world
    world.words, world.topics = 64, 20
    world.unigram, world.topical, world.bigram, world.order = 1.0, 0.3, 0.3, 0.1
    world.shortest, world.longest = 8, 12
    config.planted.train, config.planted.validation, config.planted.test = 5_000, 1_000, 2_000
    config.planted.rate = 0.25
    config.validation_by = "pairs"  # its prompts are topics, which all pairs share
    config.judges = JUDGES
    config.people.kind, config.people.simulated = "simulated", PEOPLE
    config.people.money_per_hour = 20.0
    config.raw_price = 0.001
    config.levels = (*LEVELS, *PARTS)
    config.selected = 250  # more would use up the pool before the last iteration


def _tiny(config: ConfigDict) -> None:
    """Everything, in seconds."""
    _planted(config)
    config.name = "curate-tiny"
    config.planted.train, config.planted.validation, config.planted.test = 600, 100, 200
    config.seed_pairs, config.seed_people = 160, 40
    config.iterations, config.people_per_iteration, config.selected = 2, 20, 80
    config.reward_model = "hash256"


def _paper(config: ConfigDict) -> None:
    """What the figure of the paper needs: a pool much larger than what is gathered, and the levels of what was."""
    _planted(config)
    config.name = "curate-paper"
    config.planted.train = 20_000
    config.seed_pairs = 800  # half of them are the gold validation split
    config.levels = (*LEVELS, *PARTS, *GATHERED)


def _votes(config: ConfigDict) -> None:
    """Raw: one vote. People: another one, where they are asked. Truth: the majority of the others. Money: votes."""
    config.name = "curate-votes"
    config.source = "votes"
    config.levels = (*(name for name in LEVELS if name != "selection_only"), *PARTS)
    config.reward_model = "hash16384"
    config.seed_pairs, config.seed_people, config.validation = 1500, 500, 0.2
    config.people.kind = "votes"
    config.people_per_iteration = 200
    config.judges = JUDGES[:1]
    config.raw_price, config.cost_unit = 1.0, "votes"


def _paper_votes(config: ConfigDict) -> None:
    """What the figure needs, on people's votes: about a third of the pool is gathered."""
    _votes(config)
    config.name = "curate-paper-votes"
    config.reward_model = "hash4096"  # as its students
    config.validation_by = "pairs"  # of ten debates, a share may be none
    config.seed_pairs, config.seed_people = 800, 250
    config.selected, config.people_per_iteration = 250, 100
    config.levels = (*(name for name in LEVELS if name != "selection_only"), *GATHERED)


VARIANTS = {"": _planted, "tiny": _tiny, "paper": _paper, "votes": _votes, "paper_votes": _paper_votes}
