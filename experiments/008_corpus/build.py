"""All preference sets that lie in DIR, every pair of them: a corpus to train on, and one of the evaluation sets.

python -m rewardscale.build --config=experiments/008_corpus/build.py --data_dir=DIR --out=corpora/008 --keep_work
python -m rewardscale.build --config=experiments/008_corpus/build.py:evaluation --data_dir=DIR --out=corpora/008e

Expect 1.3 million pairs, of which nine in ten are answers to MMLU-Pro; some minutes on two cores.
"""

from typing import Any

from ml_collections import ConfigDict

from rewardscale.config.build import BuildConfig
from rewardscale.sweeps.configfile import choose_variant, defaults

TRAINING = ("ukpconvarg1", "fgrlhf", "hh-rlhf", "gsm8k-solutions", "mmlu-pro-responses")
EVALUATION = ("hhh", "llmbar", "rm-bench", "humanevalpack")


def get_config(variant: str = "") -> ConfigDict:
    config = defaults(BuildConfig)
    choose_variant(variant, {"": _training, "evaluation": _evaluation}, "build.py")(config)
    return config


def _training(config: Any) -> None:
    """Every pair, less what the evaluation sets hold."""
    config.name = "008-training"
    config.sources = tuple({"adapter": name, "path": name, "pairing": "all"} for name in TRAINING)
    config.near.threshold = 0.8
    config.decontaminate.sets = tuple(f"{name}={name}:{name}" for name in EVALUATION)


def _evaluation(config: Any) -> None:
    """The evaluation sets themselves, duplicates among them reported."""
    config.name = "008-evaluation"
    config.sources = tuple(
        {"adapter": name, "path": name, "pairing": "all", "evaluation": True} for name in EVALUATION
    )
    config.split.validation = 0.0
    config.split.test = 0.999
