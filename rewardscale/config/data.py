"""Where pairs come from."""

import dataclasses
import math

from rewardscale.config.base import ConfigError, choice, positive

DATA_VARIABLE = "REWARDSCALE_DATA"  # of the environment: the folder of real data sets


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
        positive(path, self, "modes", "rank", "classes", "shortest", "margin_sd")
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
        choice("data.planted.label_rule", self.label_rule, ("deterministic", "bradley_terry"))
        choice("data.planted.corruption", self.corruption, ("flips", "length_bias", "none"))
        positive("data.planted", self, "train", "validation", "test")


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
        positive(path, self, "alpha", "margin_sd", "train", "validation", "test", "longest_filler")
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
      pairs_per_question, pairs_per_answer: at most. With more than one pair an answer, pairs of a question are not
        independent of each other; the question is the unit, and splits and intervals go by it.
      caliper: the longer answer of a pair has at most this many times the characters of the shorter.
      shortest, longest: answers of fewer characters or more words are left out.
      match_models: whether the models that answered are balanced too, besides length, style and letters.
      flip_rate: how often a label of the simulated source, the level "raw", is wrong, whatever the pair.
      judge_accuracy: how often the simulated judge's verdict is the key's, whatever the pair ("filtered", "corrected").
      bpe_vocab: size of the byte-level BPE vocabulary trained on the corpus's texts (transformers).
    """

    max_pairs: int = 32_000
    pairs_per_question: int = 4
    pairs_per_answer: int = 1
    caliper: float = 1.25
    shortest: int = 60
    longest: int = 200
    match_models: bool = False
    flip_rate: float = 0.3
    judge_accuracy: float = 0.9
    validation: float = 0.13
    test: float = 0.19
    bpe_vocab: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        path = "data.objective"
        positive(
            path, self, "max_pairs", "pairs_per_question", "pairs_per_answer", "longest", "validation", "test"
        )
        if not self.caliper > 1:
            raise ConfigError(f"{path}.caliper={self.caliper} is a ratio of lengths: greater than 1")
        if not 0 <= self.flip_rate < 0.5 or not 0.5 <= self.judge_accuracy <= 1:
            raise ConfigError(
                f"{path}: flip_rate={self.flip_rate} must lie in [0, 0.5) and judge_accuracy={self.judge_accuracy} "
                "in [0.5, 1]"
            )
        if not self.validation + self.test < 1:
            raise ConfigError(
                f"{path}: validation={self.validation} and test={self.test} leave no training questions"
            )


@dataclasses.dataclass(frozen=True)
class CuratedConfig:
    """A finished curation run: its levels by name, snapshots ("filtered@iter3") among them.

    Attributes:
      workdir: its folder.
      bpe_vocab: size of the byte-level BPE vocabulary trained on the corpus's texts (transformers).
    """

    workdir: str = ""
    bpe_vocab: int = 2048
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where pairs come from: `source` is "planted", "planted_linear", "votes", "objective" or "curated"."""

    source: str = "planted"
    planted: PlantedConfig = PlantedConfig()
    planted_linear: LinearConfig = LinearConfig()
    votes: VotesConfig = VotesConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    curated: CuratedConfig = CuratedConfig()

    def __post_init__(self) -> None:
        choice("data.source", self.source, ("planted", "planted_linear", "votes", "objective", "curated"))
