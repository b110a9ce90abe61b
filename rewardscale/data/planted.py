"""A planted world: prompts and responses from a seeded generator whose gold reward is known exactly.

A prompt is a topic and a mode; a response is a sequence of content words by a writer of some skill,
who leans towards the words that the topic likes. Gold reward of response y to prompt (topic, mode):

    unigram   sum_i U[y_i]                         what is said
    topical   sum_i T[topic] . E[y_i]              to which prompt
    bigram    sum_i B[class(y_i), class(y_i+1)]    how words combine
    order     +-1[mode] sum_i F[y_i] pos_i         in which order, pos_i from -1 to 1

each sum divided by sqrt(n) and scaled so that the four shares of gold(first) - gold(second) have the
standard deviations named in WorldConfig and the whole has `margin_sd`.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

from rewardscale.config import PlantedConfig, WorldConfig
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.templates import word_tokenizer

SPLITS = ("train", "validation", "test")
_CALIBRATION_PAIRS = 8_000
_CHUNK = 4096
_TABLES, _PAIRS, _LABELS = 1, 2, 3  # streams of one seed


@dataclasses.dataclass(frozen=True)
class PlantedPairs:
    """Pairs as numbers, before they become text.

    Attributes:
      topic, mode: int64 [n]. words: int64 [n, 2, longest]. length: int64 [n, 2].
      margin: float64 [n], gold(first) - gold(second) in Bradley-Terry units.
    """

    topic: np.ndarray
    mode: np.ndarray
    words: np.ndarray
    length: np.ndarray
    margin: np.ndarray


def sample_pairs(world: WorldConfig, n: int, *, stream: int) -> PlantedPairs:
    """Draws `n` pairs; each `stream` is an independent sample of the same world."""
    topic, mode, words, length, parts = _sample(world, n, stream)
    return PlantedPairs(topic, mode, words, length, (parts[:, 0] - parts[:, 1]) @ _scale(world))


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Many responses a prompt, as one policy writes them.

    Attributes:
      topic, mode: int64 [n]. words: int64 [n, samples, longest]. length: int64 [n, samples].
      gold: float64 [n, samples], gold reward in Bradley-Terry units, up to one constant.
    """

    topic: np.ndarray
    mode: np.ndarray
    words: np.ndarray
    length: np.ndarray
    gold: np.ndarray


def sample_candidates(
    world: WorldConfig, n: int, samples: int, *, stream: int, longest: int = 0, penalty: float = 0.0
) -> Candidates:
    """`samples` responses by the world's writers to each of `n` prompts.

    Args:
      longest: most words of a response, world.longest or more (0). penalty: what gold takes off for each word past
        world.longest: a rule that no pair of the world shows.
    """
    policy = dataclasses.replace(world, longest=longest or world.longest)
    topic, mode, words, length, parts = _sample(policy, n, stream, samples)
    gold = parts @ _scale(world) - penalty * np.maximum(length - world.longest, 0)
    return Candidates(topic, mode, words, length, gold)


def vocabulary(world: WorldConfig) -> list[str]:
    """All words of the world: topics, modes, content words."""
    return [
        *(f"t{i}" for i in range(world.topics)),
        *(f"m{i}" for i in range(world.modes)),
        *(f"w{i}" for i in range(world.words)),
    ]


def tokenizer(world: WorldConfig) -> Tokenizer:
    """The world's closed-vocabulary tokenizer; use it with the template "words"."""
    return word_tokenizer(vocabulary(world))


def comparisons(pairs: PlantedPairs, splits: Sequence[str]) -> list[Comparison]:
    """The pairs as text; `splits` names each pair's split."""
    out = []
    for (prompt, responses), topic, split in zip(texts(pairs), pairs.topic, splits, strict=True):
        out.append(Comparison(prompt, responses, source="planted", split=split, category=f"t{topic}"))
    return out


def texts(drawn: PlantedPairs | Candidates) -> Iterator[tuple[tuple[Message, ...], tuple[str, ...]]]:
    """Each prompt with its responses, as text."""
    known = np.array([f"w{i}" for i in range(int(drawn.words.max()) + 1)])
    for topic, mode, words, length in zip(drawn.topic, drawn.mode, drawn.words, drawn.length, strict=True):
        responses = (" ".join(known[of[:count]]) for of, count in zip(words, length, strict=True))
        yield (Message("user", f"t{topic} m{mode}"),), tuple(responses)


@dataclasses.dataclass(frozen=True)
class PlantedLabels:
    """Labels of planted pairs; +1 prefers the first response, -1 the second. int8 [n] each.

    Attributes:
      gold: the label rule applied to the gold margin. raw: gold after corruption.
      curator: an independent curator's verdict.
      p_gold, p_raw: float64 [n], probability that the gold (raw) label is +1, given the pair.
    """

    gold: np.ndarray
    raw: np.ndarray
    curator: np.ndarray
    p_gold: np.ndarray
    p_raw: np.ndarray


