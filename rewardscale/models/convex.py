"""The convex family: a reward linear in hashed n-grams, fitted to the optimum.

    reward(x) = phi(x) . w
    w = argmin  sum_i a_i [ softplus(-z_i) + (1 - t_i) z_i ] / sum_i a_i  +  (l2 / 2) |w|^2,
        z_i = reward(first_i) - reward(second_i),  t_i = P(first_i is the better one),  a_i = weight

the Bradley-Terry log-loss, strictly convex: one optimum, no learning rate. The width (number of
hash buckets) takes the place of model size. The penalty goes with the mean of the loss, so that one grid
of l2 serves all data sizes.

Solver: scipy's L-BFGS-B, without bounds. It needs only products with the feature matrix, gains from a
warm start along the path of l2, and is invariant under rotations of w, so `reduce` may rotate the
features into as many dimensions as there are texts. A fit counts as done when the bound
|gradient|^2 / (2 l2) on its distance (in nats) from the optimum, which strong convexity gives, is below a
tolerance; otherwise ConvergenceError.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from scipy import optimize, sparse, special

from rewardscale.config import ConvexConfig, VocabularyConfig

Features = np.ndarray | sparse.csr_array

TOLERANCE = 1e-9  # nats above the optimum, at most
_SEARCH_TOLERANCE = 1e-6  # for the fits of a cross-validation
_PATIENCE = 2  # points of the grid past the minimum of the cross-validation that are still tried
# scipy's own tests are off: the bound on the gap is the only way to succeed
_SOLVER_OPTIONS = {"maxcor": 20, "ftol": 0, "gtol": 0, "maxiter": 20_000, "maxfun": 40_000}
_REDUCE_TEXTS = 4_000  # more distinct texts are fitted on their features directly,
_DENSE_COLUMNS = 256  # which are faster dense up to this many columns
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


class ConvergenceError(RuntimeError):
    """The solver stopped before the optimum."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """An optimum.

    Attributes:
      coordinates: float64 [columns of the features fitted on]: w, in their basis.
      dual: float64 [texts]: w = features.T @ dual, also in the basis before `reduce` (see `weights`).
      l2: the penalty.
      loss: mean log-loss on the training pairs, nats, without the penalty.
      gradient_norm: Euclidean norm of the objective's gradient at `coordinates`.
      gap: upper bound on objective(coordinates) - optimum, nats.
      evaluations: of the objective.
    """

    coordinates: np.ndarray
    dual: np.ndarray
    l2: float
    loss: float
    gradient_norm: float
    gap: float
    evaluations: int


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """How l2 was chosen.

    Attributes:
      l2: the value with the lowest loss; of equal ones the largest.
      grid: float64 [tried], descending: the part of the grid up to two points past the minimum.
      loss: float64 [tried], mean held-out log-loss of all pairs, nats.
      fold_loss: float64 [tried, folds], the same a fold.
      edge: "low" or "high" if l2 is the smallest or largest of a grid that has others, so that a wider grid
        might do better; else "".
    """

    l2: float
    grid: np.ndarray
    loss: np.ndarray
    fold_loss: np.ndarray
    edge: str


# --- features ----------------------------------------------------------------------------------------


def featurize(texts: Sequence[str], config: ConvexConfig) -> sparse.csr_array:
    """Hashed n-gram features, float64 [texts, config.params].

    Tokens are lower-cased words (with inner apostrophes) and single punctuation marks. A bucket holds
    log(1 + number of n-grams that fall into it); the last column is the length feature, if any. The
    buckets of half the width are those of the full width, merged two by two.

    With a VocabularyConfig: `vocabulary_features`, float64 [texts, stems known (+ 1)].
    """
    if isinstance(config, VocabularyConfig):
        return vocabulary_features(texts, config)
    grams, gram, starts, tokens = _counted(tuple(texts), config.ngram)
    bucket = np.fromiter((_bucket(name, config) for name in grams), np.int32, len(grams))
    columns, values = bucket[gram], np.ones(len(gram))
    if config.length_feature:
        columns, values = (
            np.insert(kept, starts[1:], new) for kept, new in ((columns, config.width), (values, tokens))
        )
        starts = starts + np.arange(len(starts), dtype=starts.dtype)
    counts = sparse.csr_array((values, columns, starts.copy()), shape=(len(texts), config.params))
    counts.sum_duplicates()  # in place: `starts` itself is shared by all callers
    counts.data = np.log1p(counts.data)
    return counts


@functools.lru_cache(maxsize=1)  # all widths and seeds read the same texts
def _counted(texts: tuple[str, ...], longest: int) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """All n-grams; of each n-gram in `texts`, in order, which it is (int32); where each text's begin; its tokens."""
    number: dict[str, int] = {}
    ids: list[int] = []
    starts, tokens = [0], []
    for text in texts:
        words = _TOKEN.findall(text.lower())
        ids.extend(number.setdefault(gram, len(number)) for gram in _ngrams(words, longest))
        starts.append(len(ids))
        tokens.append(len(words))
    indices = (
        np.int32 if len(ids) < 2**30 else np.int64
    )  # a matrix's are all of one type, and half as wide is faster
    places = np.array(starts, indices)
    return list(number), np.array(ids, np.int32), places, np.array(tokens, np.float64)


