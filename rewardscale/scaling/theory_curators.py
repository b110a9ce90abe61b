"""What an independent curator should be worth, in closed form, and when curating pays.

A curator says of each label whether it is right, with one accuracy a on right and on wrong labels, its errors
independent of the margin and of each other. ``filter`` drops the labels it calls wrong, ``correct`` turns
them over. Efficiencies are clean pairs that one *raw* pair is worth (pairs judged, not pairs kept), with
noise priced at 1/(1-2 eta)^2, i.e. at low signal; ``sandwich_efficiency`` prices it for measured margins.

Derived from ``theory.lower_bound_der``; no published source is known to us. Real curators break the
assumption both ways: one that errs on hard pairs only does better, one that shares a bias does far worse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from rewardscale.scaling.theory import Array, LabelRule, flip_rates, sandwich_variance

Action = Literal["raw", "filter", "correct"]
ACTIONS = ("raw", "filter", "correct")


def accuracies(accuracy: ArrayLike) -> Array:
    """``accuracy`` as float64 if in [0.5, 1], else ValueError: below one half, take the curator's opposite."""
    values = np.asarray(accuracy, dtype=np.float64)
    if not np.all((values >= 0.5) & (values <= 1)):
        raise ValueError(f"accuracy must lie in [0.5, 1]; got {accuracy}")
    return values


def keep_rate(eta: ArrayLike, accuracy: ArrayLike) -> Array:
    """Share of raw pairs that ``filter`` keeps: k = (1-eta) a + eta (1-a). Broadcasts."""
    rate, a = flip_rates(eta), accuracies(accuracy)
    return (1 - rate) * a + rate * (1 - a)


def kept_noise(eta: ArrayLike, accuracy: ArrayLike) -> Array:
    """Share of wrong labels among those that ``filter`` keeps: eta (1-a) / k. Broadcasts."""
    return flip_rates(eta) * (1 - accuracies(accuracy)) / keep_rate(eta, accuracy)


def raw_efficiency(eta: ArrayLike) -> Array:
    """Clean pairs that a raw pair is worth uncurated: (1-2 eta)^2."""
    return (1 - 2 * flip_rates(eta)) ** 2


def filter_efficiency(eta: ArrayLike, accuracy: ArrayLike) -> Array:
    """Clean pairs that a raw pair is worth filtered: k (1-2 eta')^2 = (a-eta)^2 / (a+eta-2 a eta).

    k is ``keep_rate`` and eta' ``kept_noise``; broadcasts.
    """
    rate, a = flip_rates(eta), accuracies(accuracy)
    return (a - rate) ** 2 / (a + rate - 2 * a * rate)


def correct_efficiency(accuracy: ArrayLike) -> Array:
    """Clean pairs that a raw pair is worth corrected: (2a-1)^2, as 1-a of the labels end up wrong.

    The raw noise has no part in it: turning over what is called wrong makes the label the curator's own.
    """
    return (2 * accuracies(accuracy) - 1) ** 2


def sandwich_efficiency(
    margins: ArrayLike,
    eta: float,
    accuracy: float,
    action: Action,
    *,
    weights: ArrayLike | None = None,
    label_rule: LabelRule = "bradley_terry",
) -> float:
    """Clean pairs that a raw pair is worth after ``action``, noise priced by ``theory.sandwich_variance``.

    k V(0)/V(noise left) with k and noise left as above; needs the margins (nats) and holds at any signal.
    Deterministic labels have no V(0) (ValueError); compare two actions by ``sandwich_variance`` there.
    """
    if action == "raw":
        kept, noise = 1.0, eta
    elif action == "filter":
        kept, noise = keep_rate(eta, accuracy), kept_noise(eta, accuracy)
    elif action == "correct":
        kept, noise = 1.0, 1 - accuracies(accuracy)
    else:
        raise ValueError(f"action must be one of {ACTIONS}; got {action!r}")
    if noise == 0.5:  # a coin's labels
        return 0.0
    clean, left = sandwich_variance(margins, np.array([0.0, noise]), weights=weights, label_rule=label_rule)
    return float(kept * clean / left)


# --- thresholds on the curator's accuracy -------------------------------------------------------------


