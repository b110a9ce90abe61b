"""Hashes of words and runs of words agree with the words that a regular expression finds."""

import re
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rewardscale.data import shingles
from rewardscale.data.overlap import ngrams

WORD = re.compile(r"\w+")
FEW = st.lists(st.sampled_from("ab"), max_size=7).map(" ".join)
ANY = st.text(max_size=12) | st.text(st.sampled_from("aAbİiΣσςß_1٣é·\n\0 '😀中"), max_size=12) | FEW


def found(text: str) -> list[str]:
    return WORD.findall(text.lower())


def by_text(runs: shingles.Runs) -> list[list[int]]:
    return [runs.hashes[a:b].tolist() for a, b in zip(runs.starts, runs.starts[1:], strict=False)]


def assert_same_identity(keys: list, hashes: list[int]) -> None:
    """Equal where the keys are equal, and only there."""
    assert len(keys) == len(hashes)
    assert len(set(keys)) == len(set(hashes)) == len(set(zip(keys, hashes, strict=True)))


@settings(deadline=None, max_examples=150)
@given(st.lists(ANY, max_size=8))
@example(["ΟΔΟΣ", "ΟΔΟΣΑ", "οδος", "οδοσ", "İx", "ix"])
@example(["a\ud800b", "\ud800", "ab"])
def test_words_are_those_of_the_expression(texts):
    made = shingles.words(texts)
    words = [found(text) for text in texts]
    assert made.counts.tolist() == [len(w) for w in words]
    assert_same_identity([w for text in words for w in text], made.hashes.tolist())


@settings(deadline=None, max_examples=100)
@given(st.lists(ANY, max_size=6), st.integers(1, 13))
def test_runs_shingles_and_whole_texts_are_those_of_the_words(texts, n):
    words = shingles.words(texts)
    grams = [list(ngrams(text, n)) for text in texts]
    runs, sets = shingles.runs(words, n), shingles.shingles(words, n)
    assert runs.counts.tolist() == [len(g) for g in grams]
    expected = [g or [tuple(found(text))] * bool(found(text)) for g, text in zip(grams, texts, strict=True)]
    assert sets.counts.tolist() == [len(g) for g in expected]
    numbers, hashes = shingles.whole(words, 2, n)
    assert numbers.tolist() == [i for i, t in enumerate(texts) if 2 <= len(found(t)) <= n]
    keys = [
        gram
        for some in (grams, expected, [[tuple(found(texts[i])) for i in numbers]])
        for t in some
        for gram in t
    ]
    assert_same_identity(keys, np.concatenate([runs.hashes, sets.hashes, hashes]).tolist())


def test_a_text_has_the_hashes_that_it_has_alone():
    """Neither its neighbours nor the size of the blocks matter, nor whether a block is ASCII."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["to", "be", "or", "not", "é"], k)) for k in (0, 1, 40, 3)] * 3
    texts += ["x" * (2**17 + 5) + " y", "word " * 2**16, ""]
    together = by_text(shingles.words(texts))
    assert together == [by_text(shingles.words([text]))[0] for text in texts]
    assert len(together[12]) == 2 and len(set(together[13])) == 1 and len(together[13]) == 2**16


def test_every_character_is_judged_and_lowered_as_the_expression_does():
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    values = shingles._values()
    assert [len(c.lower()) for c in characters].count(2) == 1  # the one that is lowered with its text
    assert (values != 0).sum() == sum(map(len, WORD.findall("".join(characters))))
    capitals = [code for code, c in enumerate(characters) if len(c.lower()) == 1 and c.lower() != c]
    assert (values[capitals] == values[[ord(characters[code].lower()) for code in capitals]]).all()
    assert len(np.unique(values)) == len({c.lower() for c in characters if WORD.match(c) and c != "İ"}) + 1


def test_hashes_are_spread_and_stay_as_they_are():
    """What was stored must be found again; a change here needs another name for the stored files' tasks."""
    words = shingles.words([" ".join(map(str, range(100_000)))])
    assert len(np.unique(words.hashes)) == 100_000
    assert len(np.unique(words.hashes >> np.uint64(32))) > 99_990
    ones = np.unpackbits(words.hashes.view(np.uint8)).reshape(100_000, 64).mean(0)
    assert np.abs(ones - 0.5).max() < 0.01
    assert [f"{h:016x}" for h in shingles.runs(shingles.words(["the quick brown fox"]), 3).hashes] == PINNED


PINNED = ["8c84756f0b4ebbbe", "d03cf83f8b0d974b"]


@pytest.mark.parametrize("n", [1, 5, 13])
def test_nothing(n):
    for texts in ([], ["", "?!"]):
        words = shingles.words(texts)
        for runs in (words, shingles.runs(words, n), shingles.shingles(words, n)):
            assert runs.hashes.dtype == np.uint64 and not len(runs.hashes)
            assert runs.starts.tolist() == [0] * (len(texts) + 1)
        assert [len(a) for a in shingles.whole(words, 1, n)] == [0, 0]