def vocabulary_features(texts: Sequence[str], config: VocabularyConfig) -> sparse.csr_array:
    """How often each stem's known words occur, float64 [texts, stems (+ 1)]; last log(1 + tokens), if wanted.

    The `config.width` words that are commonest in `texts` are known; stems are in order of their commonest word.
    """
    words, word, row = _numbered(tuple(texts))
    frequency = np.bincount(word, minlength=len(words))
    ranked = sorted(range(len(words)), key=lambda i: (-frequency[i], words[i]))
    known = [i for i in ranked if words[i][0].isalnum()][: config.width]
    stems: dict[str, int] = {}
    column = np.full(len(words), -1)
    for i in known:
        column[i] = stems.setdefault(words[i].rpartition("_")[2], len(stems))
    keep = column[word] >= 0
    counts = sparse.csr_array(
        (np.ones(keep.sum()), (row[keep], column[word[keep]])), shape=(len(texts), len(stems))
    )
    if not config.length_feature:
        return counts
    length = np.log1p(np.bincount(row, minlength=len(texts)).astype(np.float64))
    return sparse.csr_array(sparse.hstack([counts, sparse.csr_array(length[:, None])]))


@functools.lru_cache(maxsize=1)  # vocabularies of all sizes read the same texts
def _numbered(texts: tuple[str, ...]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """All words; and of each token of `texts`, in order, which word it is and in which text."""
    number: dict[str, int] = {}
    ids = [
        [number.setdefault(token, len(number)) for token in _TOKEN.findall(text.lower())] for text in texts
    ]
    word = np.fromiter(itertools.chain.from_iterable(ids), np.int64)
    return list(number), word, np.repeat(np.arange(len(texts)), [len(of) for of in ids])


def _ngrams(tokens: list[str], longest: int) -> Iterator[str]:
    for n in range(1, longest + 1):
        for at in range(len(tokens) - n + 1):
            yield " ".join(tokens[at : at + n])


def _bucket(gram: str, config: ConvexConfig) -> int:
    digest = hashlib.blake2b(gram.encode(), digest_size=8, salt=config.seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") % config.width


def reduce(features: sparse.csr_array) -> np.ndarray:
    """The same texts in min(texts, columns) dimensions: float64 Z [texts, dimensions] with Z Z^T = X X^T.

    The optimum w lies in the row space of X, and the objective sees X through inner products alone, so
    fitting on Z gives the same rewards as fitting on X, with a dense matrix that is small when there are
    few distinct texts (about a second for 1,000 of them, growing with the cube: above a few thousand,
    fit on X itself). Reduce once for all runs on the same texts.
    """
    texts, columns = _shape(features)
    if columns <= texts:
        return features.toarray()
    values, vectors = np.linalg.eigh((features @ features.T).toarray())
    return np.ascontiguousarray(vectors * np.sqrt(np.maximum(values, 0)))


def fitting_features(texts: Sequence[str], config: ConvexConfig) -> Features:
    """`featurize(texts, config)` in the form that is fitted fastest: rotated, dense or as it is."""
    sparse_features = featurize(texts, config)
    if len(texts) <= _REDUCE_TEXTS:
        return reduce(sparse_features)
    return sparse_features.toarray() if _shape(sparse_features)[1] <= _DENSE_COLUMNS else sparse_features


def rewards(features: Features, fit: Fit) -> np.ndarray:
    """float64 [texts]: the reward of each row of `features`, in the basis of those that `fit` was made on."""
    return np.asarray(features @ fit.coordinates)


def weights(features: sparse.csr_array, fit: Fit) -> np.ndarray:
    """float64 [columns]: w for hashed features, from the training texts' features before `reduce`.

    `featurize(new_texts) @ weights(...)` scores texts that were not reduced along.
    """
    return np.asarray(features.T @ fit.dual)


# --- fitting -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Training pairs over the texts that occur in them."""

    texts: np.ndarray  # int64 [used]: their rows in the features given
    features: Features  # [used, columns]
    transposed: Features
    first: np.ndarray  # int64 [pairs] into `texts`
    second: np.ndarray
    target: np.ndarray  # float64 [pairs]
    weight: np.ndarray  # float64 [pairs], sums to 1


def fit(
    features: Features,
    first: np.ndarray,
    second: np.ndarray,
    *,
    l2: float,
    target: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    start: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
) -> Fit:
    """Fits w to pairs, to within `tolerance` of the optimum.

    Args:
      features: [texts, columns], of `featurize` or `reduce`.
      first, second: integers [pairs], rows of `features`.
      l2: penalty, positive.
      target: [pairs], probability that the first is the better one; 1 by default.
      weight: [pairs], not negative; 1 by default.
      start: [columns], where to start (another fit's coordinates); zero by default.
      tolerance: nats; rounding forbids much less than 1e-17 / l2.

    Raises:
      ValueError: arguments that do not fit together.
      ConvergenceError: the optimum was not reached.
    """
    problem = _problem(features, *_checked(features, first, second, target, weight))
    return _solve(problem, _shape(features), l2, start, tolerance)


def cross_validate(
    features: Features,
    first: np.ndarray,
    second: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    config: ConvexConfig,
    *,
    target: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> CrossValidation:
    """Chooses l2 by cross-validation over groups of the *training* pairs, with their own labels.

    Args:
      features, first, second, target, weight: as for `fit`.
      groups: [pairs], e.g. the debate of each pair: no group is split between folds. With fewer groups than
        `config.folds` each is a fold.

    Raises:
      ValueError: as `fit`, or fewer than two groups.
      ConvergenceError: a fit did not reach the optimum.
    """
    arrays = _checked(features, first, second, target, weight)
    fold = assign_folds(groups, config.folds)
    if len(fold) != len(arrays[0]):
        raise ValueError(f"{len(fold)} groups for {len(arrays[0])} pairs")
    held_out = [fold == k for k in range(fold.max() + 1)]
    train = [_problem(features, *(array[~out] for array in arrays)) for out in held_out]
    tests = [_problem(features, *(array[out] for array in arrays)) for out in held_out]
    share = np.array([arrays[3][out].sum() for out in held_out]) / arrays[3].sum()
    starts: list[np.ndarray | None] = [None] * len(held_out)
    grid = sorted(
        {float(l2) for l2 in config.l2_grid}, reverse=True
    )  # strong to weak: each fit starts near its optimum
    losses: list[list[float]] = []
    for l2 in grid:
        losses.append([])
        for k, problem in enumerate(train):
            w = _solve(problem, _shape(features), l2, starts[k], _SEARCH_TOLERANCE).coordinates
            losses[-1].append(_loss(tests[k], w))
            starts[k] = w
        if int(np.argmin(losses @ share)) < len(losses) - _PATIENCE:
            break
    total = np.asarray(losses) @ share
    best = int(np.argmin(total))
    edge = "" if len(grid) == 1 else {0: "high", len(grid) - 1: "low"}.get(best, "")
    return CrossValidation(grid[best], np.array(grid[: len(losses)]), total, np.array(losses), edge)


def assign_folds(groups: Sequence[str] | np.ndarray, folds: int) -> np.ndarray:
    """int64 [pairs]: the fold of each pair; whole groups, largest first, each into the smallest fold so far.

    Depends on the groups' names and sizes alone. Raises ValueError below two groups.
    """
    names, index, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"cross-validation needs at least 2 groups, found {list(names)}")
    filled = np.zeros(min(folds, len(names)), np.int64)
    fold_of = np.zeros(len(names), np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = int(np.argmin(filled))
        filled[fold_of[group]] += sizes[group]
    return fold_of[index]


def _shape(features: Features) -> tuple[int, int]:
    """(texts, columns)."""
    return cast(tuple[int, int], features.shape)  # scipy's annotations leave the number of axes open


def _checked(features: Features, first, second, target, weight) -> tuple[np.ndarray, ...]:
    first, second = np.asarray(first), np.asarray(second)
    pairs, texts = len(first), _shape(features)[0]
    target = np.ones(pairs) if target is None else np.asarray(target, np.float64)
    weight = np.ones(pairs) if weight is None else np.asarray(weight, np.float64)
    if not pairs or any(array.shape != (pairs,) for array in (first, second, target, weight)):
        raise ValueError("first, second, target and weight must be 1-d, of one length, and not empty")
    for array in (first, second):
        if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() >= texts:
            raise ValueError(f"first and second must be integers in [0, {texts})")
    if not (np.isfinite(target).all() and target.min() >= 0 and target.max() <= 1):
        raise ValueError("target must lie in [0, 1]")
    if not (np.isfinite(weight).all() and weight.min() >= 0):
        raise ValueError("weight must be finite and not negative")
    return first.astype(np.int64), second.astype(np.int64), target, weight


def _problem(features: Features, first, second, target, weight) -> _Problem:
    if not weight.sum() > 0:
        raise ValueError("the weights of the pairs (of a fold's pairs) must not all be zero")
    texts, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    used = features[texts]
    return _Problem(
        texts=texts,
        features=used,
        transposed=used.T if isinstance(used, np.ndarray) else used.T.tocsr(),
        first=inverse[: len(first)],
        second=inverse[len(first) :],
        target=target,
        weight=weight / weight.sum(),
    )


def _margins(problem: _Problem, w: np.ndarray) -> np.ndarray:
    scores = problem.features @ w
    return scores[problem.first] - scores[problem.second]


def _loss(problem: _Problem, w: np.ndarray) -> float:
    z = _margins(problem, w)
    return float(problem.weight @ (np.logaddexp(0, -z) + (1 - problem.target) * z))


def _score_gradient(problem: _Problem, w: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss, and its derivative by the reward of each text [used]."""
    z = _margins(problem, w)
    loss = problem.weight @ (np.logaddexp(0, -z) + (1 - problem.target) * z)
    pull = problem.weight * (special.expit(z) - problem.target)
    used = len(problem.texts)
    gradient = np.bincount(problem.first, pull, used) - np.bincount(problem.second, pull, used)
    return float(loss), gradient


def _solve(
    problem: _Problem, shape: tuple[int, int], l2: float, start: np.ndarray | None, tolerance: float
) -> Fit:
    if not 0 < l2 < math.inf:
        raise ValueError(f"l2 must be positive and finite, found {l2}")
    gap = math.inf

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal gap
        loss, by_score = _score_gradient(problem, w)
        gradient = problem.transposed @ by_score + l2 * w
        gap = float(gradient @ gradient) / (2 * l2)
        return loss + l2 / 2 * float(w @ w), gradient

    def stop_when_done(_: np.ndarray) -> None:  # called after each step: the last evaluation is the step's
        if gap <= tolerance:
            raise StopIteration

    start = np.zeros(shape[1]) if start is None else start
    result = optimize.minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=stop_when_done,
        options=_SOLVER_OPTIONS,
    )
    w = result.x
    objective(w)
    if not gap <= tolerance:
        raise ConvergenceError(
            f"l2 = {l2:g}, {len(problem.first)} pairs: after {result.nfev} evaluations the objective may lie "
            f"{gap:.1e} nats above its minimum, {tolerance:g} are allowed ({result.message}); raise l2"
        )
    loss, by_score = _score_gradient(problem, w)
    dual = np.zeros(shape[0])
    dual[problem.texts] = -by_score / l2  # the optimum's gradient is zero: l2 w = -X^T by_score
    return Fit(w, dual, l2, loss, math.sqrt(2 * l2 * gap), gap, int(result.nfev))
