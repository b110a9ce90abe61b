"""The convex family: features, the optimum against independent solvers, and the choice of l2."""

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from rewardscale.config import ConvexConfig, VocabularyConfig
from rewardscale.models import convex
from rewardscale.models.convex import ConvergenceError

WORDS = (
    "the",
    "a",
    "cat",
    "dog",
    "ran",
    "sat",
    "on",
    "mat",
    "very",
    "is",
    "not",
    "and",
    "so",
    ",",
    ".",
    "!",
    "?",
)
CONFIG = ConvexConfig(width=256)


@dataclasses.dataclass(frozen=True)
class World:
    """Random texts in groups, compared within groups by a hidden linear reward."""

    texts: list[str]
    first: np.ndarray
    second: np.ndarray
    groups: np.ndarray
    reward: np.ndarray


def make_world(
    seed: int = 0, groups: int = 6, texts_a_group: int = 12, pairs: int = 400, noise: bool = True
) -> World:
    rng = np.random.default_rng(seed)
    total = groups * texts_a_group
    texts = [" ".join(rng.choice(WORDS, rng.integers(3, 25))) for _ in range(total)]
    phi = convex.featurize(texts, CONFIG)
    reward = phi @ (rng.normal(size=CONFIG.params) * 0.7)
    group = rng.integers(groups, size=pairs)
    a = rng.integers(texts_a_group, size=pairs)
    b = (a + rng.integers(1, texts_a_group, size=pairs)) % texts_a_group
    a, b = group * texts_a_group + a, group * texts_a_group + b
    p = 1 / (1 + np.exp(reward[b] - reward[a]))
    wins = rng.random(pairs) < (p if noise else (p > 0.5))
    return World(
        texts, np.where(wins, a, b), np.where(wins, b, a), np.array([f"debate {g}" for g in group]), reward
    )


WORLD = make_world()


def objective(w: np.ndarray, x: np.ndarray, target: np.ndarray, weight: np.ndarray, l2: float) -> float:
    """The definition, on dense differences x [pairs, columns]."""
    z = x @ w
    losses = target * np.logaddexp(0, -z) + (1 - target) * np.logaddexp(0, z)
    return weight @ losses / weight.sum() + l2 / 2 * w @ w


def newton(x: np.ndarray, target: np.ndarray, weight: np.ndarray, l2: float) -> np.ndarray:
    """An independent solver: plain Newton steps with the dense Hessian, halved until the objective falls."""
    w = np.zeros(x.shape[1])
    a = weight / weight.sum()
    for _ in range(100):
        p = 1 / (1 + np.exp(-(x @ w)))
        gradient = x.T @ (a * (p - target)) + l2 * w
        if np.linalg.norm(gradient) < 1e-12:
            break
        step = np.linalg.solve((x.T * (a * p * (1 - p))) @ x + l2 * np.eye(len(w)), gradient)
        size = 1.0
        while objective(w - size * step, x, target, a, l2) > objective(w, x, target, a, l2) and size > 1e-6:
            size /= 2
        w = w - size * step
    return w


# --- features ----------------------------------------------------------------------------------------


def test_features_by_hand() -> None:
    config = ConvexConfig(width=2**20, ngram=2, seed=7)
    row = convex.featurize(["No, no: don't!"], config).toarray()[0]
    grams = ["no", ",", "no", ":", "don't", "!", "no ,", ", no", "no :", ": don't", "don't !"]
    expected = np.zeros(2**20 + 1)
    for gram in grams:
        digest = hashlib.blake2b(gram.encode(), digest_size=8, salt=bytes([7] + 7 * [0])).digest()
        expected[int.from_bytes(digest, "little") % 2**20] += 1
    expected[-1] = 6
    np.testing.assert_array_equal(row, np.log1p(expected))


def test_half_the_width_merges_buckets() -> None:
    wide, narrow = (
        np.expm1(convex.featurize(WORLD.texts, ConvexConfig(width=width)).toarray()) for width in (256, 128)
    )
    np.testing.assert_allclose(narrow[:, :128], wide[:, :128] + wide[:, 128:256])
    np.testing.assert_array_equal(narrow[:, -1], wide[:, -1])


def test_seeds_collide_differently() -> None:
    counts = [
        convex.featurize(WORLD.texts, ConvexConfig(width=64, seed=seed)).toarray() for seed in (0, 0, 1)
    ]
    assert (counts[0] == counts[1]).all() and (counts[0] != counts[2]).any()


def test_features_do_not_depend_on_other_texts() -> None:
    every = convex.featurize(WORLD.texts, CONFIG)
    assert every.shape == (len(WORLD.texts), CONFIG.params) and every.dtype == np.float64
    alone = convex.featurize(WORLD.texts[3:4], CONFIG)
    assert (every[3] != alone[0]).nnz == 0
    assert convex.featurize(["", "x"], CONFIG)[0].nnz <= 1  # an empty text is the zero vector


