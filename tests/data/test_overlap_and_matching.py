"""Texts that share n-grams stay together; balanced pairs teach a linear cue nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data.matching import Candidates, balanced, cue_accuracy
from rewardscale.data.overlap import connected, ngrams, overlapping

words = st.lists(st.sampled_from("abcd"), max_size=9).map(" ".join)


def test_ngrams_ignore_case_and_punctuation():
    assert list(ngrams("One, TWO; three.", 2)) == [("one", "two"), ("two", "three")]
    assert list(ngrams("one two", 3)) == []


def test_overlapping_needs_the_whole_run():
    thirteen = " ".join(f"w{i}" for i in range(13))
    texts = [f"before {thirteen} after", thirteen.rpartition(" ")[0], thirteen.upper(), ""]
    assert overlapping(texts, [f"x {thirteen}"]).tolist() == [True, False, True, False]
    assert not overlapping(texts, []).any()


@settings(deadline=None, max_examples=40)
@given(st.lists(words, max_size=8), st.integers(1, 3))
def test_groups_are_the_components_of_sharing_an_ngram(texts, n):
    group = connected(texts, n)
    sets = [set(ngrams(text, n)) for text in texts]
    linked = np.array([[i == j or bool(a & b) for j, b in enumerate(sets)] for i, a in enumerate(sets)])
    reach = linked.reshape(len(texts), len(texts))
    for _ in texts:  # transitive closure
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    assert group.tolist() == [int(np.flatnonzero(row)[0]) for row in reach]


def offers(seed: int, questions: int = 400, shift: float = 0.5) -> list[Candidates]:
    """Questions of 3 right and 3 wrong responses; the right ones' features are higher by `shift`."""
    random = np.random.default_rng(seed)
    right, wrong = (side.ravel() for side in np.meshgrid(range(3), range(3, 6), indexing="ij"))
    out = []
    for _ in range(questions):
        values = random.normal(size=(6, 4))
        values[:3] += shift
        out.append(Candidates(right, wrong, values[right] - values[wrong]))
    return out


def differences(questions: list[Candidates], chosen: list[tuple[int, int]]) -> np.ndarray:
    return np.array([questions[q].difference[c] for q, c in chosen])


@pytest.mark.parametrize("seed", range(3))
def test_balanced_pairs_teach_a_cue_nothing(seed):
    questions = offers(seed)
    everything = np.concatenate([q.difference for q in questions])
    assert cue_accuracy(everything, everything) > 0.65  # the cue is there to learn
    chosen = differences(questions, balanced(questions, wanted=10_000, rounds=2, seed=(seed,)))
    assert len(chosen) > 400
    assert np.abs(chosen.mean(0)).max() < 0.02
    held_out = offers(seed + 100)
    other = differences(held_out, balanced(held_out, wanted=10_000, rounds=2, seed=(seed,)))
    assert abs(cue_accuracy(chosen, other) - 0.5) < 0.06  # 2.5 standard errors


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**20), st.integers(1, 4), st.integers(1, 60))
def test_no_response_twice_and_no_more_than_wanted(seed, rounds, wanted):
    questions = offers(seed, questions=25)
    chosen = balanced(questions, wanted=wanted, rounds=rounds, seed=(seed,))
    assert len(chosen) <= wanted and chosen == sorted(chosen)
    assert chosen == balanced(questions, wanted=wanted, rounds=rounds, seed=(seed,))
    sides = [(q, r) for q, c in chosen for r in (questions[q].right[c], questions[q].wrong[c])]
    assert len(set(sides)) == len(sides)
    assert max(np.bincount([q for q, _ in chosen])) <= rounds


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**20), st.integers(1, 4))
def test_each_response_in_as_many_pairs_as_allowed(seed, uses):
    questions = offers(seed, questions=25, shift=0.0)
    chosen = balanced(questions, wanted=10_000, rounds=9, uses=uses, seed=(seed,))
    assert len(set(chosen)) == len(chosen)  # no pair twice
    sides = [(q, r) for q, c in chosen for r in (questions[q].right[c], questions[q].wrong[c])]
    assert max(sides.count(side) for side in set(sides)) <= uses
    if uses > 1:
        assert len(chosen) > len(balanced(questions, wanted=10_000, rounds=9, seed=(seed,)))


def test_nothing_to_choose_from():
    assert balanced([], wanted=5, rounds=2, seed=(0,)) == []
