"""A planted convex world: rewards linear in word counts, with every number of its scaling law known.

A response is a bag of words. A word is one of `forms` forms of one of `stems` stems: form r of stem s ("f07_s03")
occurs with probability p_r, once, independently of all other words; full stops add length and nothing else.

    gold(y) = sum_s theta_s n_s(y),    n_s = number of words of stem s in y

theta_s sum to zero and are scaled so that gold(first) - gold(second) has standard deviation `margin_sd`. The p_r are
such that the words past the first r forms of each stem carry the share

    unseen(r) = unseen * r^-alpha,     r = 1 .. ranked_forms

of that variance (exactly: the shares telescope); the forms after `ranked_forms` carry what is left in equal parts.
So a student that knows the N = stems * r commonest words and fits one weight a stem (and one for length) falls
short of the best possible log-loss by a power law A N^-alpha, as long as the share unseen is small, and its error of
estimation, (stems + 1) / 2D nats for Bradley-Terry labels, is the same for all N: E + A N^-alpha + B D^-1 is the law
of this world. (With a weight a word B would grow with N, and that form would be wrong.)
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer

from rewardscale.config import LinearConfig
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.templates import word_tokenizer

FILLER = "."
_THETA, _PAIRS, _POPULATION = 1, 2, 3  # streams of one seed


@dataclasses.dataclass(frozen=True)
class LinearPairs:
    """Pairs as numbers, before they become text.

    Attributes:
      topic: int64 [n]. words: bool [2 n, stems, forms], all first responses, then all second ones.
      filler: int64 [n, 2], full stops. margin: float64 [n], gold(first) - gold(second) in nats.
    """

    topic: np.ndarray
    words: np.ndarray
    filler: np.ndarray
    margin: np.ndarray

    @property
    def length(self) -> np.ndarray:
        """Tokens of each response, int64 [n, 2]."""
        content = self.words.sum((1, 2)).reshape(2, -1).T
        return content + self.filler


def unseen(world: LinearConfig, forms: int) -> float:
    """Share of the margin's variance that the words past the first `forms` forms of each stem carry."""
    if forms < 1:
        return 1.0
    if forms <= world.ranked_forms:
        return world.unseen * forms**-world.alpha
    left = (world.forms - forms) / max(1, world.forms - world.ranked_forms)
    return world.unseen * world.ranked_forms**-world.alpha * left


def frequencies(world: LinearConfig) -> np.ndarray:
    """Probability p_r of each form, float64 [forms], decreasing from 1/2.

    The variance p (1 - p) of form r is proportional to its share unseen(r - 1) - unseen(r).
    """
    shares = -np.diff([unseen(world, r) for r in range(world.forms + 1)])
    variance = 0.25 * shares / shares[0]
    return (1 - np.sqrt(1 - 4 * variance)) / 2


def weights(world: LinearConfig) -> np.ndarray:
    """Reward theta of a word by its stem, float64 [stems], nats: even steps, in random order, summing to zero."""
    order = np.random.default_rng([world.seed, _THETA]).permutation(world.stems)
    # an irrational bend, so that sums of whole counts do not tie
    theta = np.linspace(-1, 1, world.stems)[order] + 0.1 * np.sqrt(2.0 + np.arange(world.stems))
    theta -= theta.mean()
    p = frequencies(world)
    return theta * world.margin_sd / np.sqrt(2 * (theta**2).sum() * (p * (1 - p)).sum())


def sample_pairs(world: LinearConfig, n: int) -> LinearPairs:
    """Draws `n` pairs (seeded by `world.seed`).

    Each word occurs in exactly round(2 n p_r) of the 2 n responses, so that the corpus's order of word frequency
    is the order of forms.
    """
    random = np.random.default_rng([world.seed, _PAIRS])
    words = np.zeros((2 * n, world.stems, world.forms), bool)
    for form, p in enumerate(frequencies(world)):
        for stem in range(world.stems):
            words[random.choice(2 * n, round(2 * n * p), replace=False), stem, form] = True
    counts = words.sum(2)
    return LinearPairs(
        topic=random.integers(world.topics, size=n),
        words=words,
        filler=random.integers(world.longest_filler + 1, size=(n, 2)),
        margin=(counts[:n] - counts[n:]) @ weights(world),
    )


def word(form: int, stem: int) -> str:
    """The text of a word; words sort by form, and what follows the underscore is the stem."""
    return f"f{form:02d}_s{stem:02d}"


def vocabulary(world: LinearConfig) -> list[str]:
    """All words of the world: topics, filler, content words by form."""
    content = [word(f, s) for f in range(world.forms) for s in range(world.stems)]
    return ["topic", *(f"t{i}" for i in range(world.topics)), FILLER, *content]


def tokenizer(world: LinearConfig) -> Tokenizer:
    """The world's closed-vocabulary tokenizer; use it with the template "words"."""
    return word_tokenizer(vocabulary(world))


def comparisons(pairs: LinearPairs, splits: list[str]) -> Iterator[Comparison]:
    """The pairs as text; `splits` names each pair's split."""
    n, (_, stems, forms) = len(pairs.margin), pairs.words.shape
    texts = np.array([[word(f, s) for f in range(forms)] for s in range(stems)])
    for i, split in enumerate(splits):
        responses = tuple(
            " ".join([*texts[pairs.words[i + side * n]], *[FILLER] * int(pairs.filler[i, side])])
            for side in (0, 1)
        )
        topic = f"t{pairs.topic[i]}"
        yield Comparison(
            (Message("user", f"topic {topic}"),), responses, "planted_linear", split=split, category=topic
        )


@dataclasses.dataclass(frozen=True)
class Population:
    """A large independent sample of what students see.

    Attributes:
      seen: float64 [n, stems], by number of forms known: first minus second response's counts of known words.
      length: float64 [n], difference of log(1 + tokens). margin: float64 [n].
    """

    seen: dict[int, np.ndarray]
    length: np.ndarray
    margin: np.ndarray

    def features(self, forms: int) -> np.ndarray:
        """float64 [n, stems + 1]: differences of a student's features."""
        return np.column_stack([self.seen[forms], self.length])


def student_forms(world: LinearConfig) -> list[int]:
    """Forms a stem that students of the truth table know: powers of two up to `ranked_forms`, and all."""
    return [*(2**k for k in range(world.ranked_forms.bit_length())), world.forms]


@functools.lru_cache(maxsize=2)
def population(world: LinearConfig, n: int = 100_000) -> Population:
    """Draws `n` pairs that are in no corpus, for expectations."""
    random = np.random.default_rng([world.seed, _POPULATION])
    counts = np.zeros((2, n, world.stems))
    seen = {}
    for form, p in enumerate(frequencies(world), start=1):
        counts += random.random(counts.shape, np.float32) < p
        if form in student_forms(world):
            seen[form] = counts[0] - counts[1]
    filler = random.integers(world.longest_filler + 1, size=(2, n))
    length = np.log1p(counts.sum(2) + filler)
    return Population(seen, length[0] - length[1], seen[world.forms] @ weights(world))


def corpus_population(world: LinearConfig, pairs: LinearPairs, rows: np.ndarray) -> Population:
    """Rows of a corpus in the same terms."""
    n = len(pairs.margin)
    seen = {}
    for forms in student_forms(world):
        counts = pairs.words[:, :, :forms].sum(2).astype(np.float64)
        seen[forms] = counts[rows] - counts[rows + n]
    length = np.log1p(pairs.length[rows])
    return Population(seen, length[:, 0] - length[:, 1], pairs.margin[rows])
