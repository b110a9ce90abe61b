"""Scaling-law forms: what is fitted, each with its formula and its source.

Every form here is *separable*: given its few nonlinear parameters (exponents, break points) it is linear in the
rest, L = sum_j c_j basis_j(x; eta). ``fit`` searches over eta alone and solves for c exactly (variable
projection, Golub & Pereyra 1973), so that no start can stall as the usual fits of Chinchilla's law do.

D is the number of pairs trained on, N the number of parameters, L a loss in nats a pair. E is the floor that no
amount of data gets under, A, B >= 0 are scales of reducible parts, alpha, beta > 0 exponents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Inputs = Mapping[str, NDArray]
Basis = Callable[[Inputs, NDArray], list[NDArray]]

POWER_LAW = "L(D) = E + B · D^−β"


@dataclass(frozen=True)
class Nonlinear:
    """A parameter that the loss is not linear in; searched from ``low`` to ``high``, on a log grid if ``log``."""

    name: str
    low: float
    high: float
    log: bool = True

    def at(self, share: NDArray) -> NDArray:
        """Values at shares (0 to 1) of the range."""
        if self.log:
            return self.low * (self.high / self.low) ** share
        return self.low + (self.high - self.low) * share


EXPONENT = (0.02, 4.0)
# Without a floor a loss that hardly falls, as of answers without their question, has an exponent of some thousandths.
FLOORLESS_EXPONENT = (1e-4, 4.0)


@dataclass(frozen=True, eq=False)
class Form:
    """A separable form.

    Attributes:
      name, formula, source: what it is called, what it says, where it is from.
      inputs: names of the arrays it reads: "pairs", "params", "quality", "epochs", "level", "distance".
      linear: names of the coefficients c_j. nonlinear: the parameters eta_k.
      basis: (inputs of shape [n], eta [..., k]) -> one array [..., n] a coefficient.
      nonnegative: whether the c_j must be >= 0.
    """

    name: str
    formula: str
    source: str
    inputs: tuple[str, ...]
    linear: tuple[str, ...]
    nonlinear: tuple[Nonlinear, ...]
    basis: Basis = field(repr=False)
    nonnegative: bool = True

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters: linear ones, then nonlinear ones."""
        return self.linear + tuple(p.name for p in self.nonlinear)

    def __call__(self, x: Mapping[str, ArrayLike], **parameters: float) -> NDArray[np.float64]:
        """The form's value at inputs ``x`` for these parameters; shape of the inputs."""
        arrays = {name: np.asarray(x[name], np.float64) for name in self.inputs}
        eta = np.array([parameters[p.name] for p in self.nonlinear], np.float64)
        terms = self.basis(arrays, eta)
        return np.asarray(sum(parameters[name] * term for name, term in zip(self.linear, terms, strict=True)))

    def fixed(self, **values: float) -> Form:
        """The same form with these nonlinear parameters known."""
        unknown = [name for name in values if name not in [p.name for p in self.nonlinear]]
        if unknown:
            raise ValueError(f"{self.name} has no nonlinear parameter {unknown}; it has {self.nonlinear}")
        free = [k for k, p in enumerate(self.nonlinear) if p.name not in values]

        def basis(x: Inputs, eta: NDArray) -> list[NDArray]:
            whole = np.empty((*eta.shape[:-1], len(self.nonlinear)), eta.dtype)
            for k, p in enumerate(self.nonlinear):
                whole[..., k] = eta[..., free.index(k)] if k in free else values[p.name]
            return self.basis(x, whole)

        said = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        return replace(
            self,
            name=f"{self.name} ({said})",
            formula=f"{self.formula}, {said}",
            nonlinear=tuple(self.nonlinear[k] for k in free),
            basis=basis,
        )


def _power(values: NDArray, exponent: NDArray) -> NDArray:
    """values^-exponent for values [n] and exponent [...]: [..., n]; complex exponents differentiate."""
    return np.exp(-np.log(values) * exponent[..., None])


def _one(values: NDArray, eta: NDArray) -> NDArray:
    return np.ones((*eta.shape[:-1], len(values)), eta.dtype)