def test_features_do_not_depend_on_earlier_calls() -> None:
    texts = ["a b a", "c", "a a a c"]
    wide, narrow = ConvexConfig(width=2**16), ConvexConfig(width=2, length_feature=False)
    first = convex.featurize(texts, wide).toarray()
    merged = convex.featurize(texts, narrow).toarray()
    np.testing.assert_array_equal(convex.featurize(texts, wide).toarray(), first)
    np.testing.assert_array_equal(convex.featurize(texts, narrow).toarray(), merged)


def test_vocabulary_features_by_hand() -> None:
    texts = ["b_x a_x a_y . .", "A_x a_y c", ". b_x c d d"]  # a_x, a_y, b_x, c, d: twice each; ties by name
    of_three = convex.featurize(texts, VocabularyConfig(width=4, ngram=1, length_feature=False))
    assert of_three.toarray().tolist() == [[2, 1, 0], [1, 1, 1], [1, 0, 1]]  # x, y, c; d is not known
    of_one = convex.featurize(texts, VocabularyConfig(width=1, ngram=1))
    assert of_one.toarray() == pytest.approx(np.array([[1, np.log(6)], [1, np.log(4)], [0, np.log(6)]]))


@pytest.mark.parametrize(("ngram", "length", "columns"), [(1, False, 64), (1, True, 65), (3, False, 64)])
def test_config_shapes(ngram: int, length: bool, columns: int) -> None:
    config = ConvexConfig(width=64, ngram=ngram, length_feature=length)
    features = convex.featurize(["one two three"], config)
    assert features.shape == (1, columns) == (1, config.params)
    grams = sum(np.expm1(features.toarray()[0][:64]))
    assert grams == pytest.approx({1: 3, 3: 6}[ngram])


@pytest.mark.parametrize(
    "bad",
    [
        {"width": 100},
        {"width": 0},
        {"ngram": 0},
        {"l2_grid": ()},
        {"l2_grid": (0.0,)},
        {"folds": 1},
        {"seed": -1},
    ],
)
def test_config_refuses(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ConvexConfig(**bad)


# --- the optimum -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    pairs=st.integers(1, 60),
    log_l2=st.floats(-5, 1),
    soft=st.booleans(),
    width=st.sampled_from([16, 256]),
)
def test_optimum_equals_independent_solvers(
    seed: int, pairs: int, log_l2: float, soft: bool, width: int
) -> None:
    world = make_world(seed, groups=2, texts_a_group=10, pairs=pairs)
    rng = np.random.default_rng(seed)
    target = rng.random(pairs) if soft else np.ones(pairs)
    weight = rng.random(pairs) + 0.01 if soft else np.ones(pairs)
    features = convex.featurize(world.texts, ConvexConfig(width=width))
    x = (features[world.first] - features[world.second]).toarray()
    l2 = 10**log_l2

    fit = convex.fit(features, world.first, world.second, l2=l2, target=target, weight=weight)
    reference = newton(x, target, weight, l2)
    best = objective(reference, x, target, weight, l2)

    at_fit = objective(fit.coordinates, x, target, weight, l2)
    assert best - 1e-12 <= at_fit <= best + convex.TOLERANCE
    assert at_fit - best <= fit.gap + 1e-12  # the certificate holds
    gradient = np.asarray(optimize.approx_fprime(fit.coordinates, objective, 1e-7, x, target, weight, l2))
    assert np.linalg.norm(gradient) == pytest.approx(fit.gradient_norm, abs=1e-4)
    # strong convexity: |w - w*|^2 <= 2 gap / l2
    assert np.linalg.norm(fit.coordinates - reference) <= np.sqrt(2 * convex.TOLERANCE / l2) + 1e-6
    assert fit.loss == pytest.approx(at_fit - l2 / 2 * fit.coordinates @ fit.coordinates)


def test_equals_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    features = convex.featurize(WORLD.texts, CONFIG)
    x = (features[WORLD.first] - features[WORLD.second]).toarray()
    pairs, l2 = len(x), 0.01
    both = np.vstack([x, -x])
    model = linear_model.LogisticRegression(
        C=1 / (2 * pairs * l2), fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=1000
    ).fit(both, np.repeat([1, 0], pairs))
    fit = convex.fit(features, WORLD.first, WORLD.second, l2=l2, tolerance=1e-12)
    np.testing.assert_allclose(fit.coordinates, model.coef_[0], atol=1e-5)


