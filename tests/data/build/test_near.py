"""Near duplicates: planted ones are found, others are not; thresholds, chains, and bytes that nothing else changes."""

import collections
import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.config import ConfigError
from rewardscale.data import shingles
from rewardscale.data.build import exact, minhash, near
from rewardscale.data.build.parts import kept
from rewardscale.data.comparison import DataError
from rewardscale.data.overlap import ngrams
from rewardscale.stages import StageError
from tests.data.build import parts_small
from tests.data.build.parts_small import pair

# Six new words in 110 leave a similarity of 0.53: each is in five shingles.
LOW = 0.35
VOCABULARY = [f"word{i}" for i in range(5000)]


def text(random, words: int) -> list[str]:
    return random.choice(VOCABULARY, words).tolist()


def changed(random, words: list[str], share: float) -> list[str]:
    """A copy with that share of the words replaced."""
    out = list(words)
    for at in random.choice(len(out), max(1, round(share * len(out))), replace=False):
        out[at] = "other"
    return out


def planted(seed: int, *, documents: int = 60, share: float = 0.05):
    """(items, first copies): items of about 110 words; item documents + i is a near copy of item i, for i < 20."""
    random = np.random.default_rng(seed)
    made = [(text(random, 30), text(random, 40), text(random, 40)) for _ in range(documents)]
    made += [tuple(changed(random, words, share) for words in item) for item in made[:20]]
    return [pair(*map(" ".join, item)) for item in made]


def drops_of(dropped) -> pl.DataFrame:
    (file,) = dropped.files
    return pl.read_parquet(file)


def flat(parts, part, item) -> int:
    return sum(p.items for p in parts[:part]) + item


@pytest.fixture
def made(tmp_path):
    items = planted(0)
    return parts_small.write_parts(tmp_path / "normalise", [[items[:30], [], items[30:50]], [items[50:]]])


def test_planted_copies_are_found_and_nothing_else(made, tmp_path):
    dropped = near.run(tmp_path / "work", made, threshold=LOW)
    drops = drops_of(dropped)
    pairs = [
        (flat(made, r["of_part"], r["of_item"]), flat(made, r["part"], r["item"])) for r in drops.to_dicts()
    ]
    assert sorted(pairs) == [(i, 60 + i) for i in range(20)]
    assert drops["reason"].unique().to_list() == ["near_duplicate"]
    assert dropped.counts["items"] == 80 and dropped.counts["dropped"] == dropped.counts["clusters"] == 20
    assert dropped.counts["largest"] == 2 and not dropped.counts["unchecked"]
    clusters = pl.read_parquet(dropped.tables["clusters"])
    assert clusters["cluster"].to_list() == [i // 2 for i in range(40)]
    assert clusters.filter(pl.col("similarity") == 1)["part"].to_list() == [0] * 20  # the first of each
    assert clusters["similarity"].to_numpy().min() >= LOW


def jaccard(one: str, other: str, n: int = near.WORDS) -> float:
    a, b = set(ngrams(one, n)), set(ngrams(other, n))
    return len(a & b) / len(a | b)


def at_similarity(random, wanted: float, words: int = 400) -> tuple[str, str]:
    """Two texts of about that Jaccard similarity: the second has the first's beginning."""
    same = round(2 * words * wanted / (1 + wanted))
    first = text(random, words)
    return " ".join(first), " ".join(first[:same] + text(random, words - same))


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_the_threshold_is_kept_within_the_estimates_error(tmp_path, threshold):
    """0.1 is three standard errors of the estimate at 0.5; misses by the bands come on top, at most 1 % there."""
    random = np.random.default_rng(int(100 * threshold))
    wanted = [threshold - 0.13, threshold + 0.13]
    couples = [at_similarity(random, s) for s in wanted for _ in range(40)]
    for (one, other), s in zip(couples, np.repeat(wanted, 40), strict=True):
        assert abs(jaccard(one, other) - s) < 0.02
    items = [pair(one, "?", "!") for couple in couples for one in couple]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items]])
    found = set(drops_of(near.run(tmp_path / "work", parts, threshold=threshold, on="prompt"))["of_item"])
    below, above = set(range(0, 80, 2)), set(range(80, 160, 2))
    assert len(found & below) <= 1 and len(found & above) >= 38


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40))
def test_components_are_those_of_a_search(pairs):
    links = collections.defaultdict(set)
    for a, b in pairs:
        links[a].add(b)
        links[b].add(a)
    expected = {}
    for start in sorted(links):
        waiting = [start]
        while waiting:
            if (at := waiting.pop()) not in expected:
                expected[at] = start
                waiting += links[at]
    documents, root = near.components(np.array(pairs, np.uint32).reshape(-1, 2))
    assert dict(zip(documents.tolist(), root.tolist(), strict=True)) == expected