POWER = Form(
    "power law",
    "L(D) = B · D^−β",
    "Hestness et al. 2017, arXiv 1712.00409; for data whose floor is known to be 0",
    ("pairs",),
    ("scale",),
    (Nonlinear("exponent", *FLOORLESS_EXPONENT),),
    lambda x, eta: [_power(x["pairs"], eta[..., 0])],
)
POWER_FLOOR = Form(
    "power law with a floor",
    POWER_LAW,
    "Hestness et al. 2017; at one model size, Hoffmann et al. 2022 (A·N^−α is then part of E)",
    ("pairs",),
    ("floor", "scale"),
    (Nonlinear("exponent", *EXPONENT),),
    lambda x, eta: [_one(x["pairs"], eta), _power(x["pairs"], eta[..., 0])],
)
MODEL_POWER_FLOOR = Form(
    "power law in model size with a floor",
    "L(N) = E + A · N^−α",
    "Hoffmann et al. 2022 at one data size",
    ("params",),
    ("floor", "model_scale"),
    (Nonlinear("model_exponent", *EXPONENT),),
    lambda x, eta: [_one(x["params"], eta), _power(x["params"], eta[..., 0])],
)
CHINCHILLA = Form(
    "Chinchilla",
    "L(N, D) = E + A · N^−α + B · D^−β",
    "Hoffmann et al. 2022, arXiv 2203.15556, equation 2",
    ("params", "pairs"),
    ("floor", "model_scale", "scale"),
    (Nonlinear("model_exponent", *EXPONENT), Nonlinear("exponent", *EXPONENT)),
    lambda x, eta: [
        _one(x["pairs"], eta),
        _power(x["params"], eta[..., 0]),
        _power(x["pairs"], eta[..., 1]),
    ],
)
QUALITY_EFFECTIVE = Form(
    "quality-effective data",
    "L(D, Q) = E + B · D^−β · Q^−γ",
    "Subramanyam et al. 2025, arXiv 2510.03313 (without its term in N); Q is a known quality in (0, 1]",
    ("pairs", "quality"),
    ("floor", "scale"),
    (Nonlinear("exponent", *EXPONENT), Nonlinear("quality_exponent", *EXPONENT)),
    lambda x, eta: [
        _one(x["pairs"], eta),
        _power(x["pairs"], eta[..., 0]) * _power(x["quality"], eta[..., 1]),
    ],
)
QUALITY_EFFECTIVE_TIED = Form(
    "effective pairs",
    "L(D, Q) = E + B · (Q · D)^−β",
    "Subramanyam et al. 2025 with γ = β: a pair of quality Q counts as Q pairs; with Q = (1 − 2η)² the theory of flips",
    ("pairs", "quality"),
    ("floor", "scale"),
    (Nonlinear("exponent", *EXPONENT),),
    lambda x, eta: [_one(x["pairs"], eta), _power(x["pairs"] * x["quality"], eta[..., 0])],
)
QUALITY_CHINCHILLA = Form(
    "Chinchilla with quality-effective data",
    "L(N, D, Q) = E + A · N^−α + B · D^−β · Q^−γ",
    "Subramanyam et al. 2025, arXiv 2510.03313, equation 1",
    ("params", "pairs", "quality"),
    ("floor", "model_scale", "scale"),
    (
        Nonlinear("model_exponent", *EXPONENT),
        Nonlinear("exponent", *EXPONENT),
        Nonlinear("quality_exponent", *EXPONENT),
    ),
    lambda x, eta: [
        _one(x["pairs"], eta),
        _power(x["params"], eta[..., 0]),
        _power(x["pairs"], eta[..., 1]) * _power(x["quality"], eta[..., 2]),
    ],
)


def repeated(unique: NDArray, epochs: NDArray, half_life: NDArray) -> NDArray:
    """Effective data D' = U + U R* (1 - exp(-R / R*)) with R = epochs - 1 repeats (Muennighoff et al. 2023, eq. 5).

    ``half_life`` is R*, [...]; result [..., n].
    """
    r = half_life[..., None]
    return unique * (1 + r * (1 - np.exp(-(epochs - 1) / r)))


REPEATS = Form(
    "repeated data",
    "L(U, R) = E + B · D′^−β, D′ = U + U·R*·(1 − exp(−R/R*))",
    "Muennighoff et al. 2023, arXiv 2305.16264, equation 5; U unique pairs, R = epochs − 1",
    ("pairs", "epochs"),
    ("floor", "scale"),
    (Nonlinear("exponent", *EXPONENT), Nonlinear("repeat_half_life", 0.3, 300.0)),
    lambda x, eta: [
        _one(x["pairs"], eta),
        np.exp(-np.log(repeated(x["pairs"], x["epochs"], eta[..., 1])) * eta[..., :1]),
    ],
)


