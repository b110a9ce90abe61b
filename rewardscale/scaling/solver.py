"""The solver under ``fit``: separable forms to many data sets at once, in float64.

Two steps, both batched over data sets (so that 2,000 resamples cost little more than one fit):

1. *Variable projection* (Golub & Pereyra 1973): for nonlinear parameters on a grid the coefficients are a
linear least
   squares problem, solved exactly under c >= 0. No start for the coefficients is needed, and the condition
   number is that of two exponents, not of five parameters (3.5e11 for Chinchilla's law).
2. *Polish*: Levenberg-Marquardt on log residuals with Huber's loss and bounds, from several of the best grid
points.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from rewardscale.scaling.forms import Form, Inputs

_COMPLEX_STEP = 1e-20
_GRID = {1: 200, 2: 36, 3: 13}  # points a dimension; more dimensions: a Sobol sequence
_SOBOL = 2048
_MOST_ITERATIONS = 300
_DONE = 1e-13  # Newton decrement, relative to the objective


@dataclass(frozen=True)
class Loss:
    """What is minimised: sum_i w_i rho(r_i) with r = log y - log f ("log") or (y - f) / scale ("squared").

    ``delta``: rho is Huber's, quadratic up to this residual; infinite for least squares.
    """

    log: bool = True
    delta: float = np.inf

    def residual(self, y: NDArray, f: NDArray) -> NDArray:
        return np.log(y) - np.log(f) if self.log else y - f

    def value(self, r: NDArray) -> NDArray:
        """rho(r), elementwise."""
        size = np.abs(r)
        if np.isinf(self.delta):
            return r**2 / 2
        return np.where(size <= self.delta, r**2 / 2, self.delta * (size - self.delta / 2))

    def weight(self, r: NDArray) -> NDArray:
        """rho'(r) / r, elementwise: 1 inside delta, delta / |r| outside."""
        if np.isinf(self.delta):
            return np.ones_like(r)
        return np.minimum(1.0, self.delta / np.maximum(np.abs(r), 1e-300))


@dataclass(frozen=True)
class Solution:
    """Optima of R problems with p = m + k parameters (m coefficients, then k nonlinear ones).

    Attributes:
      theta: [R, p]. value: objective [R].
      decrement: [R], half the squared Newton decrement: about how far above the minimum the objective is.
      active: bool [R, p], parameters held at a bound.
      influence: [R, p, n], d theta / d y, the weights of Huber's loss held fixed (0 for held parameters).
    """

    theta: NDArray
    value: NDArray
    decrement: NDArray
    active: NDArray
    influence: NDArray


class Problem:
    """A form at given inputs, with each term counted in units of its geometric mean over the points it touches.

    So all internal coefficients are of the order of the losses, whatever the exponents are.
    """

    def __init__(self, form: Form, x: Inputs, weight: NDArray, loss: Loss):
        self.form, self.x, self.loss = form, x, loss
        self.weight = weight / weight.sum()
        self.m, self.k = len(form.linear), len(form.nonlinear)
        self.low = np.array([0.0 if form.nonnegative else -np.inf] * self.m + [p.low for p in form.nonlinear])
        self.high = np.array([np.inf] * self.m + [p.high for p in form.nonlinear])

    def terms(self, eta: NDArray) -> NDArray:
        """Terms in their own units, eta [..., k] -> [..., n, m]."""
        here = self._basis(eta)
        return here / _sizes(here)[..., None, :]

    def units(self, eta: NDArray) -> NDArray:
        """The unit of each coefficient, [..., m]."""
        return _sizes(self._basis(eta))

    def _basis(self, eta: NDArray) -> NDArray:
        """The form's terms [..., n, m]; those that no nonlinear parameter enters are the same for every eta."""
        terms = [np.asarray(term) for term in self.form.basis(self.x, eta)]
        return np.stack([np.broadcast_to(t, (*eta.shape[:-1], t.shape[-1])) for t in terms], -1)

    def values(self, theta: NDArray) -> NDArray:
        """The form [R, n] at theta [R, p] (coefficients in internal units)."""
        return np.einsum("rnm,rm->rn", self.terms(theta[:, self.m :]), theta[:, : self.m])

    def jacobian(self, theta: NDArray) -> tuple[NDArray, NDArray]:
        """Values [R, n] and derivatives [R, n, p], those in eta by complex steps (exact to rounding)."""
        eta = theta[:, self.m :]
        terms = self.terms(eta)
        columns = [terms]
        for k in range(self.k):
            step = eta.astype(np.complex128)
            step[:, k] += 1j * _COMPLEX_STEP
            moved = np.imag(self.terms(step)) / _COMPLEX_STEP
            columns.append(np.einsum("rnm,rm->rn", moved, theta[:, : self.m])[..., None])
        return np.einsum("rnm,rm->rn", terms, theta[:, : self.m]), np.concatenate(columns, -1)

    def external(self, theta: NDArray) -> NDArray:
        """Coefficients in the form's own units."""
        out = theta.copy()
        out[:, : self.m] /= self.units(theta[:, self.m :])
        return out

    def internal(self, theta: NDArray) -> NDArray:
        """The inverse of ``external``."""
        out = theta.copy()
        out[:, : self.m] *= self.units(theta[:, self.m :])
        return out


