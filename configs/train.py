"""One reward model trained on files of pairs, from a Hugging Face checkpoint to one.

python -m rewardscale.train --config=train.py --config.model=DIR --config.data=pairs.jsonl
python -m rewardscale.train --config=train.py:lora --config.model=DIR --config.data=pairs.jsonl    # adapters and head
python -m rewardscale.train --config=train.py:ablation --config.model=DIR --config.data=pairs.jsonl
python -m rewardscale.train --config=train.py --config.model=Qwen/Qwen3-0.6B --config.revision=<commit> ...

The default is the recipe of the final models of Skywork-Reward-V2 (arXiv 2507.01352, appendix): learning rate 3e-6,
constant, 10,240 pairs a step, one epoch, 16,384 tokens. "ablation" is that of its ablations: 256 pairs a step, linear
decay after a warm-up. The peak rate goes with the square root of the batch where a run is too short for whole ones.
"""

from ml_collections import ConfigDict

from rewardscale.config import TrainConfig
from rewardscale.sweeps.configfile import choose_variant, defaults


def get_config(variant: str = "") -> ConfigDict:
    config = defaults(TrainConfig)
    config.recipe.pairs_per_step = 10_240
    config.recipe.learning_rate = 3e-6
    config.recipe.schedule = "constant"
    config.recipe.warmup = 0.03
    config.recipe.epochs = 1.0
    config.recipe.weight_decay = 0.0
    config.recipe.b2 = 0.999
    config.recipe.max_length = 16_384
    config.recipe.dtype = "bfloat16"
    config.recipe.parameters = "bfloat16"
    config.runtime.steps_per_dispatch = 1
    config.runtime.remat = "full"
    config.runtime.rows_per_microbatch = 1
    config.runtime.mesh = (1, -1, 1)
    choose_variant(variant, {"": _final, "ablation": _ablation, "lora": _lora}, "train.py")(config)
    return config


def _final(config: ConfigDict) -> None:
    """As above."""


def _ablation(config: ConfigDict) -> None:
    """256 pairs a step, linear decay; 1e-6 for 8B, 4e-6 for the smaller ones."""
    config.recipe.pairs_per_step = 256
    config.recipe.learning_rate = 4e-6
    config.recipe.schedule = "linear"


def _lora(config: ConfigDict) -> None:
    """Adapters of rank 16 on every matrix, and the head."""
    config.recipe.pairs_per_step = 64
    config.recipe.learning_rate = 1e-4
    config.recipe.schedule = "cosine"
    config.recipe.lora_rank = 16
    config.recipe.lora_alpha = 32.0
