"""A corpus of public preference sets, from local copies or the Hugging Face hub.

python -m rewardscale.build --config=build.py --out=corpora/public                  # downloads what it needs
python -m rewardscale.build --config=build.py:local --data_dir=DIR --out=corpora/local
python -m rewardscale.build --source=mine.jsonl --config.near.threshold=0.8 --out=corpora/mine

The default takes the public sets that the preference mixes of Skywork-Reward-V2 (arXiv 2507.01352, section 3) and
Tulu 3 draw on; SynPref-40M itself was never released. An earlier source wins a duplicate, so the better-checked sets
come first. "local" reads sets that lie in DIR under their adapter's name.
"""

from ml_collections import ConfigDict

from rewardscale.config.build import BuildConfig
from rewardscale.sweeps.configfile import choose_variant, defaults

PUBLIC = (
    ("helpsteer3", "nvidia/HelpSteer3"),
    ("skywork-reward-preference-80k", "Skywork/Skywork-Reward-Preference-80K-v0.2"),
    ("helpsteer2", "nvidia/HelpSteer2"),
)
LOCAL = ("hhh", "llmbar", "hh-rlhf", "fgrlhf", "gsm8k-solutions", "ukpconvarg1", "humanevalpack")


def get_config(variant: str = "") -> ConfigDict:
    config = defaults(BuildConfig)
    choose_variant(variant, {"": _public, "local": _local}, "build.py")(config)
    return config


def _public(config: ConfigDict) -> None:
    """From the hub."""
    config.name = "public"
    config.sources = tuple({"adapter": name, "path": path} for name, path in PUBLIC)


def _local(config: ConfigDict) -> None:
    """What lies in --data_dir."""
    config.name = "local"
    config.sources = tuple({"adapter": name, "path": name} for name in LOCAL)