@pytest.mark.parametrize("width", [16, 256, 2**14])
@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_reduced_equals_direct(width: int, l2: float) -> None:
    features = convex.featurize(WORLD.texts, ConvexConfig(width=width))
    reduced = convex.reduce(features)
    assert reduced.shape == (len(WORLD.texts), min(len(WORLD.texts), width + 1))
    np.testing.assert_allclose(reduced @ reduced.T, (features @ features.T).toarray(), atol=1e-9)
    direct, quick = (
        convex.fit(x, WORLD.first, WORLD.second, l2=l2, tolerance=1e-12) for x in (features, reduced)
    )
    np.testing.assert_allclose(convex.rewards(reduced, quick), convex.rewards(features, direct), atol=2e-5)
    # and back to hashed features, to score texts that were not there
    for fit in (direct, quick):
        np.testing.assert_allclose(convex.weights(features, fit), direct.coordinates, atol=1e-4)


def test_texts_outside_the_pairs_do_not_matter() -> None:
    features = convex.featurize(WORLD.texts, CONFIG)
    few = slice(0, 30)
    some = np.unique(np.concatenate([WORLD.first[few], WORLD.second[few]]))
    alone = convex.fit(
        features[some],
        np.searchsorted(some, WORLD.first[few]),
        np.searchsorted(some, WORLD.second[few]),
        l2=0.01,
    )
    among = convex.fit(features, WORLD.first[few], WORLD.second[few], l2=0.01)
    np.testing.assert_allclose(alone.coordinates, among.coordinates, atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.floats(-2, 0))
def test_swap_antisymmetry(seed: int, log_l2: float) -> None:
    """Naming the pairs the other way round changes nothing; preferring the others negates the reward."""
    world = make_world(seed, pairs=50)
    rng = np.random.default_rng(seed)
    target, flip = rng.random(50), rng.random(50) < 0.5
    features = convex.reduce(convex.featurize(world.texts, CONFIG))

    def solve(first: np.ndarray, second: np.ndarray, target: np.ndarray) -> np.ndarray:
        fit = convex.fit(features, first, second, l2=10**log_l2, target=target, tolerance=1e-11)
        return convex.rewards(features, fit)

    plain = solve(world.first, world.second, target)
    renamed = solve(
        np.where(flip, world.second, world.first),
        np.where(flip, world.first, world.second),
        np.where(flip, 1 - target, target),
    )
    np.testing.assert_allclose(renamed, plain, atol=5e-4)
    np.testing.assert_allclose(solve(world.second, world.first, target), -plain, atol=5e-4)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_weights_are_repetitions(seed: int) -> None:
    world = make_world(seed, pairs=30)
    times = np.random.default_rng(seed).integers(0, 4, 30)
    times[0] = 1
    features = convex.featurize(world.texts, CONFIG)
    weighted = convex.fit(features, world.first, world.second, l2=0.05, weight=times, tolerance=1e-12)
    repeated = convex.fit(
        features, np.repeat(world.first, times), np.repeat(world.second, times), l2=0.05, tolerance=1e-12
    )
    np.testing.assert_allclose(weighted.coordinates, repeated.coordinates, atol=1e-5)


def test_warm_start_and_repeat() -> None:
    features = convex.reduce(convex.featurize(WORLD.texts, CONFIG))
    cold = convex.fit(features, WORLD.first, WORLD.second, l2=1e-3)
    again = convex.fit(features, WORLD.first, WORLD.second, l2=1e-3)
    assert (cold.coordinates == again.coordinates).all()
    warm = convex.fit(features, WORLD.first, WORLD.second, l2=1e-3, start=cold.coordinates)
    assert warm.evaluations < cold.evaluations
    np.testing.assert_allclose(warm.coordinates, cold.coordinates, atol=1e-3)


def test_separable_data_has_an_optimum() -> None:
    world = make_world(1, pairs=60, noise=False)
    features = convex.featurize(world.texts, ConvexConfig(width=2**12))
    for l2 in (1e-6, 1e-3):
        fit = convex.fit(features, world.first, world.second, l2=l2)
        assert fit.gap <= convex.TOLERANCE and np.isfinite(fit.coordinates).all()
        scores = convex.rewards(features, fit)
        assert (scores[world.first] > scores[world.second]).mean() > 0.95


