"""The planted convex world: its shares, its texts, its labels, and its truth table against simulation."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from rewardscale.config import ConfigError, LinearConfig, VocabularyConfig
from rewardscale.curation import planted_linear as levels
from rewardscale.curation import planted_linear_truth as truth
from rewardscale.data import planted_linear as world
from rewardscale.models import convex
from rewardscale.models.presets import get_model

SMALL = LinearConfig(stems=4, forms=8, ranked_forms=4, train=300, validation=100, test=100)


@given(alpha=st.floats(0.5, 3), unseen=st.floats(0.05, 0.5), ranked=st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_unseen_share_is_a_power_of_the_forms_known(alpha, unseen, ranked) -> None:
    config = LinearConfig(alpha=alpha, unseen=unseen, ranked_forms=ranked, forms=ranked + 40)
    p = world.frequencies(config)
    variance = p * (1 - p)
    past = 1 - np.cumsum(variance) / variance.sum()
    forms = np.arange(1, ranked + 1)
    assert past[:ranked] == pytest.approx(unseen * forms**-alpha, abs=1e-9)
    assert past[-1] == pytest.approx(0, abs=1e-9)
    assert p[0] == pytest.approx(0.5) and (p > 0).all() and (np.diff(p) <= 1e-12).all()


def test_margins_have_the_spread_asked_for_and_ignore_length() -> None:
    config = LinearConfig(margin_sd=1.7)
    sample = world.population(config, 40_000)
    assert sample.margin.std() == pytest.approx(1.7, rel=0.02)
    assert abs(np.corrcoef(sample.margin, sample.length)[0, 1]) < 0.02  # 4 standard errors
    assert world.weights(config).sum() == pytest.approx(0, abs=1e-12)


def test_words_are_as_frequent_as_planned_and_the_seed_decides() -> None:
    pairs, again = world.sample_pairs(SMALL, 500), world.sample_pairs(SMALL, 500)
    counts = pairs.words.sum(0)
    assert (counts == np.round(1000 * world.frequencies(SMALL))).all()
    assert (pairs.words == again.words).all() and (pairs.filler == again.filler).all()
    other = world.sample_pairs(dataclasses.replace(SMALL, seed=1), 500)
    assert (pairs.words != other.words).any() and (pairs.margin != other.margin).any()


@pytest.mark.parametrize("forms", [1, 2, 4])
def test_a_vocabulary_model_reads_the_counts_of_its_forms(forms: int) -> None:
    pairs = world.sample_pairs(SMALL, 500)
    texts = [c.responses for c in world.comparisons(pairs, ["train"] * 500)]
    model = get_model(f"vocab{SMALL.stems * forms}", vocab_size=0)
    assert isinstance(model, VocabularyConfig)
    features = convex.featurize([*(a for a, _ in texts), *(b for _, b in texts)], model).toarray()
    counts = pairs.words[:, :, :forms].sum(2)
    assert sorted(map(tuple, features[:, :-1].T)) == sorted(map(tuple, counts.T.astype(float)))
    assert features[:, -1] == pytest.approx(np.log1p(pairs.length.T.ravel()))


def test_the_truth_reads_a_corpus_as_it_reads_fresh_pairs() -> None:
    pairs = world.sample_pairs(SMALL, 500)
    rows = np.array([3, 77, 400])
    seen = world.corpus_population(SMALL, pairs, rows)
    assert world.student_forms(SMALL) == [1, 2, 4, 8]
    assert seen.features(8)[:, :-1] @ world.weights(SMALL) == pytest.approx(pairs.margin[rows])
    assert seen.features(1)[:, :-1].tolist() == (
        (pairs.words[rows, :, 0].astype(float) - pairs.words[rows + 500, :, 0]).tolist()
    )


def test_impossible_worlds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unseen=0\.9"):
        LinearConfig(unseen=0.9)
    with pytest.raises(ConfigError, match="ranked_forms=32 < forms=32"):
        LinearConfig(ranked_forms=32)
    with pytest.raises(ConfigError, match="forms=20 must be at least 31"):
        LinearConfig(forms=20)


# --- labels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*levels.rules(SMALL)])
def test_labels_have_the_probabilities_of_their_rule(name: str) -> None:
    random = np.random.default_rng(0)
    margin, longer = random.normal(size=60_000), random.integers(-1, 2, 60_000)
    made = levels.level(SMALL, name, margin, longer, draw=0)
    rule = levels.rule_of(SMALL, name)
    p = levels.probability(rule, margin, longer)
    assert len(made.rows) / 60_000 == pytest.approx(rule.kept, abs=0.01)
    for side in (-1, 0, 1):
        for low, high in ((-9, -0.7), (-0.7, 0), (0, 0.7), (0.7, 9)):
            own = (longer == side) & (margin > low) & (margin < high)
            measured = (made.orientation[own[made.rows]] > 0).mean()
            assert measured == pytest.approx(p[own].mean(), abs=0.03)


def test_a_draw_is_paired_between_levels_and_draws_differ() -> None:
    random = np.random.default_rng(1)
    margin, longer = random.normal(size=5000), random.integers(-1, 2, 5000)

    def made(name: str, draw: int):
        return levels.level(SMALL, name, margin, longer, draw=draw)

    gold, raw, kept = (made(name, 0) for name in ("gold", "raw", "weakly_filtered"))
    verdict = made("weakly_corrected", 0).orientation
    assert gold.fingerprint == made("gold", 0).fingerprint != made("gold", 1).fingerprint
    assert (gold.orientation != made("gold", 1).orientation).mean() > 0.2
    assert (gold.orientation != raw.orientation).mean() == pytest.approx(SMALL.flip_rate, abs=0.02)
    assert kept.rows.tolist() == np.flatnonzero(raw.orientation == verdict).tolist()
    assert kept.cost is not None and raw.cost is not None
    assert kept.cost[0] == raw.cost[0] + SMALL.curator_cost


def test_flips_on_top_of_a_rule() -> None:
    assert levels.rule_of(SMALL, "raw+flip0.1").wrong == pytest.approx(0.2 * 0.9 + 0.8 * 0.1)


def test_entropy_is_the_loss_of_the_gold_reward() -> None:
    margin = np.random.default_rng(2).normal(size=1000) * 3
    p = special.expit(margin)
    assert levels.entropy(margin) == pytest.approx(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())


# --- the truth table ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> dict:
    config = LinearConfig()
    return truth.truth(config, world.population(dataclasses.replace(config, seed=1), 20_000), sample=20_000)


def test_flips_move_the_offset_and_bias_the_floor(table: dict) -> None:
    gold, raw, biased = (table["levels"][name] for name in ("gold", "raw", "biased"))
    for words, of in gold.items():
        assert raw[words]["loss"] == pytest.approx(of["loss"], abs=1e-4)
        assert biased[words]["loss"] > of["loss"] + 0.04
        assert biased[words]["rate"] is None
    assert gold["512"]["loss"] == pytest.approx(table["bayes_loss"], abs=1e-9)
    # references: sandwich DER of flips at 0.2 and margins with sd 2, Gaussian features: 3.95
    assert table["raw_per_gold"]["512"] == pytest.approx(3.95, rel=0.03)


def test_the_loss_falls_with_the_words_known_almost_as_the_share_unseen(table: dict) -> None:
    assert table["unseen"]["16"] == 0.3 and table["unseen"]["256"] == 0.3 / 16
    assert np.array(table["excess_alpha"]) == pytest.approx(np.ones(4), abs=0.08)
    rates = [of["rate"] for of in table["levels"]["gold"].values()]
    assert rates == pytest.approx([8.0] * len(rates), rel=0.01)  # 17 weights, one less for the temperature


@pytest.mark.parametrize(("name", "forms"), [("gold", 32), ("raw", 2)])
def test_rates_and_limits_against_simulation(name: str, forms: int) -> None:
    config, pairs, repeats = LinearConfig(), 2000, 50
    fresh = world.population(config, 20_000)
    expected = truth.limit(config, name, fresh, fresh, forms)
    rule = levels.rule_of(config, name)
    x, p = fresh.features(forms), levels.probability(rule, fresh.margin, np.sign(fresh.length))
    gold = special.expit(fresh.margin)
    random = np.random.default_rng(3)
    excess = []
    for _ in range(repeats):
        rows = random.choice(len(x), pairs, replace=False)
        w = truth.optimum(x[rows], (random.random(pairs) < p[rows]).astype(float))
        margin = x @ w
        temperature = truth.fit_temperature(margin, gold)
        excess.append(truth.log_loss(margin / temperature, gold) - expected.loss)
    assert expected.rate is not None
    se = np.std(excess) / np.sqrt(repeats)
    assert np.mean(excess) == pytest.approx(expected.rate / pairs, abs=4 * se)
    assert se < 0.12 * expected.rate / pairs
    assert expected.loss == pytest.approx(expected.test_loss)


def test_separable_labels_have_no_limit() -> None:
    x = np.random.default_rng(4).normal(size=(200, 3))
    with pytest.raises(ValueError, match="separates have none"):
        truth.optimum(x, (x[:, 0] > 0).astype(float))
