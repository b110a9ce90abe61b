"""Every path of attention on rows of packed trees that span its blocks: no tree sees another, and it is dense."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardscale.models import attention
from tests.models.test_attention import both_ways, random_inputs, random_trees

PATHS = ["dense", "chunked", "windowed", "splash"]
LENGTH = 1280  # tokens: 5 blocks of splash, 3 of chunked, 10 of windowed


def numbers(lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """Which tree each token [R, T] is of: a tree begins where no interval reaches across."""
    behind = np.maximum.accumulate(hi, 1)
    ahead = np.minimum.accumulate(lo[:, ::-1], 1)[:, ::-1]
    place = np.arange(1, lo.shape[1])
    begins = (behind[:, :-1] <= place) & (ahead[:, 1:] >= place)
    return np.pad(begins.cumsum(1), ((0, 0), (1, 0)))


@pytest.mark.parametrize("kind", PATHS)
def test_replacing_a_tree_moves_no_other_by_a_bit(kind: str) -> None:
    """Neither its outputs nor what q, k and v get as gradients, whichever row and blocks it lies in."""
    random = np.random.default_rng(4)
    lo, hi = random_trees(random, 2, LENGTH)
    arrays, number = random_inputs(random, 2, LENGTH, 2, 1, 8), numbers(lo, hi)
    attend = attention.among_tokens(kind, jnp.asarray(lo), jnp.asarray(hi), None)
    run = jax.jit(lambda *arrays: both_ways(list(arrays), attend))
    before = jax.tree.leaves(run(*arrays))
    for row, place in ((0, 5), (0, 512), (0, 768), (1, 256), (1, 640), (1, 1100)):
        tree = np.zeros(lo.shape, bool)
        tree[row] = number[row] == number[row, place]
        assert 20 < tree.sum() < 300
        changed = [jnp.where(tree[..., None, None], 3 * random.normal(size=x.shape), x) for x in arrays]
        for a, b in zip(before, jax.tree.leaves(run(*changed)), strict=True):
            np.testing.assert_array_equal(np.asarray(a)[~tree], np.asarray(b)[~tree])
            assert (np.asarray(a)[tree] != np.asarray(b)[tree]).mean() > 0.9
