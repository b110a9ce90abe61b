"""Shared by the tests of the data floor: small corpora of random words."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.corpus import write_corpus
from rewardscale.data.templates import word_tokenizer
from rewardscale.data.tokenised import TokenisedView, build_view

REPO = Path(__file__).parents[2]
WORDS = [f"w{i}" for i in range(50)]


def random_comparisons(
    n: int, seed: int = 0, *, longest: tuple[int, int] = (8, 12), responses: Sequence[int] = (2,)
) -> list[Comparison]:
    """`n` comparisons of random words; prompts and responses have up to `longest` of them."""
    random = np.random.default_rng(seed)

    def text(most: int) -> str:
        return " ".join(random.choice(WORDS, random.integers(1, most + 1)))

    return [
        Comparison(
            (Message("user", text(longest[0])),),
            tuple(text(longest[1]) for _ in range(random.choice(responses))),
            source="random",
            split=("train", "test")[i % 5 == 0],
            category=f"c{i % 3}",
        )
        for i in range(n)
    ]


@pytest.fixture(scope="session")
def comparisons() -> Callable[..., list[Comparison]]:
    return random_comparisons


@pytest.fixture(scope="session")
def view(tmp_path_factory) -> TokenisedView:
    """A view of 240 comparisons of 2 responses, trees of 5 to 35 tokens."""
    corpus = write_corpus(tmp_path_factory.mktemp("view") / "corpus", random_comparisons(240), about={})
    return build_view(corpus, word_tokenizer(WORDS), "words")