def label(pairs: PlantedPairs, config: PlantedConfig) -> PlantedLabels:
    """Labels, corrupts and curates the pairs as `config` says (seeded by `config.seed`)."""
    n = len(pairs.margin)
    random = np.random.default_rng([_LABELS, config.seed])
    u = random.random((3, n))
    if config.label_rule == "deterministic":
        p_gold = np.where(pairs.margin > 0, 1.0, 0.0)
    else:
        p_gold = 1 / (1 + np.exp(-pairs.margin))
    gold = np.where(u[0] < p_gold, 1, -1).astype(np.int8)
    hit = u[1] < config.rate
    if config.corruption == "flips":
        raw = np.where(hit, -gold, gold)
        p_raw = p_gold + config.rate * (1 - 2 * p_gold)
    elif config.corruption == "length_bias":
        longer = np.sign(pairs.length[:, 0] - pairs.length[:, 1])
        raw = np.where(hit & (longer != 0), longer, gold)
        p_raw = np.where(longer == 0, p_gold, (1 - config.rate) * p_gold + config.rate * (longer > 0))
    else:
        raw, p_raw = gold, p_gold
    curator = np.where(u[2] < config.curator_accuracy, gold, -gold)
    return PlantedLabels(gold, raw.astype(np.int8), curator.astype(np.int8), p_gold, p_raw)


def entropy(p: np.ndarray) -> float:
    """Mean entropy in nats of labels that are +1 with probability `p`: the Bayes log-loss."""
    inside = np.clip(p, 1e-300, 1.0)
    outside = np.clip(1 - p, 1e-300, 1.0)
    return 0.0 - float((p * np.log(inside) + (1 - p) * np.log(outside)).mean())


def _tables(world: WorldConfig) -> dict[str, np.ndarray]:
    random = np.random.default_rng([world.seed, _TABLES])
    unigram = random.normal(size=world.words)
    topic = random.normal(size=(world.topics, world.rank))
    # No part that all topics share: that would be a unigram term.
    topic = (topic - topic.mean(0)) / topic.std(0)
    return {
        "U": unigram,
        "T": topic,
        "E": random.normal(size=(world.words, world.rank)) / math.sqrt(world.rank),
        "class": random.integers(world.classes, size=world.words),
        "B": random.normal(size=(world.classes, world.classes)),
        "F": random.normal(size=world.words),
        "frequency": random.permutation((1.0 + np.arange(world.words)) ** -world.zipf),
    }


def _sample(world: WorldConfig, n: int, stream: int, responses: int = 2) -> tuple[np.ndarray, ...]:
    """Topic [n], mode [n], words [n, K, longest], length [n, K] and the four unscaled terms [n, K, 4]."""
    table = _tables(world)
    random = np.random.default_rng([world.seed, _PAIRS, stream])
    topic, mode = random.integers(world.topics, size=n), random.integers(world.modes, size=n)
    length = random.integers(world.shortest, world.longest + 1, size=(n, responses))
    skill = random.normal(size=(n, responses)) * world.skill_sd
    liked = table["U"] * world.unigram + world.topical * table["T"] @ table["E"].T  # [topics, words]
    liked /= liked.std() or 1.0  # in a world without these two terms, writers have nothing to lean to
    words = np.empty((n, responses, world.longest), np.int64)
    chunk = max(1, 2 * _CHUNK // responses)
    for a in range(0, n, chunk):
        b = min(n, a + chunk)
        weight = table["frequency"] * np.exp(skill[a:b, :, None] * liked[topic[a:b], None, :])
        cumulative = np.cumsum(weight, -1)
        u = random.random((b - a, responses, world.longest)) * cumulative[..., -1:]
        words[a:b] = (u[..., None] > cumulative[:, :, None, :-1]).sum(-1)
    place = np.arange(world.longest)
    inside = place < length[..., None]
    position = np.where(inside, 2 * place / np.maximum(length[..., None] - 1, 1) - 1, 0.0)
    sign = np.where(mode % 2 == 0, 1.0, -1.0)[:, None]
    topical = np.einsum("nr,npir->npi", table["T"][topic], table["E"][words])
    kind = table["class"][words]
    terms = [
        (table["U"][words] * inside).sum(-1),
        (topical * inside).sum(-1),
        (table["B"][kind[..., :-1], kind[..., 1:]] * inside[..., 1:]).sum(-1),
        sign * (table["F"][words] * position).sum(-1),
    ]
    return topic, mode, words, length, np.stack(terms, -1) / np.sqrt(length)[..., None]


def _scale(world: WorldConfig) -> np.ndarray:
    """Weights [4] of the terms, from a calibration sample of their own so that all splits agree."""
    parts = _sample(world, _CALIBRATION_PAIRS, 2**31)[-1]
    difference = parts[:, 0] - parts[:, 1]
    mix = np.array([world.unigram, world.topical, world.bigram, world.order]) / difference.std(0)
    return mix * world.margin_sd / (difference @ mix).std()
