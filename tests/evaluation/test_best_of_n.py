"""Best-of-n curves against brute force over subsets, by simulation, and on bounds; Goodhart curves."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data.comparison import DataError
from rewardscale.evaluation import best_of_n
from rewardscale.scaling import theory_best_of_n as theory

NAN = float("nan")


def brute(rewards: np.ndarray, quality: np.ndarray, n: int) -> float:
    """Mean over prompts of the mean over all subsets of n; tied best ones share."""
    means = []
    for reward, worth in zip(rewards, quality, strict=True):
        there = np.flatnonzero(np.isfinite(worth))
        subsets = [list(chosen) for chosen in combinations(there, n)]
        means.append(np.mean([worth[c][reward[c] == reward[c].max()].mean() for c in subsets]))
    return float(np.mean(means))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9_999), st.integers(1, 4), st.integers(1, 6), st.randoms(use_true_random=False))
def test_curves_are_means_over_all_subsets(seed, prompts, samples, shuffle) -> None:
    random = np.random.default_rng(seed)
    rewards = random.integers(0, 4, (prompts, samples)).astype(float)  # with ties
    quality = random.normal(size=(prompts, samples))
    absent = random.random((prompts, samples)) < 0.2
    absent[:, 0] = False
    rewards[absent] = quality[absent] = np.nan
    found = best_of_n.curve(rewards, quality, resamples=10)
    assert found.n.tolist() == list(range(1, (~absent).sum(axis=1).min() + 1))
    for n, chosen, oracle in zip(found.n, found.chosen, found.oracle, strict=True):
        assert chosen == pytest.approx(brute(rewards, quality, int(n)), abs=1e-9)
        assert oracle == pytest.approx(brute(quality, quality, int(n)), abs=1e-9)
    assert (found.chosen <= found.oracle + 1e-9).all() and (np.diff(found.oracle) >= -1e-9).all()
    assert found.random == pytest.approx(np.nanmean(quality, axis=1).mean()) == found.chosen[0]
    order = np.array(shuffle.sample(range(samples), samples))
    turned = best_of_n.curve(np.exp(rewards[:, order]), quality[:, order], resamples=10)
    np.testing.assert_allclose(turned.chosen, found.chosen, atol=1e-9)


def test_by_hand() -> None:
    """Rewards rank right, wrong, right; of two: both rights' pairs are won, as is (right, wrong): 1; of 3: 1."""
    found = best_of_n.curve(np.array([[3.0, 2.0, 1.0]]), np.array([[1.0, 0.0, 1.0]]))
    assert found.chosen == pytest.approx([2 / 3, 2 / 3, 1]) and found.oracle == pytest.approx([2 / 3, 1, 1])
    assert found.kl == pytest.approx([0, np.log(2) - 0.5, np.log(3) - 2 / 3])
    assert found.captured[1:] == pytest.approx([0, 1]) and np.isnan(found.captured[0])
    assert np.isnan(found.low).all()  # one prompt: no interval
    tied = best_of_n.curve(np.zeros((1, 3)), np.array([[1.0, 0.0, 1.0]]))
    assert tied.chosen == pytest.approx([2 / 3] * 3)


def test_prompts_left_out_are_counted() -> None:
    rewards = np.array([[1.0, 2, 3, 4], [1, 2, NAN, NAN], [1, NAN, 3, 4], [NAN] * 4, [4, 3, 2, 1]])
    quality = np.array([[0.0, 0, 1, 1], [1, 0, NAN, NAN], [1, 1, 1, 1], [NAN] * 4, [0, 0, 1, 1]])
    found = best_of_n.curve(rewards, quality, most=3)
    assert (found.prompts, found.too_few, found.unscored) == (2, 2, 1)
    assert len(best_of_n.curve(rewards, quality).n) == 2
    with pytest.raises(DataError, match="none of 5 prompts has 9 responses"):
        best_of_n.curve(rewards, quality, most=9)
    with pytest.raises(ValueError, match="of one shape"):
        best_of_n.curve(rewards, quality[:, :3])


def test_curves_follow_the_closed_form_and_their_bands_cover_it() -> None:
    """SIMULATED: gold and proxy jointly Gaussian with correlation .6, in clusters that share an offset of gold."""
    random, inside, captured = np.random.default_rng(0), [], []
    truth = theory.gaussian_best_of_n_gold(np.arange(1, 17), 0.6)
    for _ in range(60):
        gold = random.normal(size=(120, 16))
        proxy = 0.6 * gold + 0.8 * random.normal(size=gold.shape)
        clusters = np.repeat(np.arange(40), 3)
        gold += 0.5 * random.normal(size=40)[clusters][:, None]
        found = best_of_n.curve(proxy, gold, clusters, resamples=300)
        inside.append((found.low <= truth) & (truth <= found.high))
        captured.append(found.captured[-1])
    assert 0.9 < np.mean(inside) < 0.99
    assert np.mean(captured) == pytest.approx(0.6, abs=0.02) and found.clusters == 40


def test_gaos_form_is_recovered() -> None:
    d = np.sqrt(np.log(np.arange(1, 65)) - np.arange(64) / np.arange(1, 65))
    alpha, beta = best_of_n.fit_gao(d, np.stack([d * (2.0 - 0.7 * d), d * (0.1 + 0.3 * d)]))
    np.testing.assert_allclose([alpha, beta], [[2.0, 0.1], [0.7, -0.3]], atol=1e-9)


def test_goodhart_with_and_without_a_heavy_tail() -> None:
    """SIMULATED: where the proxy's error has the heavier tail, gold falls again; where all is Gaussian, it does not."""
    random = np.random.default_rng(1)
    gold = random.normal(size=(150, 256))
    fine = best_of_n.goodhart(gold + random.normal(size=gold.shape), gold, resamples=100)
    heavy = best_of_n.goodhart(gold + random.standard_t(2.0, size=gold.shape), gold, resamples=100)
    assert (np.diff(fine.gold) > 0).all() and fine.peak > fine.distance[-1]
    assert heavy.gold.max() > heavy.gold[-1] + 0.3 and heavy.gold_high[-1] < heavy.gold.max()
    assert heavy.beta.low is not None and heavy.beta.low > 0 and 0 < heavy.peak < heavy.distance[-1]
    for one in (fine, heavy):
        assert one.gold[0] == one.proxy[0] == 0 and (np.diff(one.proxy) > 0).all()
        assert (one.gold_low[1:] < one.gold[1:]).all() and (one.gold[1:] < one.gold_high[1:]).all()
        assert one.gold_sd == pytest.approx(1, abs=0.02) and one.prompts == 150
    scaled = best_of_n.goodhart(gold, 5 * gold, resamples=20)
    np.testing.assert_allclose(scaled.gold, scaled.proxy)
    with pytest.raises(DataError, match="gold reward is the same"):
        best_of_n.goodhart(gold, np.ones_like(gold))
    with pytest.raises(DataError, match="two parameters"):
        best_of_n.goodhart(gold, gold, most=2)