def filter_beats_raw_above(eta: ArrayLike) -> Array:
    """Accuracy above which filtering beats leaving alone, per raw pair.

    The larger root of a^2 - (2 eta + m^3) a + eta^2 - m^2 eta = 0 with m = 1-2 eta. At eta = 0 it is 1: no
    label is wrong, so every pair dropped is a loss.
    """
    rate = flip_rates(eta)
    m = 1 - 2 * rate
    half, product = rate + m**3 / 2, rate**2 - m**2 * rate
    return half + np.sqrt(half**2 - product)


def correct_beats_raw_above(eta: ArrayLike) -> Array:
    """Accuracy above which correcting beats leaving alone: 1-eta, i.e. the curator's labels are the better."""
    return 1 - flip_rates(eta)


def correct_beats_filter_above(eta: ArrayLike) -> Array:
    """Accuracy above which correcting beats filtering, per raw pair: the root of
    (2a-1)^2 (a+eta-2 a eta) = (a-eta)^2.
    """
    return curator_accuracy_bound(eta)


def curator_accuracy_bound(
    eta: ArrayLike,
    ratio: float = 1.0,
    *,
    margins: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Array:
    """Smallest accuracy at which corrected pairs are worth ``ratio`` times filtered ones, per raw pair.

    What "corrected beats filtered" says about a curator whose errors are independent, on raw noise ``eta``.
    Without ``margins`` by the closed forms; with them by ``sandwich_efficiency``, which asks for more, as
    the noise that correcting leaves costs more at high signal (eta = .25: .88, but .95 at margin sd 4).
    The ratio rises with the accuracy, to 1/(1-eta) at a = 1; a larger ``ratio`` raises ValueError, and in a
    measurement says that the curator is not of this kind. Shape of ``eta``.
    """
    if not ratio > 0:
        raise ValueError(f"ratio must be positive; got {ratio}")

    def bound(rate: float) -> float:
        def advantage(a: float) -> float:
            if margins is None:
                return float(correct_efficiency(a) - ratio * filter_efficiency(rate, a))
            correct = sandwich_efficiency(margins, rate, a, "correct", weights=weights)
            return correct - ratio * sandwich_efficiency(margins, rate, a, "filter", weights=weights)

        return _accuracy_at(advantage, rate, ratio)

    return _each(eta, bound)


def _accuracy_at(advantage: Callable[[float], float], rate: float, ratio: float) -> float:
    if ratio * (1 - rate) > 1 + 1e-12:
        raise ValueError(
            f"corrected pairs cannot be worth {ratio} times filtered ones at eta = {rate}: a perfect "
            f"curator gives {1 / (1 - rate):.4g}"
        )
    if advantage(1.0) <= 0:  # equality, but for rounding
        return 1.0
    return float(brentq(advantage, 0.5, 1.0, xtol=1e-14))  # type: ignore[arg-type]


def _each(eta: ArrayLike, function: Callable[[float], float]) -> Array:
    rates = flip_rates(eta)
    return np.array([function(float(rate)) for rate in rates.ravel()]).reshape(rates.shape)[()]


# --- money --------------------------------------------------------------------------------------------


def break_even_price(der: ArrayLike, keep: ArrayLike) -> Array:
    """Largest price of curating one raw pair, in prices of a raw pair, at which curating still pays:
    DER · keep rate - 1. Negative: not even for nothing. Broadcasts.

    ``der``: raw pairs that do what one curated pair does; ``keep``: curated pairs had per raw pair judged.
    One curated pair costs (1 + price)/keep raw prices and replaces DER raw pairs.
    """
    ratio, kept = np.asarray(der, dtype=np.float64), np.asarray(keep, dtype=np.float64)
    if not np.all(ratio > 0) or not np.all((kept > 0) & (kept <= 1)):
        raise ValueError(f"need der > 0 and keep in (0, 1]; got {der} and {keep}")
    return ratio * kept - 1


def pays(der: ArrayLike, keep: ArrayLike, curation_price: ArrayLike) -> np.ndarray:
    """Whether curating is cheaper than buying raw pairs to the same loss: DER · keep > 1 + ``curation_price``.

    ``curation_price`` is that of judging one raw pair over that of buying one, c_q/c_raw. Broadcasts.
    """
    return np.asarray(curation_price, dtype=np.float64) < break_even_price(der, keep)
