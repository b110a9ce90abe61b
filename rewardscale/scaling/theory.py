"""What label noise should cost, in closed form: the curves that measured ones are held against.

A pair has a gold margin Delta (nats: the log-odds that its better response is preferred), a label, and a
flip rate eta: the share of labels turned over at random. The student is a Bradley-Terry model, i.e. a
logistic regression on the difference of two responses' features, trained to the optimum and unaware of the
flips. Costs are data-equivalence ratios (DER): how many pairs do what one pair does at the base noise.

All of it is asymptotic (many more pairs than parameters) and parametric (the student can represent gold).
What holds outside is measured, not assumed: tests/scaling/test_theory*.py show each formula in its regime
and failing outside it. Curators are in ``theory_curators``, best-of-n in ``theory_best_of_n``.

Source of the sandwich: White 1982, "Maximum likelihood estimation of misspecified models", Theorem 3.2, for
this student; single-index argument in ``sandwich_variance``. No paper is known to us to print these forms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

Array = NDArray[np.float64]
LabelRule = Literal["bradley_terry", "deterministic"]
LABEL_RULES = ("bradley_terry", "deterministic")


def flip_rates(eta: ArrayLike, name: str = "eta") -> Array:
    """``eta`` as float64 if every rate is in [0, 0.5), else ValueError: at one half labels say nothing."""
    rates = np.asarray(eta, dtype=np.float64)
    if not np.all((rates >= 0) & (rates < 0.5)):
        raise ValueError(f"{name} must lie in [0, 0.5), a share of flipped labels; got {eta}")
    return rates


def compose_flips(first: ArrayLike, second: ArrayLike) -> Array:
    """Rate of labels turned over by two independent flips: a + b - 2ab. Broadcasts."""
    a, b = flip_rates(first), flip_rates(second)
    return a + b - 2 * a * b


# --- bounds --------------------------------------------------------------------------------------------


def lower_bound_der(eta: ArrayLike) -> Array:
    """At least so many pairs with flips at rate ``eta`` do what one clean pair does: 1/(1 - 2 eta)^2.

    Labels drawn from Bradley-Terry, margins with a single peak at zero. It follows from
    ``pair_information_ratio`` <= (1 - 2 eta)^2 and is reached only where margins are small. Same rate in
    Chowdhury et al. 2024 (arXiv 2403.00409), whose error bound has n (1 - 2 eta)^2 pairs.

    It bounds ``sandwich_der`` for every mixture of centred Gaussian margins (Stein's lemma makes the student's
    direction a regular estimate). It is no bound where margins are two-humped with a gap at zero: clean
    labels are then all but separable, and flips help as a regulariser would.
    """
    return 1 / (1 - 2 * flip_rates(eta)) ** 2


def pair_information_ratio(margin: ArrayLike, eta: ArrayLike) -> Array:
    """Fisher information about Delta in one flipped label over that in a clean one, for a student that
    knows eta.

    rho = (1-2 eta)^2 s(1-s) / [p(1-p)] with s = sigmoid(Delta), p = eta + (1-2 eta) s; in (0, 1].
    ``margin`` in nats; broadcasts with ``eta``. At Delta = 0 it is (1-2 eta)^2, far out it goes to 0:
    flips cost most on the pairs that were clear.
    """
    rate, size = flip_rates(eta), np.abs(np.asarray(margin, dtype=np.float64))
    right, wrong = expit(size), expit(-size)
    flipped_wrong = rate + (1 - 2 * rate) * wrong
    # At eta = 0 the ratio is 1, also where s(1-s) underflows.
    with np.errstate(invalid="ignore"):
        ratio = (1 - 2 * rate) ** 2 * right * wrong / (flipped_wrong * (1 - flipped_wrong))
    return np.where(rate == 0, 1.0, ratio)


def flip_aware_der(margins: ArrayLike, eta: ArrayLike, *, weights: ArrayLike | None = None) -> Array:
    """DER for a student that knows eta and maximises the flipped likelihood: E[s(1-s)] / E[rho s(1-s)].

    The information ratio along a feature independent of the margin. For mixtures of centred Gaussian margins
    it lies between ``lower_bound_der`` and ``sandwich_der``: what an unaware student loses beyond this, a
    better loss function would win back.
    ``margins`` (pairs,) in nats; shape of ``eta``.
    """
    measured = _measured(margins, weights)
    clean = expit(measured.size) * expit(-measured.size)

    def ratio(rate: float) -> float:
        kept = pair_information_ratio(measured.size, rate)
        return float(measured.mean(clean) / measured.mean(kept * clean))

    return _each(eta, ratio)


# --- the sandwich --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    """Margins of a data set: |Delta| in nats (everything here is even in Delta) and weights of sum 1."""

    size: Array
    weight: Array

    def mean(self, values: Array) -> float:
        return float(self.weight @ values)

    @property
    def rms(self) -> float:
        return self.mean(self.size**2) ** 0.5


class _Sandwich(NamedTuple):
    """Scale c, curvature A = E[sigmoid'(c Delta)] and squared score B = E[(label - sigmoid(c Delta))^2]."""

    scale: float
    curvature: float
    score: float


def gaussian_margins(sd: float, points: int = 2001) -> tuple[Array, Array]:
    """Margins Delta ~ N(0, sd^2) as nodes and weights, each (points,), for the functions of this file.

    An even grid of |Delta| <= 10 sd: for smooth integrands its error is far below float64's.
    """
    if not sd > 0:
        raise ValueError(f"sd must be positive, in nats; got {sd}")
    z = np.linspace(-10, 10, points)
    weight = np.exp(-(z**2) / 2)
    return sd * z, weight / weight.sum()


def pseudo_true_scale(
    margins: ArrayLike,
    eta: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    label_rule: LabelRule = "bradley_terry",
) -> Array:
    """Reward scale c that the student reaches with infinite data, relative to gold's: the root of
    E[Delta (p_eta(Delta) - sigmoid(c Delta))] = 0.

    ``margins`` (pairs,) in nats, any distribution, ``weights`` likewise; returns ``eta``'s shape. p_eta is
    the probability of a label for the first response: eta + (1-2 eta) sigmoid(Delta) for
    ``bradley_terry``, where c <= 1, and eta or 1-eta by Delta's sign for ``deterministic``, where eta = 0
    is separable: c is infinite and ValueError is raised.
    """
    measured = _measured(margins, weights)
    return _each(eta, lambda rate: _scale(measured, rate, label_rule))


def sandwich_variance(
    margins: ArrayLike,
    eta: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    label_rule: LabelRule = "bradley_terry",
) -> Array:
    """V = B / (A c S)^2, the constant of the student's error: pairs · angle^2 / (dimension - 1) -> V.

    The angle (radians) lies between student and gold weights, features whitened, S = root mean square
    margin (nats), c as in ``pseudo_true_scale``. Along each of the dimension - 1 features orthogonal to gold,
    taken as independent of the margin, the estimate has White's sandwich variance B / (A^2 pairs), with
    A = E[sigmoid'(c Delta)] and B = E[(label - sigmoid(c Delta))^2]; the weight along gold is c S.

    Arguments and errors as in ``pseudo_true_scale``; under the deterministic rule the margins' scale drops
    out. Exact for Gaussian features as pairs/dimension -> infinity.
    """
    measured = _measured(margins, weights)

    def variance(rate: float) -> float:
        found = _sandwich(measured, rate, label_rule)
        return found.score / (found.curvature * found.scale * measured.rms) ** 2

    return _each(eta, variance)


def sandwich_der(
    margins: ArrayLike,
    eta: ArrayLike,
    base_eta: float = 0.0,
    *,
    weights: ArrayLike | None = None,
    label_rule: LabelRule = "bradley_terry",
) -> Array:
    """Pairs with flips at rate ``eta`` that do what one pair with flips at ``base_eta`` does: V(eta)/V(base).

    "Do" is the temperature-recalibrated excess log-loss on any fixed test set drawn from Bradley-Terry, or
    the squared angle: the two are proportional to V/pairs with one constant (``recalibrated_excess``). In raw
    loss there is no such number: a rescaled reward never reaches the floor (``raw_loss_floor``).

    Human labels, whose own noise is unknown: take as margins the recalibrated margins of the best model of
    the *observed* labels, so that P(observed label) = sigmoid(margin), and as eta the flips that were added.
    Whatever noise the humans had is then part of the margins, and flips on top are flips of Bradley-Terry
    labels; it is exact if the model is calibrated and its orthogonal features say nothing more about the
    label. (Gaussian gold margins, sd 2, human noise .1, added .2: exact 3.38, so read 3.35; sd 4: 3.97, 3.80.)

    Under ``deterministic`` labels ``base_eta`` must be positive: with clean labels the exponent differs
    (``label_exponents``) and no ratio exists.
    """
    base = sandwich_variance(margins, base_eta, weights=weights, label_rule=label_rule)
    return sandwich_variance(margins, eta, weights=weights, label_rule=label_rule) / base


def recalibrated_excess(
    pairs: ArrayLike,
    dimension: int,
    margins: ArrayLike,
    eta: float,
    *,
    weights: ArrayLike | None = None,
) -> Array:
    """Expected excess log-loss after one fitted temperature, nats a pair: S^2 E[sigmoid'(Delta)] V
    (dimension - 1) / (2 pairs).

    Over the loss of gold itself, on clean Bradley-Terry labels with the same margins; shape of ``pairs``.
    Second-order expansion in the angle; the temperature takes up the error along gold.
    """
    measured = _measured(margins, weights)
    curvature = measured.mean(expit(measured.size) * expit(-measured.size))
    variance = sandwich_variance(margins, eta, weights=weights)
    count = np.asarray(pairs, dtype=np.float64)
    return measured.rms**2 * curvature * variance * (dimension - 1) / (2 * count)


def raw_loss_floor(margins: ArrayLike, eta: ArrayLike, *, weights: ArrayLike | None = None) -> Array:
    """How far above gold the *raw* log-loss on clean labels stays with infinite flipped data, nats a pair.

    E[D_KL(sigmoid(Delta) || sigmoid(c Delta))] with c the pseudo-true scale: pure calibration, gone after
    one fitted temperature. Shape of ``eta``.
    """
    measured = _measured(margins, weights)
    right = expit(measured.size)

    def floor(rate: float) -> float:
        scale = _scale(measured, rate, "bradley_terry")
        loss = np.logaddexp(0, -scale * measured.size) + (1 - right) * scale * measured.size
        gold = np.logaddexp(0, -measured.size) + (1 - right) * measured.size
        return measured.mean(loss - gold)

    return _each(eta, floor)


def effective_pairs(
    pairs: ArrayLike,
    eta: ArrayLike,
    *,
    margins: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Array:
    """Clean pairs that ``pairs`` with flips at rate ``eta`` are worth; broadcasts.

    Without ``margins`` pairs · (1-2 eta)^2, the most it can be; with them pairs / ``sandwich_der``. The
    x-axis on which curves of all noise levels should collapse.
    """
    if margins is None:
        cost = lower_bound_der(eta)
    else:
        cost = sandwich_der(margins, eta, weights=weights)
    return np.asarray(pairs, dtype=np.float64) / cost


def _measured(margins: ArrayLike, weights: ArrayLike | None) -> _Measured:
    size = np.abs(np.asarray(margins, dtype=np.float64))
    if size.ndim != 1 or not np.all(np.isfinite(size)) or not np.any(size > 0):
        raise ValueError(f"margins must be one axis of finite numbers, not all zero; got shape {size.shape}")
    weight = np.ones_like(size) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != size.shape or np.any(weight < 0) or not weight.sum() > 0:
        raise ValueError(
            f"weights must be non-negative and shaped like margins {size.shape}; got {weight.shape}"
        )
    return _Measured(size, weight / weight.sum())


def _each(eta: ArrayLike, function: Callable[[float], float]) -> Array:
    """``function`` of every rate, in the rates' shape."""
    rates = flip_rates(eta)
    return np.array([function(float(rate)) for rate in rates.ravel()]).reshape(rates.shape)[()]


def _wrong(measured: _Measured, rate: float, label_rule: LabelRule) -> Array:
    """Probability, a pair, that its label contradicts the sign of the gold margin."""
    if label_rule == "bradley_terry":
        return rate + (1 - 2 * rate) * expit(-measured.size)
    if label_rule == "deterministic":
        return np.full_like(measured.size, rate)
    raise ValueError(f"label_rule must be one of {LABEL_RULES}; got {label_rule!r}")


def _scale(measured: _Measured, rate: float, label_rule: LabelRule) -> float:
    wrong = _wrong(measured, rate, label_rule)
    if rate == 0 and label_rule == "deterministic":
        raise ValueError(
            "clean deterministic labels are separable: the reward scale is infinite and there is no "
            "sandwich; give a positive flip rate, or see label_exponents"
        )

    def slope(scale: float) -> float:  # of the expected log-likelihood, falls with the scale
        return measured.mean(measured.size * (expit(-scale * measured.size) - wrong))

    high = 1.0 if label_rule == "bradley_terry" else 1 / measured.rms
    while slope(high) > 0 and label_rule == "deterministic":
        high *= 2
    if slope(high) >= 0:  # no flips, or too few for float64 to see
        return high
    return float(brentq(slope, 0.0, high, xtol=1e-15, rtol=1e-14))  # type: ignore[arg-type]


def _sandwich(measured: _Measured, rate: float, label_rule: LabelRule) -> _Sandwich:
    scale = _scale(measured, rate, label_rule)
    wrong = _wrong(measured, rate, label_rule)
    miss, hit = expit(-scale * measured.size), expit(scale * measured.size)
    score = measured.mean((1 - wrong) * miss**2 + wrong * hit**2)
    return _Sandwich(scale, measured.mean(miss * hit), score)


# --- exponents and floors ------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelExponents:
    """Slopes of log(error) against log(pairs), one a metric. State the metric before quoting a slope.

    angle: between student and gold weights, radians; the share of pairs on which their signs disagree has
        the same slope (angle/pi for Gaussian features).
    loss_on_sampled: temperature-recalibrated excess log-loss on labels drawn from Bradley-Terry.
    loss_on_deterministic: the same on test labels that follow gold's sign, where gold's loss is zero.
    """

    angle: float
    loss_on_sampled: float
    loss_on_deterministic: float


def label_exponents(label_rule: LabelRule, flips: bool) -> LabelExponents:
    """Expected exponents for training labels of ``label_rule``, turned over at random or not.

    Parametric regime: pairs far above parameters, a student that can represent gold, no bias. Labels drawn
    from Bradley-Terry: angle ~ pairs^-1/2 with flips or without, so flips move only the offset. Labels that
    follow gold's sign: ~ pairs^-1 while clean (the separating direction of largest margin, Opper and Kinzel
    1996, "Statistical mechanics of generalization"), ~ pairs^-1/2 with any flips, so quality changes the
    exponent. Sampled test labels see the angle squared; deterministic ones see the angle itself, because
    the best temperature is proportional to it.
    """
    if label_rule not in LABEL_RULES:
        raise ValueError(f"label_rule must be one of {LABEL_RULES}; got {label_rule!r}")
    angle = -1.0 if label_rule == "deterministic" and not flips else -0.5
    return LabelExponents(angle, 2 * angle, angle)


def bias_floor_angle(share: ArrayLike, correlation: float = 0.0) -> Array:
    """Angle (radians) between gold and what infinite data teaches if a share of labels follows an attribute.

    atan(q sqrt(1-r^2) / (1-q + q r)): with q = ``share`` the labels come from the attribute in place of
    gold, by the same rule and at the same scale, and the two have correlation r; at r = 0 atan(q/(1-q)).
    Exact for Gaussian features, by Stein's lemma: the student's weights are proportional to E[features ·
    label], which is the same mixture of the two directions. The student must see the attribute: one that
    cannot takes the bias for random flips, and has no floor. Raises ValueError unless 0 <= share <= 1 and
    -1 < correlation < 1. Shape of ``share``.
    """
    q = np.asarray(share, dtype=np.float64)
    if not np.all((q >= 0) & (q <= 1)) or not -1 < correlation < 1:
        raise ValueError(
            f"share must lie in [0, 1] and correlation in (-1, 1); got {share} and {correlation}"
        )
    return np.arctan2(q * np.sqrt(1 - correlation**2), 1 - q + q * correlation)


def bias_floor_disagreement(share: ArrayLike, correlation: float = 0.0) -> Array:
    """Share of pairs on which that limit and gold disagree: ``bias_floor_angle``/pi (Gaussian features)."""
    return bias_floor_angle(share, correlation) / np.pi


def repeated_pairs(unique: ArrayLike, epochs: ArrayLike, r_star: float) -> Array:
    """Unique pairs that ``epochs`` passes over ``unique`` pairs are worth, D' = U + U R*(1 - exp(-R/R*)).

    R = epochs - 1 repeats, R* = ``r_star`` > 0 the number of repeats whose worth falls by 1/e
    (Muennighoff et al. 2023, arXiv 2305.16264, section 3.1; about 15 for language models there). R* is a
    fitted parameter: a convex student trained to the optimum gains nothing from a repeat (R* -> 0).
    """
    u, repeats = np.asarray(unique, dtype=np.float64), np.asarray(epochs, dtype=np.float64) - 1
    if np.any(u < 0) or np.any(repeats < 0) or not r_star > 0:
        raise ValueError(f"need unique >= 0, epochs >= 1 and r_star > 0; got {unique}, {epochs} and {r_star}")
    return u - u * r_star * np.expm1(-repeats / r_star)
