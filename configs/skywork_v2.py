"""The reward models of Skywork-Reward-V2 (arXiv 2507.01352): eight backbones, the final and the development recipe.

python -m rewardscale.train --config=skywork_v2.py:qwen3-8b --dry_run        # pairs, tokens, FLOPs, hours: arithmetic
python -m rewardscale.train --config=skywork_v2.py:llama3.1-8b-dev --dry_run
python -m rewardscale.plan --config=skywork_v2.py:qwen3-8b                   # its step through the TPU compiler
python -m rewardscale.train --config=skywork_v2.py:qwen3-8b --config.revision=<commit> --config.data=pairs.parquet

Variants: a name of models/presets.py alone is the final recipe, with "-dev" the development one (section 5, appendix):

    final    learning rate 3e-6, constant; 10,240 pairs a step; 26M pairs (llama3.1-8b-40m: 40M, 14M of them flipped)
    -dev     1e-6 for 8B, 4e-6 below, linear decay after a warm-up; 256 pairs a step; the early mixture of 16M

Both: one epoch, at most 16,384 tokens, plain Bradley-Terry. AdamW's constants, no weight decay, a warm-up of 3 % and
bfloat16 parameters under a float32 master copy are ours, the paper names none. Its pairs were never released: data is
yours. A pair's mean length is assumed from the seed's (Skywork-Reward-Preference-80K-v0.2: 415,622,390 bytes for
77,016 pairs with each prompt twice, at 4.3 bytes a token: 1,255 tokens; how much of it is prompt is a guess).

Slices are ours too. A final step is 347 rows of 32,768 tokens, enough for 64 chips (the paper had 64 H800). A
development step is nine, so 16 chips share four rows at a time, layers split four ways (tensor). A row must hold the
longest pair, a prompt and two responses, hence 32,768.

What the first and the third command printed: FLOPs and chip hours are arithmetic at an assumed 40 % of peak; GiB a chip
(of 95.73) is what libtpu 0.0.50.1 planned at O0 for one row a chip with room for 64 trees. Nothing was run.

                      final (v5p:4x4x4)                 -dev (v5p:2x2x4)
                     FLOPs  hours    mesh   GiB        FLOPs  hours   mesh   GiB
    qwen3-0.6b     8.3e+19    139   8,8,1   5.4      5.1e+19    107  1,4,4   3.3
    qwen3-1.7b     2.5e+20    420  4,16,1   8.7      1.5e+20    323  1,4,4   6.9
    qwen3-4b       6.5e+20  1,083  4,16,1  16.3      4.0e+20    833  1,4,4  12.7
    qwen3-8b       1.2e+21  2,044  2,32,1  19.5      7.5e+20  1,572  1,4,4  21.3
    llama3.2-1b    1.7e+20    289  4,16,1   6.2      1.1e+20    222  1,4,4   4.8
    llama3.2-3b    5.0e+20    835  4,16,1  13.7      3.1e+20    642  1,4,4  11.0
    llama3.1-8b    1.2e+21  2,051  2,32,1  18.4      7.5e+20  1,577  1,4,4  20.3
      -40m         1.9e+21  3,155  2,32,1  18.4
"""

from ml_collections import ConfigDict

from rewardscale.config import ConfigError, TrainConfig
from rewardscale.models.presets import BACKBONES
from rewardscale.sweeps.configfile import choose_variant, defaults

PAIRS = {"26m": 26_000_000, "40m": 40_000_000}
EARLY = 16_000_000  # of the paper's ablations
SLICE, DEV_SLICE = "v5p:4x4x4", "v5p:2x2x4"
EIGHT_BILLION = ("qwen3-8b", "llama3.1-8b")


def get_config(variant: str = "") -> ConfigDict:
    if not variant:
        raise ConfigError(
            f"skywork_v2.py needs a variant, e.g. skywork_v2.py:qwen3-8b (there: {', '.join(VARIANTS)})"
        )
    config = defaults(TrainConfig)
    name, set_recipe = choose_variant(variant, VARIANTS, "skywork_v2.py")
    backbone = BACKBONES[name]
    config.name = f"skywork-v2-{variant}"
    config.model = backbone.hub
    config.recipe.epochs = 1.0
    config.recipe.max_length = 16_384
    config.recipe.weight_decay = 0.0
    config.recipe.warmup = 0.03
    config.recipe.b2 = 0.999
    config.recipe.dtype = "bfloat16"
    config.recipe.parameters = "bfloat16"
    config.runtime.steps_per_dispatch = 1
    config.runtime.remat = "full"
    config.runtime.row_length = 2 * config.recipe.max_length
    set_recipe(config, name)
    return config


def _final(config: ConfigDict, name: str) -> None:
    """As released. The state is split over as many chips as leave each 128 of the width, the lanes of a TPU."""
    config.recipe.pairs_per_step = 10_240
    config.recipe.learning_rate = 3e-6
    config.recipe.schedule = "constant"
    config.assumed.pairs = PAIRS[BACKBONES[name].data]
    config.assumed.topology = SLICE
    split = 1 << (BACKBONES[name].model.width // 128).bit_length() - 1
    config.runtime.mesh = (-1, split, 1)
    config.runtime.rows_per_microbatch = 64


def _development(config: ConfigDict, name: str) -> None:
    """As the paper's ablations."""
    config.recipe.pairs_per_step = 256
    config.recipe.learning_rate = 1e-6 if name in EIGHT_BILLION else 4e-6
    config.recipe.schedule = "linear"
    config.assumed.pairs = EARLY
    config.assumed.topology = DEV_SLICE
    config.runtime.mesh = (1, -1, 4)
    config.runtime.rows_per_microbatch = 4


VARIANTS = {name: (name, _final) for name in BACKBONES}
VARIANTS |= {f"{name}-dev": (name, _development) for name, one in BACKBONES.items() if one.data == "26m"}
