"""Fits of scaling-law forms: many starts, diagnostics, and a loud failure where the starts disagree.

``fit`` takes arrays and knows nothing of sweeps; ``points`` makes the arrays of a sweep, ``resample`` puts
intervals on what is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardscale.scaling import solver
from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.forms import Form

STARTS = 8
HUBER = 1.345  # robust standard deviations: 95 % efficient for normal errors (Huber 1964)
# Relative: starts that end nearer than this have agreed.
_SAME_VALUE, _SAME_CURVE, _SAME_PARAMETER = 1e-6, 1e-4, 0.02
_RESCALED = 5  # times Huber's delta is taken from the residuals: an outlier makes the first far too wide
_EXACT = 1e-9  # log residuals below this are rounding


class FitError(ScalingError):
    """A form that these data cannot pin down; the message says which and why."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted form.

    Attributes:
      form: what was fitted. parameters: by name, in the units of the form's formula.
      x: inputs, each [n]. y: losses [n]. weight: [n].
      loss: the objective's rho and delta. value: the objective (weighted mean of rho).
      rms: root mean square residual (of log losses: relative), weighted.
      decrement: about how far the objective is above its minimum, relative to it.
      starts, agreed: how many starts were polished, and how many ended at the best optimum.
      at_bound: parameters at an end of their range. notes: what a reader must know, in plain words.
    """

    form: Form
    parameters: dict[str, float]
    x: dict[str, NDArray]
    y: NDArray
    weight: NDArray
    loss: solver.Loss
    value: float
    rms: float
    decrement: float
    starts: int
    agreed: int
    at_bound: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def theta(self) -> NDArray:
        """Parameters [p] in the order of ``form.parameters``."""
        return np.array([self.parameters[name] for name in self.form.parameters])

    def predict(self, x: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """The fitted form at inputs ``x``."""
        return self.form(x, **self.parameters)

    @property
    def residuals(self) -> NDArray[np.float64]:
        """log y - log f (or y - f), [n]."""
        return self.loss.residual(self.y, self.predict(self.x))


def fit(
    form: Form,
    x: Mapping[str, ArrayLike],
    y: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    log: bool = True,
    delta: float | None = None,
    starts: int = STARTS,
) -> Fit:
    """Fits ``form`` to losses ``y`` [n] at inputs ``x`` (each [n]).

    The objective is the weighted mean of Huber's rho of log residuals (plain residuals with ``log=False``).
    ``delta`` is
    where rho turns linear: by default 1.345 robust standard deviations of the least-squares residuals;
      ``np.inf`` is least
    squares, 1e-3 Hoffmann et al. 2022's choice. Variable projection over a grid gives ``starts`` starts, each is
    polished (see ``solver``).

    Raises:
      FitError: losses or inputs that are not finite, losses that are all the same, fewer points or distinct
        inputs than parameters, or starts that end in different optima of nearly the same value.
    """
    arrays, losses, weights = _checked(form, x, y, weight, log)
    problem = solver.Problem(form, arrays, weights, solver.Loss(log))
    first = solver.starts(problem, losses, starts)
    many = np.broadcast_to(losses, (len(first), len(losses)))
    found = solver.polish(problem, many, first)
    for _ in range(1 if delta is not None else _RESCALED):
        bend = _huber(problem, losses, found) if delta is None else delta
        if np.isinf(bend):
            break
        problem = solver.Problem(form, arrays, weights, solver.Loss(log, bend))
        found = solver.polish(problem, many, found.theta)
    best = int(found.value.argmin())
    agreed = _agreed(problem, losses, found, best)
    theta = problem.external(found.theta[best][None])[0]
    at_bound = tuple(name for name, held in zip(form.parameters, found.active[best], strict=True) if held)
    parameters = {name: float(value) for name, value in zip(form.parameters, theta, strict=True)}
    residual = problem.loss.residual(losses, form(arrays, **parameters))
    return Fit(
        form=form,
        parameters=parameters,
        x=arrays,
        y=losses,
        weight=weights,
        loss=problem.loss,
        value=float(found.value[best]),
        rms=float(np.sqrt((problem.weight * residual**2).sum())),
        decrement=float(found.decrement[best] / max(found.value[best], 1e-30)),
        starts=len(first),
        agreed=agreed,
        at_bound=at_bound,
        notes=(*_notes(form, parameters, at_bound, losses), *_loose(problem, found, best)),
    )


def _huber(problem: solver.Problem, y: NDArray, found: solver.Solution) -> float:
    """1.345 robust standard deviations of the best least-squares fit's residuals; infinite where the fit is
    exact."""
    best = found.theta[found.value.argmin()][None]
    residual = problem.loss.residual(y, problem.values(best)[0])
    free = len(y) - problem.m - problem.k
    spread = 1.4826 * np.median(np.abs(residual)) * np.sqrt(len(y) / max(free, 1))
    return float(HUBER * spread) if free > 0 and spread > _EXACT else np.inf


def _agreed(problem: solver.Problem, y: NDArray, found: solver.Solution, best: int) -> int:
    """How many starts reached the best optimum. Raises FitError where another one is as good and says
    something else."""
    values = found.value
    floor = _EXACT**2
    same = values <= values[best] * (1 + _SAME_VALUE) + floor
    curves = problem.values(found.theta)
    size = np.abs(curves[best]) if problem.loss.log else np.ptp(y)
    far = (np.abs(curves - curves[best]) / size).max(-1)
    rivals = same & (
        far > max(_SAME_CURVE, 0.02 * np.sqrt(values[best]) / (1 if problem.loss.log else np.ptp(y)))
    )
    if rivals.any():
        here, there = (_said(problem, found.theta[i]) for i in (best, int(np.flatnonzero(rivals)[0])))
        raise FitError(
            f"{problem.form.name}: different parameters fit equally well ({here}; {there}): the data do "
            "not pin this "
            "form down; fit one with fewer parameters, or add sizes"
        )
    if not np.isfinite(values[best]) or found.decrement[best] > 1e-6 * values[best] + floor:
        raise FitError(
            f"{problem.form.name}: the solver did not converge (decrement {found.decrement[best]:.1e} of "
            "an objective "
            f"of {values[best]:.1e}): the data do not pin this form down"
        )
    if same.sum() < 2 <= len(values):
        others = np.sort(values)[1]
        raise FitError(
            f"{problem.form.name}: only one of {len(values)} starts reached the best optimum found (objective "
            f"{values[best]:.3e}, next {others:.3e}): it may not be the best there is; give more starts, "
            "or fewer parameters"
        )
    return int(same.sum())


def _loose(problem: solver.Problem, found: solver.Solution, best: int) -> list[str]:
    """A note for each parameter that starts disagree on although they ended in the same curve."""
    same = found.value <= found.value[best] * (1 + _SAME_VALUE) + _EXACT**2
    size = np.abs(found.theta[best])
    size[: problem.m] = np.maximum(size[: problem.m], 0.01 * size[: problem.m].max())
    apart = np.ptp(found.theta[same], axis=0) > _SAME_PARAMETER * size
    return [
        f"{name} is not pinned down: starts that end in the same curve disagree on it"
        for name, loose in zip(problem.form.parameters, apart, strict=True)
        if loose
    ]


def _said(problem: solver.Problem, theta: NDArray) -> str:
    values = problem.external(theta[None])[0]
    pairs = zip(problem.form.parameters, values, strict=True)
    return ", ".join(f"{name} {value:.4g}" for name, value in pairs)


def _checked(
    form: Form, x: Mapping[str, ArrayLike], y: ArrayLike, weight: ArrayLike | None, log: bool
) -> tuple[dict[str, NDArray], NDArray, NDArray]:
    absent = [name for name in form.inputs if name not in x]
    if absent:
        raise FitError(f"{form.name} reads the inputs {list(form.inputs)}; {absent} were not given")
    arrays = {name: np.asarray(x[name], np.float64) for name in form.inputs}
    losses = np.asarray(y, np.float64)
    weights = np.ones_like(losses) if weight is None else np.asarray(weight, np.float64)
    for name, values in (*arrays.items(), ("weight", weights)):
        if values.shape != losses.shape or losses.ndim != 1:
            raise FitError(
                f"{name} and y must be 1-D arrays of one length, got {values.shape}, {losses.shape}"
            )
    for name, values in (*arrays.items(), ("y", losses), ("weight", weights)):
        low = -np.inf if name == "level" or (name == "y" and not log) else 0
        bad = ~np.isfinite(values) | (values < low if name == "level" else values <= low)
        if bad.any():
            wanted = "finite numbers" if low else "finite numbers above 0"
            raise FitError(
                f"{name} must hold {wanted}; {values[bad][0]} stands at position {np.flatnonzero(bad)[0]}"
            )
    p = len(form.parameters)
    if len(losses) < p:
        raise FitError(f"{form.name} has {p} parameters, {len(losses)} points are too few for it")
    if np.ptp(losses) <= 1e-12 * np.abs(losses).max():
        raise FitError(f"the {len(losses)} losses are all {losses[0]:.6g}: there is nothing to fit")
    _enough_sizes(form, arrays)
    return arrays, losses, weights


def _enough_sizes(form: Form, x: dict[str, NDArray]) -> None:
    """A power law with a floor needs more distinct sizes than it has parameters, along each axis it has one in."""
    for axis, exponents in (("pairs", ("exponent",)), ("params", ("model_exponent",))):
        names = [name for name in form.parameters if name.startswith(exponents)]
        if axis not in x or not names:
            continue
        levels = x.get("level", np.zeros_like(x[axis]))
        for level in np.unique(levels):
            sizes = len(np.unique(x[axis][levels == level]))
            needed = 4 if "floor" in "".join(form.parameters) else 2
            needed = max(needed, 12 if "break_at" in form.parameters and axis == "pairs" else 0)
            if sizes < needed:
                of = f" of level {level:g}" if "level" in x else ""
                raise FitError(f"{sizes} different {axis}{of}: {form.name} needs at least {needed}")


def _notes(form: Form, parameters: dict[str, float], at_bound: tuple[str, ...], y: NDArray) -> list[str]:
    notes = []
    for name in at_bound:
        if name.startswith("floor"):
            notes.append(f"{name} at 0: the data show no bend")
        elif name in form.linear:
            notes.append(f"{name} at 0: the loss does not fall along that axis")
        else:
            notes.append(f"{name} at the end of its range: not pinned down")
    floors = [
        value for name, value in parameters.items() if name.startswith("floor") and name not in at_bound
    ]
    if floors and max(floors) > 0.999 * y.min():
        notes.append("the floor lies at the lowest loss seen: the curve has all but ended")
    return notes