def _sizes(terms: NDArray) -> NDArray:
    """Geometric mean [..., m] of |terms| [..., n, m] where they are not 0; analytic, so that complex steps pass."""
    touched = np.abs(terms) > 1e-300
    logs = np.log(np.where(touched, terms * np.where(np.real(terms) < 0, -1.0, 1.0), 1.0))
    return np.exp(logs.sum(-2) / np.maximum(touched.sum(-2), 1))


def candidates(form: Form) -> NDArray:
    """Nonlinear parameters to try, [S, k]: a grid up to three of them, a Sobol sequence beyond."""
    k = len(form.nonlinear)
    if k == 0:
        return np.zeros((1, 0))
    if k in _GRID:
        shares = np.array(list(itertools.product(*[np.linspace(0, 1, _GRID[k])] * k)))
    else:
        shares = qmc.Sobol(k, rng=0).random(_SOBOL)
    return np.stack([p.at(shares[:, i]) for i, p in enumerate(form.nonlinear)], -1)


def project(problem: Problem, eta: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Variable projection: for each eta [S, k] the best coefficients [S, m] and the cost [S] for y [n].

    Weighted least squares on relative residuals (f / y - 1), which is what log residuals are to first order.
    """
    scale = np.sqrt(problem.weight) / (np.abs(y) if problem.loss.log else 1.0)
    design, target = problem.terms(eta) * scale[:, None], y * scale
    gram = np.einsum("snm,snl->sml", design, design)
    moment = np.einsum("snm,n->sm", design, target)
    best = np.full(len(eta), np.inf)
    coefficients = np.zeros((len(eta), problem.m))
    for chosen in _supports(problem.m, problem.form.nonnegative):
        part = np.ix_(range(len(eta)), chosen, chosen)
        ridge = 1e-13 * np.trace(gram[part], axis1=1, axis2=2)[:, None, None] * np.eye(len(chosen))
        c = np.linalg.solve(gram[part] + ridge, moment[:, chosen][..., None])[..., 0]
        full = np.zeros_like(coefficients)
        full[:, chosen] = np.maximum(c, 0) if problem.form.nonnegative else c
        cost = ((np.einsum("snm,sm->sn", design, full) - target) ** 2).sum(-1)
        better = cost < best
        best[better], coefficients[better] = cost[better], full[better]
    return coefficients, best


def _supports(m: int, nonnegative: bool) -> list[list[int]]:
    """Sets of coefficients that may be above 0: all of them for few, else everything and single ones left out."""
    if not nonnegative:
        return [list(range(m))]
    if m <= 4:
        return [list(s) for size in range(m, 0, -1) for s in itertools.combinations(range(m), size)]
    everything = list(range(m))
    return [everything, *([i for i in everything if i != out] for out in everything)]


def starts(problem: Problem, y: NDArray, count: int) -> NDArray:
    """The ``count`` best grid points [count, p] for y [n] that are not neighbours of each other."""
    eta = candidates(problem.form)
    coefficients, cost = project(problem, eta, y)
    spread = np.log(eta) if problem.k else eta
    picked: list[int] = []
    for index in np.argsort(cost, kind="stable"):
        if all(np.abs(spread[index] - spread[other]).max(initial=0) > 0.3 for other in picked):
            picked.append(int(index))
        if len(picked) == count:
            break
    positive = coefficients[picked]
    if problem.form.nonnegative:  # a start on a bound would have to find its way off it
        positive = np.maximum(positive, 1e-3 * np.abs(y).mean())
    return np.concatenate([positive, eta[picked]], -1)


def polish(problem: Problem, y: NDArray, theta: NDArray) -> Solution:
    """Levenberg-Marquardt from theta [R, p] for y [R, n]; stays within bounds, batched over R."""
    theta = np.clip(theta, problem.low, problem.high)
    value = _objective(problem, y, theta)
    damping = np.full(len(theta), 1e-3)
    decrement = np.full(len(theta), np.inf)
    open_ = np.arange(len(theta))
    for _ in range(_MOST_ITERATIONS):
        at, target = theta[open_], y[open_]
        gradient, hessian, free = _model(problem, target, at)
        decrement[open_] = _decrement(gradient, hessian, free)
        trial = np.clip(at + _step(gradient, hessian, free, damping[open_]), problem.low, problem.high)
        reached = _objective(problem, target, trial)
        better = reached < value[open_]
        theta[open_] = np.where(better[:, None], trial, at)
        gained = np.where(better, value[open_] - reached, 0.0)
        value[open_] = np.where(better, reached, value[open_])
        damping[open_] = np.where(better, damping[open_] / 10, damping[open_] * 10).clip(1e-15, 1e16)
        small = decrement[open_] <= _DONE * value[open_] + 1e-32
        stuck = ~better & (damping[open_] >= 1e12)
        idle = better & (gained <= 1e-16 * value[open_]) & (damping[open_] <= 1e-14)
        open_ = open_[~(small | stuck | idle)]
        if len(open_) == 0:
            break
    gradient, hessian, free = _model(problem, y, theta)
    return Solution(
        theta, value, _decrement(gradient, hessian, free), ~free, _influence(problem, y, theta, hessian, free)
    )


def _objective(problem: Problem, y: NDArray, theta: NDArray) -> NDArray:
    f = problem.values(theta)
    if not problem.loss.log:
        return (problem.weight * problem.loss.value(problem.loss.residual(y, f))).sum(-1)
    valid = (f > 0).all(-1)
    r = problem.loss.residual(y, np.where(f > 0, f, 1.0))
    return np.where(valid, (problem.weight * problem.loss.value(r)).sum(-1), np.inf)


def _slopes(problem: Problem, y: NDArray, theta: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Residuals, their Huber weights and the derivatives of log f (or f): [R, n], [R, n], [R, n, p]."""
    f, jacobian = problem.jacobian(theta)
    r = problem.loss.residual(y, f)
    if problem.loss.log:
        jacobian = jacobian / f[..., None]
    return r, problem.weight * problem.loss.weight(r), jacobian


def _model(problem: Problem, y: NDArray, theta: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Gradient [R, p], Gauss-Newton Hessian [R, p, p] and which parameters are free [R, p]."""
    r, w, jacobian = _slopes(problem, y, theta)
    gradient = -np.einsum("rnp,rn->rp", jacobian, w * r)
    hessian = np.einsum("rnp,rn,rnq->rpq", jacobian, w, jacobian)
    held = ((theta <= problem.low) & (gradient > 0)) | ((theta >= problem.high) & (gradient < 0))
    return gradient, hessian, ~held


def _masked(hessian: NDArray, free: NDArray, damping: NDArray | float) -> NDArray:
    """The Hessian on free parameters (identity on the others), its diagonal raised by ``damping`` of itself."""
    both = free[:, :, None] & free[:, None, :]
    out = np.where(both, hessian, 0.0)
    diagonal = np.einsum("rpp->rp", out)
    floor = 1e-14 * diagonal.max(-1, keepdims=True) + 1e-300
    raised = np.where(free, diagonal * (1 + np.reshape(damping, (-1, 1))) + floor, 1.0)
    index = np.arange(hessian.shape[-1])
    out[:, index, index] = raised
    return out


def _solve(matrix: NDArray, right: NDArray) -> NDArray:
    """Solves with the rows and columns scaled to a unit diagonal: parameters may differ by many orders."""
    scale = 1 / np.sqrt(np.einsum("rpp->rp", matrix))
    scaled = matrix * scale[:, :, None] * scale[:, None, :]
    return np.linalg.solve(scaled, right * scale[..., None]) * scale[..., None]


def _step(gradient: NDArray, hessian: NDArray, free: NDArray, damping: NDArray) -> NDArray:
    right = np.where(free, -gradient, 0.0)[..., None]
    return _solve(_masked(hessian, free, damping), right)[..., 0]


def _decrement(gradient: NDArray, hessian: NDArray, free: NDArray) -> NDArray:
    g = np.where(free, gradient, 0.0)
    return 0.5 * np.abs((g * _solve(_masked(hessian, free, 1e-12), g[..., None])[..., 0]).sum(-1))


def _influence(problem: Problem, y: NDArray, theta: NDArray, hessian: NDArray, free: NDArray) -> NDArray:
    """d theta / d y [R, p, n] by the implicit function theorem, for the internal parameters."""
    _, w, jacobian = _slopes(problem, y, theta)
    right = np.einsum("rnp,rn->rpn", jacobian, w / y if problem.loss.log else w)
    right = np.where(free[..., None], right, 0.0)
    return _solve(_masked(hessian, free, 0.0), right)


Transform = Callable[[NDArray], NDArray]


def transformed(function: Transform, theta: NDArray, influence: NDArray) -> tuple[NDArray, NDArray]:
    """function(theta) [R, s] and its derivative in y [R, s, n], by central differences through theta."""
    value = function(theta)
    out = np.zeros((*value.shape, influence.shape[-1]))
    for p in range(theta.shape[1]):
        step = 1e-6 * np.maximum(np.abs(theta[:, p]), 1e-6)
        up, down = theta.copy(), theta.copy()
        up[:, p] += step
        down[:, p] -= step
        with np.errstate(invalid="ignore"):  # of what is infinite the slope is NaN, as its interval is to be
            slope = (function(up) - function(down)) / (2 * step)[:, None]
        out += slope[..., None] * influence[:, p, None, :]
    return value, out
