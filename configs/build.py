"""A corpus of public preference sets, from local copies or the Hugging Face hub.

python -m rewardscale.build --config=build.py --out=corpora/public                  # downloads what it needs
python -m rewardscale.build --config=build.py:local --data_dir=DIR --out=corpora/local
python -m rewardscale.build --source=mine.jsonl --config.near.threshold=0.8 --out=corpora/mine

The default takes public sets whose commits are pinned; SynPref-40M, of which Skywork-Reward-V2 (arXiv 2507.01352) is
made, was never released. An earlier source wins a duplicate, so the better-checked sets come first. Licences differ
from set to set (`--sources` lists them). "local" reads sets that lie in DIR under their adapter's name, and leaves out
what the evaluation sets there hold: 67,000 pairs in a minute.
"""

from ml_collections import ConfigDict

from rewardscale.config.build import BuildConfig
from rewardscale.sweeps.configfile import choose_variant, defaults

PUBLIC = (
    "helpsteer2-preference",
    "skywork-reward-preference-80k",
    "ultrafeedback-binarized",
    "hh-rlhf",
)
LOCAL = ("ukpconvarg1", "fgrlhf", "hh-rlhf", "gsm8k-solutions", "mmlu-pro-responses")
EVALUATION = ("hhh", "llmbar", "rm-bench")


def get_config(variant: str = "") -> ConfigDict:
    config = defaults(BuildConfig)
    choose_variant(variant, {"": _public, "local": _local, "bare": _bare}, "build.py")(config)
    return config


def _public(config: ConfigDict) -> None:
    """From the hub."""
    config.name = "public"
    config.sources = tuple({"adapter": name} for name in PUBLIC)
    config.near.threshold = 0.8


def _local(config: ConfigDict) -> None:
    """What lies in --data_dir."""
    config.name = "local"
    config.sources = tuple({"adapter": name, "path": name, "pairing": "all", "most": 4} for name in LOCAL)
    config.near.threshold = 0.8
    config.decontaminate.sets = tuple(f"{name}={name}:{name}" for name in EVALUATION)


def _bare(config: ConfigDict) -> None:
    """Exact duplicates alone, of what --source names."""
