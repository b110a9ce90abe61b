"""Model presets by name. Small transformers come from one dial, their width; convex models from their buckets."""

import dataclasses
import re

from rewardscale.config import ConfigError, ConvexConfig, ModelConfig, VocabularyConfig

LAYERS, HEADS, KV_HEADS = 2, 4, 2


def get_model(
    name: str, *, vocab_size: int, convex: ConvexConfig | None = None, draw: int = 0
) -> ModelConfig | ConvexConfig:
    """The model that `name` stands for.

    "w16": a decoder of width 16 (2 layers, 4 query and 2 key/value heads of width / 4, SwiGLU of 8/3 width
    rounded up to 8). "w64x4": the same with 4 layers. "hash4096": a convex model with 4,096 buckets, the rest
    as in `convex`, its hash salted by `draw` so that the luck of collisions averages out over draws. "vocab64": a
    convex model that knows the 64 commonest words of the corpus.

    Raises ConfigError on another name.
    """
    transformer = re.fullmatch(r"w(\d+)(?:x(\d+))?", name)
    if transformer:
        return ladder(int(transformer[1]), layers=int(transformer[2] or LAYERS), vocab_size=vocab_size)
    convex = convex or ConvexConfig()
    hashed = re.fullmatch(r"hash(\d+)", name)
    if hashed:
        return dataclasses.replace(convex, width=int(hashed[1]), seed=draw)
    limited = re.fullmatch(r"vocab(\d+)", name)
    if limited:
        return VocabularyConfig(
            width=int(limited[1]),
            ngram=1,
            length_feature=convex.length_feature,
            l2_grid=convex.l2_grid,
            folds=convex.folds,
        )
    raise ConfigError(
        f"unknown model {name!r}; use e.g. 'w16' (a transformer of width 16), 'hash4096' or 'vocab64' (convex)"
    )


def is_convex(name: str) -> bool:
    """Whether a preset's name stands for a convex model."""
    return name.startswith(("hash", "vocab"))


def ladder(width: int, *, vocab_size: int, layers: int = LAYERS) -> ModelConfig:
    """A small decoder by its width. Raises ConfigError if the heads do not divide it into even parts."""
    if width % (2 * HEADS):
        raise ConfigError(f"model w{width}: the width must be a multiple of {2 * HEADS}")
    return ModelConfig(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=width // HEADS,
        mlp_width=-(-8 * width // 24) * 8,
        rope_theta=1000.0,
        embedding_sd=0.5,
    )
