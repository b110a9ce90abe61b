"""Configuration: frozen dataclasses for everything a sweep and a run need, and the run id.

ConfigDicts live at the edge (files in `configs/`, flags); sweeps/configfile.py turns them into these
dataclasses and refuses unknown keys and wrong types by name. What changes the science is kept
apart from `Runtime`, which says how the hardware is used and never enters a run id.
"""

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

# Bumped when a fix changes the numbers that an unchanged config produces.
SCIENCE_VERSION = 1


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key and the mend."""


def _choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.0)
        raise ConfigError(f"{key}={value!r} must be one of {', '.join(allowed)}; did you mean {near[0]!r}?")


def _positive(path: str, config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{path}.{name}={getattr(config, name)!r} must be greater than 0")


# A field that joined later: while it has its default it does not enter run ids, so finished runs keep theirs.
ADDED = {"added": True}


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
        _positive("model.rope_scaling", self, "factor", "low", "original")
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
class Storage:
    """The types of what training keeps; norm scales, the head and adapters are float32 whatever they are.

    Attributes:
      parameters: what the forward pass reads. In bfloat16, trained ones have a float32 master copy, which is what
        the optimizer steps; frozen ones (under adapters) have none.
      moments: Adam's two running means. In bfloat16 they are rounded stochastically (training/optimizer.py).
      gradients: their sum over the microbatches of a step.
    """

    parameters: str = "float32"
    moments: str = "float32"
    gradients: str = "float32"


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


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a transformer reward model is trained. All of it enters the run id.

    Attributes:
      pairs_per_step: batch size, exact; smaller (a power of two, at least `min_pairs_per_step`)
        where the run would otherwise have fewer than `min_steps` steps.
      epochs: passes over the subset (may be fractional).
      learning_rate: peak, at `pairs_per_step` pairs a step; scaled by the square root of the batch.
      schedule: "constant", "linear", "cosine" or "wsd", after `warmup` (share of the steps);
        "wsd" decays to zero over the last `cooldown` share.
      weight_decay: decoupled, on matrices and embeddings. clip_norm: global gradient norm.
      center: weight of (r_chosen + r_rejected)^2, which keeps rewards around zero.
      max_length: longest prompt plus response, in tokens; `too_long`: "drop" the pair or
        "truncate_left_of_prompt" (the newest part of the prompt stays).
      dtype: compute type, "float32" or "bfloat16" (head and loss stay float32).
      parameters, moments, gradients: the types of `Storage`, "float32" or "bfloat16".
      lora_rank: 0 trains everything; otherwise adapters of this rank and the head, the rest stays as it was.
        lora_alpha, lora_targets: see `Lora`.
    """

    pairs_per_step: int = 32
    min_pairs_per_step: int = 8
    min_steps: int = 75
    epochs: float = 2.0
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup: float = 0.1
    cooldown: float = 0.2
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    clip_norm: float = 1.0
    center: float = 0.0
    max_length: int = 1024
    too_long: str = "drop"
    dtype: str = "float32"
    parameters: str = dataclasses.field(default="float32", metadata=ADDED)
    moments: str = dataclasses.field(default="float32", metadata=ADDED)
    gradients: str = dataclasses.field(default="float32", metadata=ADDED)
    lora_rank: int = dataclasses.field(default=0, metadata=ADDED)
    lora_alpha: float = dataclasses.field(default=16.0, metadata=ADDED)
    lora_targets: tuple[str, ...] = dataclasses.field(default=KERNELS, metadata=ADDED)

    def __post_init__(self) -> None:
        _choice("recipe.schedule", self.schedule, ("constant", "linear", "cosine", "wsd"))
        _choice("recipe.too_long", self.too_long, ("drop", "truncate_left_of_prompt"))
        for name in ("dtype", "parameters", "moments", "gradients"):
            _choice(f"recipe.{name}", getattr(self, name), ("float32", "bfloat16"))
        if self.lora_rank < 0 or not self.lora_alpha > 0:
            raise ConfigError(
                f"recipe: lora_rank={self.lora_rank} must be 0 (no adapters) or more and "
                f"lora_alpha={self.lora_alpha} greater than 0"
            )
        if not self.lora_targets or len(set(self.lora_targets)) < len(self.lora_targets):
            raise ConfigError(
                f"recipe.lora_targets={self.lora_targets} must name at least one of {', '.join(KERNELS)}, each once"
            )
        for name in self.lora_targets:
            _choice("recipe.lora_targets", name, KERNELS)
        _positive(
            "recipe", self, "pairs_per_step", "min_pairs_per_step", "epochs", "learning_rate", "max_length"
        )
        if not 0 <= self.warmup <= 1 or not 0 <= self.cooldown <= 1:
            raise ConfigError("recipe.warmup and recipe.cooldown are shares of the steps: 0 to 1")

    @property
    def storage(self) -> Storage:
        """The types of what training keeps."""
        return Storage(self.parameters, self.moments, self.gradients)

    def adapt(self, model: ModelConfig) -> ModelConfig:
        """The model as it is trained: with the adapters asked for, or as it is."""
        if not self.lora_rank:
            return model
        return dataclasses.replace(model, lora=Lora(self.lora_rank, self.lora_alpha, self.lora_targets))

    def batch_size(self, pairs: int) -> int:
        """Pairs a step for a subset of `pairs` pairs."""
        wanted = max(1.0, pairs * self.epochs / max(1, self.min_steps))
        power = 1 << (int(wanted).bit_length() - 1)
        return min(self.pairs_per_step, max(self.min_pairs_per_step, power))

    def positions(self, pairs: int) -> int:
        """Training positions (pairs times epochs, rounded)."""
        return max(1, round(pairs * self.epochs))

    def steps(self, pairs: int) -> int:
        """Optimizer steps; the last one may be smaller."""
        return -(-self.positions(pairs) // self.batch_size(pairs))


# Names of what a layer keeps for its backward pass (models/reward.py).
REMAT = ("none", "dots", "attention", "full")
# How attention is computed (models/attention.py).
ATTENTION = ("auto", "dense", "splash")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """How the hardware is used. Never enters a run id: it changes speed and float rounding only.

    Attributes:
      mesh: devices along ("data", "fsdp", "tensor"); -1 for one axis means "all that are left".
      row_length: tokens in a packed row (0: chosen from the data). rows_per_microbatch: rows a device step.
      steps_per_dispatch: optimizer steps in one call of the compiled function.
      data_workers: grain worker processes (0: threads of this process).
      scan_layers: lax.scan over layers (quick compiles) or an unrolled loop (faster on CPUs).
      remat: what the backward pass finds saved of each layer, the rest being recomputed: "none" is recomputed,
        "dots" saves the products with weights, "attention" what attention returns, "full" recomputes all.
      attention: "dense" holds all scores, "splash" is TPU kernels that hold none and skip what no token sees; "auto"
        is splash on TPUs, for rows of 512 tokens or more.
      checkpoint_seconds: at least this long between checkpoints; checkpoints_kept: newest ones kept.
      workers: processes that run cells side by side (0: one a core on CPU, one on accelerators).
    """

    mesh: tuple[int, int, int] = (-1, 1, 1)
    row_length: int = 0
    rows_per_microbatch: int = 8
    steps_per_dispatch: int = 32
    data_workers: int = 0
    scan_layers: bool = True
    remat: str = "none"
    attention: str = "auto"
    checkpoint_seconds: float = 30.0
    checkpoints_kept: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        if len(self.mesh) != 3 or any(n == 0 or n < -1 for n in self.mesh) or self.mesh.count(-1) > 1:
            raise ConfigError(
                f"runtime.mesh={self.mesh}: three sizes (data, fsdp, tensor), at most one of them -1"
            )
        _choice("runtime.remat", self.remat, REMAT)
        _choice("runtime.attention", self.attention, ATTENTION)
        _positive("runtime", self, "rows_per_microbatch", "steps_per_dispatch", "checkpoints_kept")


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """A planted world: seeded prompts and responses with a known gold reward (data/planted.py).

    A response is a sequence of content words; its gold reward sums four terms, whose shares of the
    margin's standard deviation are `unigram` (what is said), `topical` (to which prompt), `bigram`
    (how words combine) and `order` (in which order). `margin_sd` is the standard deviation of
    gold(first) - gold(second) in Bradley-Terry units (nats).
    """

    seed: int = 0
    words: int = 80
    topics: int = 4
    modes: int = 2
    rank: int = 2
    classes: int = 4
    zipf: float = 0.5
    shortest: int = 14
    longest: int = 20
    unigram: float = 0.3
    topical: float = 1.0
    bigram: float = 0.3
    order: float = 0.25
    skill_sd: float = 0.4
    margin_sd: float = 4.0

    def __post_init__(self) -> None:
        path = "data.planted.world"
        _positive(path, self, "modes", "rank", "classes", "shortest", "margin_sd")
        if self.words < 2 or self.topics < 2 or self.longest < 2:
            raise ConfigError(f"{path}: words, topics and longest must be 2 or more")
        if self.longest < self.shortest:
            raise ConfigError(
                f"{path}: longest={self.longest} must not be less than shortest={self.shortest}"
            )


@dataclasses.dataclass(frozen=True)
class PlantedConfig:
    """A corpus drawn from a planted world, its labels and its simulated curator.

    Attributes:
      train, validation, test: comparisons in each split.
      label_rule: "deterministic" (sign of the gold margin) or "bradley_terry" (sampled from it).
      corruption: what raw labels suffer: "flips" (each wrong with probability `rate`), "length_bias"
        (with probability `rate` the longer response is preferred) or "none".
      curator_accuracy: how often the independent curator's verdict is the gold label, whatever the pair.
    """

    world: WorldConfig = WorldConfig()
    train: int = 64_000
    validation: int = 2_000
    test: int = 4_000
    seed: int = 0
    label_rule: str = "deterministic"
    corruption: str = "flips"
    rate: float = 0.3
    curator_accuracy: float = 0.9

    def __post_init__(self) -> None:
        _choice("data.planted.label_rule", self.label_rule, ("deterministic", "bradley_terry"))
        _choice("data.planted.corruption", self.corruption, ("flips", "length_bias", "none"))
        _positive("data.planted", self, "train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class LinearConfig:
    """A planted convex world (data/planted_linear.py), its labels and its weak simulated curator.

    Attributes:
      stems: what the gold reward is linear in, and what a student has weights for. forms: words a stem.
      unseen, alpha: the words past the first r forms carry the share unseen * r^-alpha of the margin's variance,
        for r up to `ranked_forms`; the later forms carry the rest in equal parts.
      margin_sd: standard deviation of gold(first) - gold(second), nats.
      longest_filler: most full stops that pad a response, any number being as likely. topics: prompts.
      flip_rate: how often a raw label is wrong. bias_rate: how often a biased label follows length.
      curator_accuracy: how often the weak curator's verdict is the gold label, whatever the pair.
      curator_cost, gold_cost: of a curator's verdict and of a gold label, where a raw label costs 1.
    """

    seed: int = 0
    stems: int = 16
    forms: int = 32
    ranked_forms: int = 16
    unseen: float = 0.3
    alpha: float = 1.0
    margin_sd: float = 2.0
    longest_filler: int = 16
    topics: int = 8
    train: int = 40_000
    validation: int = 4_000
    test: int = 8_000
    flip_rate: float = 0.2
    bias_rate: float = 0.3
    curator_accuracy: float = 0.7
    curator_cost: float = 1.0
    gold_cost: float = 3.0

    def __post_init__(self) -> None:
        path = "data.planted_linear"
        _positive(path, self, "alpha", "margin_sd", "train", "validation", "test", "longest_filler")
        if self.stems < 2 or self.topics < 2:
            raise ConfigError(f"{path}: stems and topics must be 2 or more")
        if not 1 <= self.ranked_forms < self.forms < 100 or not 0 < self.unseen <= 0.5:
            raise ConfigError(
                f"{path}: 1 <= ranked_forms={self.ranked_forms} < forms={self.forms} < 100 and "
                f"0 < unseen={self.unseen} <= 0.5 are needed"
            )
        last = self.ranked_forms
        least = last + math.ceil(1 / ((last / (last - 1)) ** self.alpha - 1) - 1e-9) if last > 1 else 2
        if self.forms < least:
            raise ConfigError(
                f"{path}.forms={self.forms} must be at least {least}, or the words after ranked_forms={last}, which "
                "share what is left, would be commoner than those before"
            )


@dataclasses.dataclass(frozen=True)
class VotesConfig:
    """Real people's votes on pairs (ukpconvarg1), split by debate.

    Attributes:
      bpe_vocab: size of the byte-level BPE vocabulary trained on the corpus's texts (transformers).
      folds: parts into which the debates are dealt; a fold's debates are the test set of its runs.
      validation_groups: of the other debates, how many fit the temperature and are not trained on.
    """

    bpe_vocab: int = 2048
    folds: int = 4
    validation_groups: int = 2
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """Right-wrong pairs of answers to one question (mmlu-pro-responses), split by question.

    Attributes:
      max_pairs: pairs of all splits together, at most; `validation` and `test`: their shares of the questions.
      pairs_per_question: at most. No answer is in two pairs.
      caliper: the longer answer of a pair has at most this many times the characters of the shorter.
      shortest, longest: answers of fewer characters or more words are left out.
      match_models: whether the models that answered are balanced too, besides length, style and letters.
      bpe_vocab: size of the byte-level BPE vocabulary trained on the corpus's texts (transformers).
    """

    max_pairs: int = 32_000
    pairs_per_question: int = 4
    caliper: float = 1.25
    shortest: int = 60
    longest: int = 200
    match_models: bool = False
    validation: float = 0.13
    test: float = 0.19
    bpe_vocab: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        path = "data.objective"
        _positive(path, self, "max_pairs", "pairs_per_question", "longest", "validation", "test")
        if not self.caliper > 1:
            raise ConfigError(f"{path}.caliper={self.caliper} is a ratio of lengths: greater than 1")
        if not self.validation + self.test < 1:
            raise ConfigError(
                f"{path}: validation={self.validation} and test={self.test} leave no training questions"
            )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where pairs come from: `source` is "planted", "planted_linear", "votes" or "objective"."""

    source: str = "planted"
    planted: PlantedConfig = PlantedConfig()
    planted_linear: LinearConfig = LinearConfig()
    votes: VotesConfig = VotesConfig()
    objective: ObjectiveConfig = ObjectiveConfig()

    def __post_init__(self) -> None:
        _choice("data.source", self.source, ("planted", "planted_linear", "votes", "objective"))


@dataclasses.dataclass(frozen=True)
class Grid:
    """Axes whose product is a set of cells.

    Attributes:
      models: names of presets ("w16": a transformer of width 16; "hash4096": convex, 4096 buckets; "vocab64":
        convex, the 64 commonest words).
      pairs: sizes of the subsets trained on. levels: curation levels.
      draws: number of draws (permutation, initialisation and order); `first_draw` the first one's number.
      folds: number of folds used (sources that are split by group), 1 otherwise.
      learning_rate_scales: factors on each model's learning rate (tuning and sensitivity).
    """

    models: tuple[str, ...] = ()
    pairs: tuple[int, ...] = ()
    levels: tuple[str, ...] = ()
    draws: int = 1
    first_draw: int = 0
    folds: int = 1
    learning_rate_scales: tuple[float, ...] = (1.0,)


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """A whole sweep.

    Attributes:
      name: names the default workdir, runs/<name>.
      sweep: the grid of cells; `also` a second grid of the same sweep (empty by default).
      recipe: how transformers are trained; `learning_rates` sets the peak rate a model name.
      convex: how convex models are fitted.
      seed: enters permutations, initialisations and orders of all runs.
    """

    name: str = "sweep"
    seed: int = 0
    data: DataConfig = DataConfig()
    sweep: Grid = Grid()
    also: Grid = Grid()
    recipe: Recipe = Recipe()
    learning_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    convex: ConvexConfig = ConvexConfig()
    runtime: Runtime = Runtime()


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One reward model trained on pairs from files (`python -m rewardscale.train`).

    Attributes:
      name: names the default workdir, runs/<name>.
      model: where training starts: a Hugging Face folder, a hub id with `revision` (its commit), or a preset's name
        with random weights ("d6", "qwen3-0.6b"). A reward model keeps its head, a language model gets a fresh one.
      tokenizer: a Hugging Face folder; by default the model's. pad_token: a special token of it, if it names none.
      data, validation: files of pairs, jsonl (also .gz) or parquet (data/sources/pairs.py).
      fresh_head: draw a new head although the model has one.
      export_dtype: of the weights written at the end, "float32" or "bfloat16".
      seed: of the order, the head and the adapters.
    """

    name: str = "train"
    model: str = ""
    revision: str = ""
    tokenizer: str = ""
    pad_token: str = ""
    data: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    fresh_head: bool = False
    export_dtype: str = "bfloat16"
    seed: int = 0
    recipe: Recipe = Recipe()
    runtime: Runtime = Runtime()

    def __post_init__(self) -> None:
        _choice("export_dtype", self.export_dtype, ("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training of one reward model: everything that changes its numbers, nothing else.

    Attributes:
      model_name, model: the preset and what it stands for.
      recipe: for transformers (None for convex models).
      level, pairs, draw, fold, seed: which subset, and the seed of initialisation and order.
      learning_rate_scale: the factor that `recipe.learning_rate` already contains (for tables).
      data: fingerprints of corpus, view, level and subset.
      evaluations: names of the evaluation sets, with fingerprints.
    """

    model_name: str
    model: ModelConfig | ConvexConfig
    recipe: Recipe | None
    level: str
    pairs: int
    draw: int
    fold: int
    seed: int
    learning_rate_scale: float
    data: Mapping[str, str]
    evaluations: Mapping[str, str]
    science_version: int = SCIENCE_VERSION

    @property
    def family(self) -> str:
        """ "transformer" or "convex"."""
        return "convex" if isinstance(self.model, ConvexConfig) else "transformer"

    @property
    def run_id(self) -> str:
        """Hash (20 hex digits) of this config: same id, same science."""
        return content_hash(_science(self))


def _science(value: Any) -> Any:
    """Dataclasses as dicts, without `added` fields at their defaults."""
    if not dataclasses.is_dataclass(value):
        return dict(value) if isinstance(value, Mapping) else value
    fields = [
        (f, getattr(value, f.name))
        for f in dataclasses.fields(value)
        if not f.metadata.get("added") or getattr(value, f.name) != f.default
    ]
    return {f.name: _science(own) for f, own in fields}


def content_hash(value: Any, *, digits: int = 20) -> str:
    """Hash of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()[:digits]


def to_mapping(config: Any) -> dict[str, Any]:
    """A dataclass as nested dicts (tuples stay tuples)."""
    return dataclasses.asdict(config)
