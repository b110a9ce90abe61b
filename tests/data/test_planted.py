"""The planted world: what the gold reward is made of, and labels that suffer exactly what the config says."""

import dataclasses

import numpy as np
import pytest

from rewardscale.config import PlantedConfig, WorldConfig
from rewardscale.data import planted
from rewardscale.data.corpus import write_corpus
from rewardscale.data.tokenised import build_view

N = 20_000
# A world small enough for regressions on all pairs of words.
SMALL = WorldConfig(words=8, topics=3, classes=3, shortest=6, longest=9)


@pytest.fixture(scope="module")
def pairs():
    return planted.sample_pairs(WorldConfig(), N, stream=17)


def test_the_margin_has_its_standard_deviation_on_a_fresh_sample(pairs):
    assert pairs.margin.std() == pytest.approx(WorldConfig().margin_sd, rel=0.04)
    assert abs(pairs.margin.mean()) < 4 * pairs.margin.std() / np.sqrt(N)


def test_samples_are_reproducible_and_streams_independent():
    one, same, other = (planted.sample_pairs(SMALL, 500, stream=s) for s in (1, 1, 2))
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(same, field.name))
    assert abs(np.corrcoef(one.margin, other.margin)[0, 1]) < 4 / np.sqrt(500)
    elsewhere = planted.sample_pairs(dataclasses.replace(SMALL, seed=1), 500, stream=1)
    assert not np.array_equal(one.words, elsewhere.words)


def only(**shares) -> WorldConfig:
    none = {"unigram": 0.0, "topical": 0.0, "bigram": 0.0, "order": 0.0}
    return dataclasses.replace(SMALL, **(none | shares))


def features(world: WorldConfig, pairs: planted.PlantedPairs) -> dict[str, np.ndarray]:
    """Differences (first - second) of what each term of the gold reward is linear in, from the documented formula."""
    n, words = len(pairs.margin), world.words
    out = {
        "unigram": np.zeros((n, words)),
        "topical": np.zeros((n, world.topics, words)),
        "bigram": np.zeros((n, words, words)),
        "order": np.zeros((n, words)),
    }
    for i in range(n):
        for side, sign in ((0, 1), (1, -1)):
            length = pairs.length[i, side]
            y = pairs.words[i, side, :length]
            share = sign / np.sqrt(length)
            np.add.at(out["unigram"][i], y, share)
            np.add.at(out["topical"][i, pairs.topic[i]], y, share)
            np.add.at(out["bigram"][i], (y[:-1], y[1:]), share)
            direction = 1 if pairs.mode[i] % 2 == 0 else -1
            np.add.at(out["order"][i], y, share * direction * np.linspace(-1, 1, length))
    return {name: values.reshape(n, -1) for name, values in out.items()}


def explained(x: np.ndarray, y: np.ndarray) -> float:
    """R^2 of the best linear predictor of y."""
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float(1 - (rest**2).sum() / (y**2).sum())


@pytest.mark.parametrize("term", ["unigram", "topical", "bigram", "order"])
def test_each_term_of_the_gold_reward_is_what_it_says(term):
    world = only(**{term: 1.0})
    pairs = planted.sample_pairs(world, 1500, stream=3)
    x = features(world, pairs)
    assert explained(x[term], pairs.margin) > 1 - 1e-9
    assert pairs.margin.std() == pytest.approx(world.margin_sd, rel=0.1)
    if term in ("topical", "order"):  # what a bag of words must not see
        assert explained(x["unigram"], pairs.margin) < 0.3
    if term == "bigram":  # pairs of words: a bag of the first or of the second words explains a part at most
        table = x["bigram"].reshape(-1, world.words, world.words)
        for one in (table.sum(1), table.sum(2)):
            assert explained(one, pairs.margin) < 0.95
    if term == "order":
        assert explained(np.hstack([x["topical"], x["bigram"]]), pairs.margin) < 0.3


