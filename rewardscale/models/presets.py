"""Model presets by name.

The eight backbones of Skywork-Reward-V2 with their published dimensions; small transformers from one dial, their
depth or their width; convex models from their buckets.
"""

import dataclasses
import re

from rewardscale.config import ConfigError, ConvexConfig, ModelConfig, RopeScaling, VocabularyConfig

LAYERS, HEADS, KV_HEADS = 2, 4, 2


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A published decoder and what its files say besides the model's numbers.

    Attributes:
      model: its dimensions, with a fresh reward head.
      family: "llama" or "qwen3", `model_type` of Hugging Face's config.json.
      hub: where its weights are. context: longest sequence, tokens.
      tied: whether the language-model head is the embedding table (a reward model has neither).
      data: the preference data of the paper's reward model, "26m" or "40m" pairs.
    """

    model: ModelConfig
    family: str
    hub: str
    context: int
    tied: bool
    data: str = "26m"


def _llama(width: int, layers: int, heads: int, head_dim: int, mlp_width: int, factor: float) -> ModelConfig:
    return ModelConfig(
        vocab_size=128_256,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=head_dim,
        mlp_width=mlp_width,
        rope_theta=500_000.0,
        norm_epsilon=1e-5,
        embedding_sd=0.02,
        head_sd=head_sd(width),
        rope_scaling=RopeScaling(factor=factor),
    )


def _qwen3(width: int, layers: int, heads: int, mlp_width: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=151_936,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        mlp_width=mlp_width,
        rope_theta=1_000_000.0,
        qk_norm=True,
        embedding_sd=0.02,
        head_sd=head_sd(width),
    )


def head_sd(width: int) -> float:
    """Standard deviation of a fresh reward head: 1 / (width + 1), so that the loss starts at ln 2.

    The final norm leaves hidden states of length sqrt(width), so rewards start about 1 / sqrt(width) apart.
    """
    return 1 / (width + 1)


def _llama31_8b(data: str) -> Backbone:
    model = _llama(4096, 32, 32, 128, 14_336, 8.0)
    return Backbone(model, "llama", "meta-llama/Llama-3.1-8B-Instruct", 131_072, False, data)


# config.json of each hub repository; the family is that of arXiv 2507.01352, table 1.
BACKBONES = {
    "qwen3-0.6b": Backbone(_qwen3(1024, 28, 16, 3072), "qwen3", "Qwen/Qwen3-0.6B", 40_960, True),
    "qwen3-1.7b": Backbone(_qwen3(2048, 28, 16, 6144), "qwen3", "Qwen/Qwen3-1.7B", 40_960, True),
    "qwen3-4b": Backbone(_qwen3(2560, 36, 32, 9728), "qwen3", "Qwen/Qwen3-4B", 40_960, True),
    "qwen3-8b": Backbone(_qwen3(4096, 36, 32, 12_288), "qwen3", "Qwen/Qwen3-8B", 40_960, False),
    "llama3.2-1b": Backbone(
        _llama(2048, 16, 32, 64, 8192, 32.0), "llama", "meta-llama/Llama-3.2-1B-Instruct", 131_072, True
    ),
    "llama3.2-3b": Backbone(
        _llama(3072, 28, 24, 128, 8192, 32.0), "llama", "meta-llama/Llama-3.2-3B-Instruct", 131_072, True
    ),
    "llama3.1-8b": _llama31_8b("26m"),
    "llama3.1-8b-40m": _llama31_8b("40m"),
}


def get_model(
    name: str, *, vocab_size: int, convex: ConvexConfig | None = None, draw: int = 0
) -> ModelConfig | ConvexConfig:
    """The model that `name` stands for.

    "qwen3-0.6b" ... "llama3.1-8b-40m": the names of BACKBONES, with their own vocabulary. "d6": a decoder of depth 6
    (`by_depth`). "w16": one of width 16 (2 layers, 4 query and 2 key/value heads of width / 4, SwiGLU of 8/3 width
    rounded up to 8). "w64x4": the same with 4 layers. "hash4096": a convex model with 4,096 buckets, the rest as in
    `convex`, its hash salted by `draw` so that the luck of collisions averages out over draws. "vocab64": a convex
    model that knows the 64 commonest words of the corpus.

    Raises ConfigError on another name.
    """
    if name in BACKBONES:
        return BACKBONES[name].model
    deep = re.fullmatch(r"d(\d+)", name)
    if deep:
        return by_depth(int(deep[1]), vocab_size=vocab_size)
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
        f"unknown model {name!r}; use e.g. 'w16' or 'd6' (a transformer of width 16, of depth 6), 'hash4096' or "
        f"'vocab64' (convex), or one of {', '.join(BACKBONES)}"
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


def by_depth(depth: int, *, vocab_size: int) -> ModelConfig:
    """A decoder by its depth alone, shaped like Qwen3: width 64 x depth, heads of 64, SwiGLU of 8/3 width.

    About 45,000 x depth^3 parameters besides the embedding: d1 has 54 thousand, d18 263 million.
    Raises ConfigError below 1.
    """
    if depth < 1:
        raise ConfigError(f"model d{depth}: the depth must be at least 1")
    width = 64 * depth
    return ModelConfig(
        vocab_size=vocab_size,
        width=width,
        layers=depth,
        heads=depth,
        kv_heads=depth // 2 if depth % 2 == 0 else depth,
        head_dim=64,
        mlp_width=-(-8 * width // 192) * 64,
        rope_theta=10_000.0,
        qk_norm=True,
        embedding_sd=0.02,
        head_sd=head_sd(width),
    )
