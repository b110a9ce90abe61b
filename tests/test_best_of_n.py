"""Best-of-n: exact identities and brute force over subsets."""

from itertools import combinations
from math import comb

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.integrate import quad

from rewardscale import best_of_n


def test_kl_numbers() -> None:
    assert [f"{v:.3f}" for v in best_of_n.kl([1, 1_000, 60_000])] == ["0.000", "5.909", "10.002"]


@pytest.mark.parametrize("n", [2, 4, 64])
def test_kl_is_that_of_the_highest_rank(n: int) -> None:
    """Without ties the best-of-n response has rank density n u^(n-1), u uniform under the initial policy."""
    density = quad(lambda u: n * u ** (n - 1) * np.log(n * u ** (n - 1)), 0, 1, epsabs=1e-12)[0]
    assert best_of_n.kl(n) == pytest.approx(density, abs=1e-9)


def test_kl_is_only_a_bound_with_ties() -> None:
    """A proxy of two values: best-of-n is the better half unless all n miss it."""
    n = 16
    better = 1 - 0.5**n
    true = better * np.log(2 * better) + (1 - better) * np.log(2 * (1 - better))
    assert true < np.log(2) < best_of_n.kl(n) - 1


@settings(max_examples=60, deadline=None)
@given(data=st.data(), samples=st.integers(1, 7))
def test_estimator_is_the_mean_over_all_subsets(data: st.DataObject, samples: int) -> None:
    """Ties in the proxy included: the best of a subset is then the mean over its tied best."""
    proxy = np.array(data.draw(st.lists(st.integers(0, 4), min_size=samples, max_size=samples)), dtype=float)
    gold = np.array(data.draw(st.lists(st.floats(-5, 5), min_size=samples, max_size=samples)))
    n = data.draw(st.integers(1, samples))
    subsets = [list(chosen) for chosen in combinations(range(samples), n)]
    # A random order among ties, averaged: every tied sample is as likely as the others to be last.
    brute = np.mean([gold[c][proxy[c] == proxy[c].max()].mean() for c in subsets])
    assert best_of_n.estimate(proxy, gold, n) == pytest.approx(brute, abs=1e-9)


def test_weights_are_the_binomial_ones_and_stable() -> None:
    direct = [comb(i - 1, 4) / comb(30, 5) for i in range(1, 31)]
    np.testing.assert_allclose(best_of_n.rank_weights(30, 5), direct, rtol=1e-12)
    for samples, n in [(1, 1), (60_000, 1), (60_000, 1_000), (60_000, 60_000)]:
        assert best_of_n.rank_weights(samples, n).sum() == pytest.approx(1, abs=1e-9)
    assert best_of_n.rank_weights(60_000, 60_000)[-1] == pytest.approx(1)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"n must lie in 1\.\.3"):
        best_of_n.estimate([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 4)
    with pytest.raises(ValueError, match="share a shape"):
        best_of_n.estimate([1.0, 2.0], [1.0], 1)
    with pytest.raises(ValueError, match="whole numbers"):
        best_of_n.estimate([1.0, 2.0], [1.0, 2.0], 1.5)
    with pytest.raises(ValueError, match="at least 1"):
        best_of_n.kl(0)