def one_break(low: float, high: float) -> Form:
    """Broken neural scaling law with one break between ``low`` and ``high`` pairs: three regimes of a loss.

    Needs at least 12 sizes: it has six parameters.
    """

    def basis(x: Inputs, eta: NDArray) -> list[NDArray]:
        before, after, place, sharp = (eta[..., k, None] for k in range(4))
        logs = np.log(x["pairs"])
        bend = np.log1p(np.exp((logs - np.log(place)) / sharp))
        return [_one(x["pairs"], eta), np.exp(-before * logs - after * sharp * bend)]

    return Form(
        "power law with one break",
        "L(D) = E + B · D^−c0 · (1 + (D/d)^(1/f))^(−c1·f)",
        "Caballero et al. 2023, arXiv 2210.14891, equation 1 with n = 1",
        ("pairs",),
        ("floor", "scale"),
        (
            Nonlinear("exponent_before", 1e-3, 3.0),
            Nonlinear("exponent_after", 1e-3, 4.0),
            Nonlinear("break_at", low, high),
            Nonlinear("sharpness", 0.05, 2.0),
        ),
        basis,
    )


BEST_OF_N = Form(
    "best-of-n",
    "R(d) = d · (α − β·d), d = √KL",
    "Gao, Schulman & Hilton 2022, arXiv 2210.10760, section 3.1",
    ("distance",),
    ("gain", "over_optimisation"),
    (),
    lambda x, eta: [x["distance"], -(x["distance"] ** 2)],
    nonnegative=False,
)
RL = Form(
    "reinforcement learning",
    "R(d) = d · (α − β·log d), d = √KL",
    "Gao, Schulman & Hilton 2022, arXiv 2210.10760, section 3.1; slope infinite at 0, as its authors say",
    ("distance",),
    ("gain", "over_optimisation"),
    (),
    lambda x, eta: [x["distance"], -x["distance"] * np.log(x["distance"])],
    nonnegative=False,
)

NESTED = ("shared", "offset", "floor", "floor and offset", "exponent", "all")


def by_level(kind: str, levels: int) -> Form:
    """Curves of several levels that share parameters; the input "level" numbers each point's level from 0.

    kind: "shared" one curve for all; "offset" B_q a level (a constant exchange rate); "floor" E_q a level (no
    number of pairs makes up for it); "floor and offset" both; "exponent" B_q and β_q a level (an exchange rate
    that changes with scale); "all" every parameter. "shared" is nested in every other, each in "all", "offset"
    and "floor" in "floor and offset", "offset" in "exponent".
    """
    if kind not in NESTED:
        raise ValueError(f"kind={kind!r}: must be one of {NESTED}")
    floors = levels if kind in ("floor", "floor and offset", "all") else 1
    scales = levels if kind in ("offset", "floor and offset", "exponent", "all") else 1
    exponents = levels if kind in ("exponent", "all") else 1

    def basis(x: Inputs, eta: NDArray) -> list[NDArray]:
        level = x["level"].astype(int)
        beta = eta[..., level] if exponents > 1 else eta[..., :1]
        decay = np.exp(-np.log(x["pairs"]) * beta)
        one = np.ones_like(decay)
        return [
            *(one * (level == q) if floors > 1 else one for q in range(floors)),
            *(decay * (level == q) if scales > 1 else decay for q in range(scales)),
        ]

    def names(stem: str, count: int) -> tuple[str, ...]:
        return tuple(f"{stem}_{q}" for q in range(count)) if count > 1 else (stem,)

    e, b, beta = (f"{s}{'_q' if c > 1 else ''}" for s, c in (("E", floors), ("B", scales), ("β", exponents)))
    return Form(
        kind,
        f"L_q(D) = {e} + {b} · D^−{beta}",
        "nested models of Hoffmann et al. 2022's term in D",
        ("pairs", "level"),
        names("floor", floors) + names("scale", scales),
        tuple(Nonlinear(name, *EXPONENT) for name in names("exponent", exponents)),
        basis,
    )


def power_law(pairs: ArrayLike, floor: float, scale: float, exponent: float) -> NDArray[np.float64]:
    """L(D) = E + B D^-beta, elementwise; same shape as ``pairs``, nats a pair."""
    return floor + scale * np.asarray(pairs, dtype=np.float64) ** -exponent


def pairs_at(loss: ArrayLike, floor: float, scale: float, exponent: float) -> NDArray[np.float64]:
    """The inverse, D(L) = (B / (L - E))^(1/beta); infinite where L <= E, which no amount of pairs reaches."""
    above = np.asarray(loss, dtype=np.float64) - floor
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(above > 0, (scale / np.where(above > 0, above, np.nan)) ** (1 / exponent), np.inf)