def test_the_terms_have_their_shares():
    world = dataclasses.replace(SMALL, unigram=0.5, topical=1.0, bigram=0.4, order=0.3)
    pairs = planted.sample_pairs(world, 4000, stream=3)
    x = np.hstack(list(features(world, pairs).values()))
    assert explained(x, pairs.margin) > 1 - 1e-9
    # The order term is the only one that is odd in the mode, so the regression's order part is identified.
    order = features(world, pairs)["order"]
    weights = np.linalg.lstsq(x, pairs.margin, rcond=None)[0][-order.shape[1] :]
    whole = planted.sample_pairs(dataclasses.replace(world, order=0.0), 4000, stream=3).margin.std()
    assert whole == pytest.approx(world.margin_sd, rel=0.1)  # with or without it
    share = (order @ weights).std() / pairs.margin.std()
    assert share == pytest.approx(0.3 / np.sqrt(0.5**2 + 1 + 0.4**2 + 0.3**2), rel=0.2)


def test_the_topical_part_is_centred_over_topics():
    """Otherwise it would hold a part that all topics share, which is a unigram term."""
    world = only(topical=1.0)
    pairs = planted.sample_pairs(world, 3000, stream=5)
    x = features(world, pairs)["topical"]
    liked = np.linalg.lstsq(x, pairs.margin, rcond=None)[0].reshape(world.topics, world.words)
    np.testing.assert_allclose(liked.sum(0), 0, atol=1e-6 * np.abs(liked).max())


def test_lengths_and_words_stay_in_their_ranges(pairs):
    world = WorldConfig()
    assert set(np.unique(pairs.length)) == set(range(world.shortest, world.longest + 1))
    assert pairs.words.min() == 0 and pairs.words.max() == world.words - 1
    assert set(pairs.topic) == set(range(world.topics)) and set(pairs.mode) == set(range(world.modes))


def test_responses_of_one_word_are_possible():
    pairs = planted.sample_pairs(dataclasses.replace(SMALL, shortest=1, longest=2), 200, stream=0)
    assert np.isfinite(pairs.margin).all() and (pairs.length == 1).any()


def rate(hits: np.ndarray, wanted: float) -> None:
    """Asserts a frequency to four standard errors."""
    error = np.sqrt(max(wanted * (1 - wanted), 1e-9) / len(hits))
    assert abs(hits.mean() - wanted) < 4 * error, (hits.mean(), wanted, error)


@pytest.mark.parametrize("flips", [0.0, 0.3, 0.5])
def test_flips_flip_at_their_rate_whatever_the_pair(pairs, flips):
    labels = planted.label(pairs, PlantedConfig(rate=flips))
    np.testing.assert_array_equal(labels.gold, np.where(pairs.margin > 0, 1, -1))
    easy = np.abs(pairs.margin) > np.median(np.abs(pairs.margin))
    for part in (easy, ~easy, labels.gold > 0):
        rate(labels.raw[part] != labels.gold[part], flips)
    np.testing.assert_allclose(labels.p_raw, np.where(labels.gold > 0, 1 - flips, flips))
    h = 0.0 if flips == 0 else -flips * np.log(flips) - (1 - flips) * np.log(1 - flips)
    assert planted.entropy(labels.p_raw) == pytest.approx(h)
    assert planted.entropy(labels.p_gold) == 0


def test_no_corruption_leaves_gold(pairs):
    labels = planted.label(pairs, PlantedConfig(corruption="none", label_rule="bradley_terry"))
    np.testing.assert_array_equal(labels.raw, labels.gold)
    np.testing.assert_array_equal(labels.p_raw, labels.p_gold)


def test_length_bias_prefers_the_longer_response(pairs):
    labels = planted.label(pairs, PlantedConfig(corruption="length_bias", rate=0.4))
    longer = np.sign(pairs.length[:, 0] - pairs.length[:, 1])
    tie, wrong = longer == 0, (longer != 0) & (longer != labels.gold)
    assert tie.any()
    np.testing.assert_array_equal(labels.raw[tie], labels.gold[tie])
    rate(labels.raw[wrong] == longer[wrong], 0.4)
    agrees = (longer != 0) & (longer == labels.gold)
    np.testing.assert_array_equal(labels.raw[agrees], labels.gold[agrees])
    rate(labels.raw[~tie] == longer[~tie], agrees[~tie].mean() + 0.4 * wrong[~tie].mean())