def test_not_converged_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    features = convex.featurize(WORLD.texts, CONFIG)
    monkeypatch.setitem(convex._SOLVER_OPTIONS, "maxiter", 2)
    with pytest.raises(ConvergenceError, match=r"l2 = 0\.0001, 400 pairs.*nats above its minimum"):
        convex.fit(features, WORLD.first, WORLD.second, l2=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2": 0.0}, "l2"),
        ({"target": np.full(3, 1.5)}, "target"),
        ({"weight": np.array([1.0, -1.0, 1.0])}, "weight"),
        ({"weight": np.zeros(3)}, "zero"),
        ({"weight": np.ones(2)}, "one length"),
        ({"first": np.array([0, 1, 99])}, r"\[0, 4\)"),
        ({"first": np.array([0.0, 1.0, 2.0])}, "integers"),
        ({"first": np.zeros(0, int), "second": np.zeros(0, int)}, "empty"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    arguments = {"first": np.array([0, 1, 2]), "second": np.array([1, 2, 3]), "l2": 0.1} | change
    with pytest.raises(ValueError, match=message):
        convex.fit(np.eye(4), **arguments)


# --- choosing l2 -------------------------------------------------------------------------------------


def slow_cross_validation(world: World, config: ConvexConfig) -> list[float]:
    """Held-out loss for each l2 of the grid, descending: one cold fit at a time."""
    features = convex.featurize(world.texts, config)
    fold = convex.assign_folds(world.groups, config.folds)
    curve = []
    for l2 in sorted(config.l2_grid, reverse=True):
        total = 0.0
        for k in np.unique(fold):
            train, test = fold != k, fold == k
            fit = convex.fit(features, world.first[train], world.second[train], l2=l2)
            scores = convex.rewards(features, fit)
            total += np.logaddexp(0, scores[world.second[test]] - scores[world.first[test]]).sum()
        curve.append(total / len(fold))
    return curve


def test_cross_validation_equals_the_slow_one() -> None:
    config = ConvexConfig(width=256, l2_grid=tuple(10.0 ** np.arange(-4, 1.01, 0.5)), folds=3)
    found = convex.cross_validate(
        convex.reduce(convex.featurize(WORLD.texts, config)), WORLD.first, WORLD.second, WORLD.groups, config
    )
    slow = slow_cross_validation(WORLD, config)
    tried = len(found.grid)
    np.testing.assert_allclose(found.loss, slow[:tried], atol=2e-4)
    assert found.l2 == sorted(config.l2_grid, reverse=True)[int(np.argmin(slow))]
    assert found.edge == "" and found.fold_loss.shape == (tried, 3)
    assert (np.diff(found.grid) < 0).all()


@pytest.mark.parametrize(("grid", "edge"), [((1.0, 10.0), "low"), ((1e-5, 1e-6), "high"), ((0.1,), "")])
def test_the_edge_of_the_grid_is_flagged(grid: tuple[float, ...], edge: str) -> None:
    config = ConvexConfig(width=256, l2_grid=grid)
    features = convex.featurize(WORLD.texts, config)
    assert convex.cross_validate(features, WORLD.first, WORLD.second, WORLD.groups, config).edge == edge


def test_only_the_pairs_given_are_looked_at() -> None:
    """Texts of other debates are in the feature matrix; changing them changes nothing."""
    training = np.isin(WORLD.groups, ["debate 0", "debate 1", "debate 2", "debate 3"])
    arguments = (WORLD.first[training], WORLD.second[training], WORLD.groups[training], CONFIG)
    features = convex.featurize(WORLD.texts, CONFIG)
    used = np.unique(np.concatenate(arguments[:2]))
    other = features.toarray()
    other[np.setdiff1d(np.arange(len(other)), used)] = 1e3
    a, b = convex.cross_validate(features.toarray(), *arguments), convex.cross_validate(other, *arguments)
    assert a.l2 == b.l2 and (a.loss == b.loss).all()


def test_random_labels_ask_for_more_regularisation() -> None:
    config = ConvexConfig(width=256, l2_grid=tuple(10.0 ** np.arange(-4, 2.01, 0.5)))
    world = make_world(2, pairs=600, noise=False)
    features = convex.reduce(convex.featurize(world.texts, config))
    flip = np.random.default_rng(0).random(600) < 0.5
    noisy = np.where(flip, world.second, world.first), np.where(flip, world.first, world.second)
    clean = convex.cross_validate(features, world.first, world.second, world.groups, config)
    assert convex.cross_validate(features, *noisy, world.groups, config).l2 > clean.l2


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(2, 6))
def test_folds_keep_groups_whole(groups: list[int], folds: int) -> None:
    names = [f"g{g}" for g in groups]
    if len(set(names)) < 2:
        with pytest.raises(ValueError, match="at least 2 groups"):
            convex.assign_folds(names, folds)
        return
    fold = convex.assign_folds(names, folds)
    assert set(fold) == set(range(min(folds, len(set(names)))))
    assert all(len(set(fold[np.array(names) == name])) == 1 for name in set(names))
    # the order of the pairs does not matter, up to which pair it is
    order = np.random.default_rng(0).permutation(len(names))
    assert (convex.assign_folds(np.array(names)[order], folds) == fold[order]).all()
    # balanced: no fold exceeds another by more than the largest group
    sizes, largest = np.bincount(fold), max(names.count(name) for name in set(names))
    assert sizes.max() - sizes.min() <= largest