def test_a_long_chain_is_one_component():
    order = np.random.default_rng(0).permutation(20_000).astype(np.uint32)
    documents, root = near.components(np.stack([order[:-1], order[1:]], 1))
    assert len(documents) == 20_000 and not root.any()


def test_a_chain_of_copies_keeps_its_first(tmp_path):
    """Each has 12 % of new words at the end; the last shares little with the first."""
    random = np.random.default_rng(0)
    words, chain = text(random, 300), []
    for _ in range(8):
        chain.append(pair(" ".join(words), "yes", "no"))
        words = words[36:] + text(random, 36)
    parts = parts_small.write_parts(tmp_path / "normalise", [[chain]])
    drops = drops_of(near.run(tmp_path / "work", parts, threshold=0.6))
    assert drops["item"].to_list() == list(range(1, 8)) and set(drops["of_item"]) == {0}


def test_neither_buckets_nor_grouping_nor_the_order_of_naming_change_what_is_written(made, tmp_path):
    outputs = []
    for number, (buckets, at_once, parts) in enumerate([(1, 1000, made), (7, 1, made[::-1]), (3, 45, made)]):
        work = tmp_path / f"work-{number}"
        dropped = near.run(work, parts, threshold=LOW, buckets=buckets, items_at_once=at_once)
        outputs.append(
            (dropped.files[0].read_bytes(), dropped.tables["clusters"].read_bytes(), dropped.counts)
        )
    assert outputs[0] == outputs[1] == outputs[2] and outputs[0][2]["dropped"] == 20


def test_another_threshold_signs_nothing_again_and_what_is_gone_takes_no_part(made, tmp_path):
    near.run(tmp_path, made, threshold=LOW)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("near-signatures/*/task.json")}
    assert drops_of(near.run(tmp_path, made, threshold=0.95)).is_empty()
    gone = near.run(tmp_path, made, threshold=LOW)
    nothing_left = near.run(tmp_path, made, threshold=LOW, dropped=[gone])
    assert nothing_left.counts["items"] == 60 and drops_of(nothing_left).is_empty()
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("near-signatures/*/task.json")}


def test_after_exact_duplicates_each_item_is_dropped_once(tmp_path):
    items = planted(1)
    parts = parts_small.write_parts(tmp_path / "normalise", [[items + items[::-1]]])
    first = exact.run(tmp_path / "work", parts)
    second = near.run(tmp_path / "work", parts, threshold=LOW, dropped=[first])
    (mask,) = kept(parts, [*first.files, *second.files])
    assert np.flatnonzero(mask).tolist() == list(range(60))
    assert first.counts["dropped"] == 80 and second.counts["dropped"] == 20