@pytest.mark.parametrize("corruption", ["none", "flips", "length_bias"])
def test_bradley_terry_labels_have_the_probabilities_they_state(pairs, corruption):
    labels = planted.label(pairs, PlantedConfig(label_rule="bradley_terry", corruption=corruption, rate=0.2))
    np.testing.assert_allclose(labels.p_gold, 1 / (1 + np.exp(-pairs.margin)))
    for label, p in ((labels.gold, labels.p_gold), (labels.raw, labels.p_raw)):
        for part in np.array_split(np.argsort(p), 12):  # a reliability diagram
            rate(label[part] > 0, p[part].mean())
    h = -labels.p_gold * np.log(labels.p_gold) - (1 - labels.p_gold) * np.log1p(-labels.p_gold)
    assert planted.entropy(labels.p_gold) == pytest.approx(h.mean())
    # The best possible log-loss, achieved: score the labels by the probabilities that made them.
    achieved = -np.log(np.where(labels.raw > 0, labels.p_raw, 1 - labels.p_raw))
    assert achieved.mean() == pytest.approx(
        planted.entropy(labels.p_raw), abs=4 * achieved.std() / np.sqrt(N)
    )


@pytest.mark.parametrize("rule", ["deterministic", "bradley_terry"])
def test_the_curator_is_as_good_on_hard_pairs_as_on_easy_ones_and_independent_of_raw(pairs, rule):
    labels = planted.label(pairs, PlantedConfig(label_rule=rule, rate=0.3, curator_accuracy=0.9))
    right = labels.curator == labels.gold
    hard = np.abs(pairs.margin) < np.quantile(np.abs(pairs.margin), 0.3)
    flipped = labels.raw != labels.gold
    for part in (hard, ~hard, flipped, ~flipped, labels.gold > 0, labels.gold < 0):
        rate(right[part], 0.9)


def test_labels_follow_the_configs_seed(pairs):
    one, same, other = (planted.label(pairs, PlantedConfig(seed=s)).raw for s in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_entropy_of_certain_and_of_even_labels():
    assert planted.entropy(np.array([0.0, 1.0])) == 0
    assert planted.entropy(np.array([0.5, 0.5])) == pytest.approx(np.log(2))
    assert planted.entropy(np.array([0.25, 1.0])) == pytest.approx(
        (-0.25 * np.log(0.25) - 0.75 * np.log(0.75)) / 2
    )


def test_the_text_says_what_the_numbers_say(tmp_path):
    pairs = planted.sample_pairs(SMALL, 30, stream=2)
    splits = ["train"] * 20 + ["test"] * 10
    made = planted.comparisons(pairs, splits)
    assert [c.split for c in made] == splits
    for i, comparison in enumerate(made):
        assert [m.content for m in comparison.prompt] == [f"t{pairs.topic[i]} m{pairs.mode[i]}"]
        for side, response in enumerate(comparison.responses):
            wanted = pairs.words[i, side, : pairs.length[i, side]]
            assert response.split() == [f"w{w}" for w in wanted]
    tokenizer = planted.tokenizer(SMALL)
    view = build_view(write_corpus(tmp_path / "corpus", made, about={}), tokenizer, "words")
    np.testing.assert_array_equal(view.lengths[:, 1:], pairs.length + 1)
    assert (view.lengths[:, 0] == 2).all() and view.vocab_size == len(planted.vocabulary(SMALL)) + 3


def test_two_candidates_are_a_pair_of_the_world():
    pairs, two = (
        planted.sample_pairs(SMALL, 300, stream=5),
        planted.sample_candidates(SMALL, 300, 2, stream=5),
    )
    for field in ("topic", "mode", "words", "length"):
        np.testing.assert_array_equal(getattr(pairs, field), getattr(two, field))
    np.testing.assert_allclose(two.gold[:, 0] - two.gold[:, 1], pairs.margin, rtol=1e-9)


def test_longer_candidates_are_punished_word_by_word():
    free = planted.sample_candidates(SMALL, 40, 32, stream=5, longest=14)
    made = planted.sample_candidates(SMALL, 40, 32, stream=5, longest=14, penalty=0.7)
    np.testing.assert_array_equal(free.words, made.words)
    assert made.length.min() == SMALL.shortest and made.length.max() == 14
    np.testing.assert_allclose(free.gold - made.gold, 0.7 * np.maximum(made.length - SMALL.longest, 0))
    (prompt, responses), *_ = planted.texts(made)
    assert prompt[0].content == f"t{made.topic[0]} m{made.mode[0]}"
    assert [len(r.split()) for r in responses] == made.length[0].tolist()
