"""Choosing pairs so that surface features do not tell the right response from the wrong one.

With d_i = features(right_i) - features(wrong_i), a reward linear in those features has the log-loss
(1/n) sum_i softplus(-w . d_i), whose gradient at w = 0 is -(1/2n) sum_i d_i. So if the differences sum to zero,
w = 0 is the optimum: the features teach nothing and their accuracy is chance. `balanced` picks pairs one by one so
that the running sum stays near zero, and prefers pairs that are alike (kernel herding, Chen, Welling and
Smola, UAI 2010, with a linear kernel).
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize

_DECIMALS = 9  # scores are compared after rounding, so that the last bits of a sum decide nothing


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The pairs that one question offers.

    Attributes:
      right, wrong: int64 [n], which of the question's responses each pair is made of.
      difference: float64 [n, features], features(right) - features(wrong), in units of their standard deviation.
    """

    right: np.ndarray
    wrong: np.ndarray
    difference: np.ndarray


def balanced(
    questions: Sequence[Candidates],
    *,
    wanted: int,
    rounds: int,
    seed: Sequence[int],
    uses: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[tuple[int, int]]:
    """Chooses up to `wanted` pairs, at most `rounds` a question, each response in at most `uses` of them.

    In each round the questions come in random order; a question gives the pair whose difference d makes |S + d|^2
    least, S being the sum so far, unless that grows by more than the number of features: by more than a random
    pair adds to a balanced set.

    Returns:
      (index of the question, index of its candidate), sorted.
    """
    random = np.random.default_rng(list(seed))
    free = [np.arange(len(q.right)) for q in questions]
    sides = [np.stack([q.right, q.wrong]) for q in questions]
    used = [np.zeros(int(pair.max(initial=-1)) + 1, np.int64) for pair in sides]
    features = questions[0].difference.shape[1] if questions else 0
    total, chosen = np.zeros(features), []
    for _ in range(rounds):
        for index in random.permutation(len(questions)):
            if len(chosen) == wanted:
                return sorted(chosen)
            question, left = questions[index], free[index]
            if not len(left):
                continue
            difference = question.difference[left]
            growth = np.round(2 * difference @ total + (difference**2).sum(1), _DECIMALS)
            best = int(np.argmin(growth))
            if growth[best] > features:
                continue
            pair = int(left[best])
            total += question.difference[pair]
            chosen.append((int(index), pair))
            used[index][sides[index][:, pair]] += 1
            still = (used[index][sides[index][:, left]] < uses).all(0) & (left != pair)
            free[index] = left[still]
            if progress and not len(chosen) % 1000:
                progress(len(chosen))
    return sorted(chosen)


def cue_accuracy(train: np.ndarray, held_out: np.ndarray, *, l2: float = 1e-3) -> float:
    """How often features alone find the right response of held-out pairs; 0.5 is chance, ties count half.

    A logistic regression without intercept on differences (right - wrong), float64 [pairs, features].
    """

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = train @ w
        pull = np.exp(-np.logaddexp(0, z))
        return float(np.logaddexp(0, -z).mean() + l2 / 2 * w @ w), l2 * w - pull @ train / len(train)

    w = optimize.minimize(objective, np.zeros(train.shape[1]), jac=True, method="L-BFGS-B").x
    z = held_out @ w
    return float(((z > 0) + 0.5 * (z == 0)).mean())
