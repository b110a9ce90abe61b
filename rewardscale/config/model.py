"""Models: decoders with a reward head, and convex ones."""

import dataclasses
import math

from rewardscale.config.base import ADDED, ConfigError, positive


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of rotary frequencies to longer contexts (Llama 3 herd, arXiv 2407.21783, section 3.4.2).

    Attributes:
      factor: slow frequencies are divided by it.
      low, high: a wavelength longer than `original` / low is slow, one shorter than `original` / high is left alone,
        between them the two are blended.
      original: tokens of the context before stretching.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    def __post_init__(self) -> None:
        positive("model.rope_scaling", self, "factor", "low", "original")
        if not self.high > self.low:
            raise ConfigError(f"model.rope_scaling: high={self.high} must be greater than low={self.low}")


# The kernels of a decoder layer that adapters may be put beside.
KERNELS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters: x W + (x A) B * alpha / rank beside frozen kernels W (Hu et al. 2021, arXiv 2106.09685).

    Attributes:
      rank: columns of A, rows of B. alpha: see above. targets: the kernels that have one, of KERNELS.
    """

    rank: int
    alpha: float = 16.0
    targets: tuple[str, ...] = KERNELS

    @property
    def scale(self) -> float:
        """What (x A) B is multiplied by."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder with a reward head (Llama/Qwen shape; a preset only changes numbers).

    Attributes:
      vocab_size: token ids; the embedding table is padded to a multiple of 16 rows to shard.
      width: residual stream; layers, heads, kv_heads, head_dim: attention (grouped queries).
      mlp_width: hidden width of SwiGLU.
      rope_theta: base of the rotary frequencies. qk_norm: RMS-normalise queries and keys (Qwen3).
      rope_scaling: how frequencies are stretched, if they are (Llama 3.1 and 3.2).
      embedding_sd, head_sd: standard deviations at initialisation (head_sd 0: rewards start at 0).
      lora: adapters beside its kernels. No preset has any: `Recipe.adapt` adds them.
    """

    vocab_size: int = 0
    width: int = 16
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 4
    mlp_width: int = 48
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6
    qk_norm: bool = False
    embedding_sd: float = 1.0
    head_sd: float = 0.0
    rope_scaling: RopeScaling | None = dataclasses.field(default=None, metadata=ADDED)
    lora: Lora | None = dataclasses.field(default=None, metadata=ADDED)

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ConfigError(f"model: kv_heads={self.kv_heads} must divide heads={self.heads}")
        if self.head_dim % 2:
            raise ConfigError(f"model: head_dim={self.head_dim} must be even (rotary positions)")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table."""
        return -(-self.vocab_size // 16) * 16


@dataclasses.dataclass(frozen=True)
class ConvexConfig:
    """A reward linear in hashed n-grams, fitted to its optimum (models/convex.py).

    Attributes:
      width: number of hash buckets, a power of two: the model-size axis.
      ngram: n-grams of 1..ngram tokens are counted.
      length_feature: whether log(1 + number of tokens) is one more feature.
      l2_grid: values of l2 that cross-validation may choose from.
      folds: folds of the cross-validation, made of whole groups (training debates).
      seed: salt of the hash. Which n-grams collide is luck worth some thousandths of a nat, so a sweep sets it
        to the draw.
    """

    width: int = 2**14
    ngram: int = 2
    length_feature: bool = True
    l2_grid: tuple[float, ...] = tuple(10.0 ** (k / 2) for k in range(-10, 3))
    folds: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.width & (self.width - 1):
            raise ConfigError(f"convex.width={self.width} must be a power of two")
        if not self.l2_grid or not all(0 < l2 < math.inf for l2 in self.l2_grid):
            raise ConfigError(f"convex.l2_grid={self.l2_grid} must hold positive numbers")
        if self.ngram < 1 or self.folds < 2 or not 0 <= self.seed < 2**64:
            raise ConfigError(
                f"convex: ngram={self.ngram} must be at least 1, folds={self.folds} at least 2, "
                f"seed={self.seed} in [0, 2^64)"
            )

    @property
    def params(self) -> int:
        """Number of weights."""
        return self.width + self.length_feature


@dataclasses.dataclass(frozen=True)
class VocabularyConfig(ConvexConfig):
    """A reward linear in counts of stems, read through a vocabulary of limited size: a frozen backbone and a head.

    The backbone knows the `width` words that are commonest in the corpus (ties in order of name; punctuation is
    no word) and nothing of the others. Words that share what follows their last underscore are forms of one stem
    and add to one count ("f07_s03" and "f12_s03"; a word without underscore is its own stem). The head has a weight
    a stem, and one for length. So width is the model-size axis, while the number of weights estimated need not
    grow with it. ngram and seed do nothing.
    """

    @property
    def params(self) -> int:
        """Words known: rows of the frozen backbone. The head has at most as many weights."""
        return self.width