def test_one_template_two_hundred_times_is_linked_by_a_leader(tmp_path, monkeypatch):
    monkeypatch.setattr(near, "ALL_PAIRS", 4)
    random = np.random.default_rng(0)
    template = text(random, 100)
    items = [pair(" ".join(template), f"yes {i}", f"no {i}") for i in range(200)]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items]])
    dropped = near.run(tmp_path / "work", parts, on="prompt")
    assert dropped.counts["dropped"] == 199 and dropped.counts["largest"] == 200
    assert dropped.counts["pairs"] <= 16 * 199  # a leader a band; all pairs would be 19,900


def test_which_texts_are_compared(tmp_path):
    random = np.random.default_rng(0)
    question, one, other = (" ".join(text(random, 60)) for _ in range(3))
    items = [pair(question, one, "no"), pair(question, other, "no way"), pair("another question", "no!", one)]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items]])
    found = {
        on: [tuple(row) for row in drops_of(near.run(tmp_path / on, parts, on=on)).rows()]
        for on in ("pair", "prompt", "responses")
    }
    assert found["pair"] == []
    assert found["prompt"] == [(0, 1, "near_duplicate", 0, 0)]
    assert found["responses"] == [(0, 2, "near_duplicate", 0, 0)]


def test_items_without_words_are_not_alike(tmp_path):
    parts = parts_small.write_parts(
        tmp_path / "normalise", [[[pair("?", "!", "."), pair("??", "!", ".")], []]]
    )
    dropped = near.run(tmp_path / "work", parts)
    assert dropped.counts["without_words"] == 2 and drops_of(dropped).is_empty()
    assert near.run(tmp_path / "none", []).counts["items"] == 0


def test_bad_input_is_one_clear_error(made, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'prompt'"):
        near.run(tmp_path / "a", made, on="prompts")
    with pytest.raises(ConfigError, match="threshold=80 must be"):
        near.run(tmp_path / "b", made, threshold=80)
    with pytest.raises(DataError, match="without a gap"):
        near.run(tmp_path / "c", made[1:])
    path = made[0].folder / "items-00000.array_record"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StageError, match=r"items-00000\.array_record (cannot be read|holds 0 items)"):
        near.run(tmp_path / "d", made)


def test_signatures_estimate_the_similarity_without_bias_and_with_the_variance_of_128_permutations():
    random = np.random.default_rng(0)
    for size, share in itertools.product((20, 200), (0.5, 0.8)):
        same = round(2 * size * share / (1 + share))
        true = same / (2 * size - same)
        hashes = random.integers(0, 2**64, (500, 2 * size - same), dtype=np.uint64)
        starts = np.arange(501) * size
        one, other = (
            minhash.signatures(shingles.Runs(h.ravel(), starts), 128)
            for h in (hashes[:, :size], hashes[:, size - same :])
        )
        found = minhash.similarity(one, other)
        expected = (true * (1 - true) / 128) ** 0.5
        assert abs(found.mean() - true) < 4 * expected / 500**0.5
        assert abs(found.std() / expected - 1) < 0.12  # four standard errors


def test_pairs_that_share_a_long_prompt_or_a_long_response_are_no_duplicates(tmp_path):
    random = np.random.default_rng(0)
    prompt, long = " ".join(text(random, 300)), " ".join(text(random, 300))
    short = [" ".join(text(random, 8)) for _ in range(4)]
    items = [
        pair(prompt, short[0], short[1]),
        pair(prompt, short[0], short[2]),  # another response to the long prompt
        pair("Which is it?", long, short[0]),
        pair("Which is it?", long, short[1]),  # a long response, beside another
        pair(" ".join(text(random, 30)), long, short[3]),  # to another prompt
        pair(prompt + " so", short[1], short[0]),  # a copy of the first, and its label the other way round
    ]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items]])
    drops = drops_of(near.run(tmp_path / "work", parts, threshold=0.7))
    assert drops.select("item", "of_item").rows() == [(5, 0)]
    by_prompt = drops_of(near.run(tmp_path / "other", parts, threshold=0.7, on="prompt"))
    assert by_prompt.select("item", "of_item").rows() == [(1, 0), (3, 2), (5, 0)]
