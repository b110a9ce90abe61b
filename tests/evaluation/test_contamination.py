"""Overlap with a corpus: planted runs, the slow way, and a real corpus on disk."""

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.corpus import open_corpus, write_corpus
from rewardscale.data.overlap import ngrams, word_list
from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem
from rewardscale.evaluation.contamination import Example, contamination, corpus_prompts


def words(start: int, count: int) -> str:
    return " ".join(f"w{i}" for i in range(start, start + count))


def benchmark(name: str, *items: tuple[str, list[str]], system: str = "") -> Benchmark:
    first = (Message("system", system),) if system else ()
    made = tuple(
        BenchmarkItem(f"{name}-{i}", (*first, Message("user", prompt)), tuple(responses))
        for i, (prompt, responses) in enumerate(items)
    )
    return Benchmark(name, name, made, 0, lambda rewards, weights: {}, "x", np.zeros((0, 3), np.int64))


def test_planted_runs() -> None:
    one = benchmark(
        "one",
        (words(0, 20), ["no", "nothing"]),
        (words(100, 12), ["fine"]),  # twelve words: as a whole only
        (words(200, 30), [words(300, 15), "bad"]),
        ("too short", ["?"]),
        system=words(900, 20),
    )
    other = benchmark("other", (words(400, 20), ["."]))
    corpus = [
        (3, f"{words(100, 12)} and more"),  # within a longer text twelve words say nothing
        (4, f"Before: {words(302, 13).upper()}!"),
        (7, words(5, 12)),
        (8, words(900, 20)),  # the benchmark's system prompt
        (9, words(3, 15)),
    ]
    found, clean = contamination([one, other], corpus)
    assert found.prompt.tolist() == [True, False, False, False]
    assert found.response.tolist() == [False, False, True, False]
    assert found.examples == (
        Example("one-0", "prompt", words(3, 13), 9),
        Example("one-2", "response", words(302, 13), 4),
    )
    assert found.short == 1 and found.clean.tolist() == [False, True, False, True]
    assert not clean.prompt.any() and clean.clean.all() and clean.examples == ()
    record = found.record()
    assert (record["prompt_items"], record["prompt_share"], record["clean_items"]) == (1, 0.25, 2)
    json.dumps(record)
    (whole,) = contamination([one], [(0, words(100, 12).replace(" ", ", "))])
    assert whole.prompt.tolist() == [False, True, False, False]


TEXT = st.lists(st.sampled_from(["a", "B", "b", "é", "x1"]), min_size=0, max_size=18).map(" ".join)


def share(text: str, other: str) -> bool:
    """The slow, obvious way."""
    if not set(ngrams(text, 13)).isdisjoint(ngrams(other, 13)):
        return True
    return word_list(text) == word_list(other) and 8 <= len(word_list(other)) < 13


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=2)), min_size=1, max_size=4), st.data())
def test_it_finds_what_the_slow_way_finds(items, data) -> None:
    texts = data.draw(st.lists(TEXT, max_size=4))
    for prompt, responses in items[:2]:  # plant
        for source in (prompt, responses[0]):
            whole = word_list(source)
            at = data.draw(st.integers(0, max(len(whole) - 12, 0)))
            texts.append(f"y {' '.join(whole[at : at + data.draw(st.integers(11, 14))])}")
    corpus = list(enumerate([*texts, *texts[::-1]]))
    made = benchmark("made", *items)
    (found,) = contamination([made], corpus, characters=data.draw(st.sampled_from([1, 40, 10**6])))
    assert found.prompt.tolist() == [any(share(t, prompt) for t in texts) for prompt, _ in items]
    assert found.response.tolist() == [any(share(t, r) for t in texts for r in rs) for _, rs in items]
    for example in found.examples:
        assert example.words in " ".join(word_list(corpus[example.row][1]))


def test_a_corpus_on_disk(tmp_path) -> None:
    def pair(prompt: str, *answers: str) -> Comparison:
        messages = (Message("system", words(900, 20)), Message("user", prompt))
        return Comparison(prompt=messages, responses=answers, source="made")

    prompts = [words(40 * i, 25) for i in range(30)]
    comparisons = [
        pair(prompt, f"yes {i} {j}", f"no {i} {j}") for i, prompt in enumerate(prompts) for j in (0, 1)
    ]
    write_corpus(tmp_path / "corpus", comparisons, about={})
    corpus = open_corpus(tmp_path / "corpus")
    assert [row for row, _ in corpus_prompts(corpus)] == list(range(0, 60, 2))
    made = benchmark("made", *[(f"please {prompts[i]}", ["-"]) for i in (4, 9)], (words(5000, 30), ["-"]))
    (found,) = contamination([made], corpus_prompts(corpus))
    assert found.prompt.tolist() == [True, True, False] and not found.response.any()
    assert [example.row for example in found.examples] == [8, 18]
