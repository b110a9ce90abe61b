"""Do levels of quality differ by an exchange rate, by a floor, or by an exponent?

Nested forms of L_q(D) = E_q + B_q D^-beta_q are fitted to all levels at once and tested against each other
(``nested``), with Holm's correction, and with the largest sizes held out. What is concluded needs both: an
information criterion alone finds floors in data that have none (AICc is reported and decides nothing). Each
level is fitted alone too, on the same resamples, so that differences of exponents are paired; "equal" is said
only where an equivalence test (TOST, Schuirmann 1987) says so. Not rejecting is not equality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rewardscale.scaling import forms, nested, resample
from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.fit import Fit, FitError, fit
from rewardscale.scaling.forms import NESTED, POWER_FLOOR, Form
from rewardscale.scaling.holdout import held_out_error, split
from rewardscale.scaling.nested import NestedTest
from rewardscale.scaling.points import Points

BOTH = "floor and offset"  # E_q and B_q a level, one exponent
KINDS = NESTED
EFFECTIVE, QUALITY = forms.QUALITY_EFFECTIVE_TIED.name, forms.QUALITY_EFFECTIVE.name
TESTS = (  # null, the kind that contains it, what rejecting the null would say
    ("shared", "offset", "do the levels differ at all?"),
    ("offset", BOTH, "floors beyond an exchange rate?"),
    ("floor", BOTH, "an exchange rate beyond floors?"),
    ("offset", "exponent", "exponents beyond an exchange rate?"),
    (BOTH, "all", "exponents beyond floors?"),
    ("exponent", "all", "floors beyond exponents?"),
)
CONTAINED_IN = {
    "shared": ("offset", "floor", BOTH, "exponent", "all"),
    "offset": (BOTH, "exponent", "all"),
    "floor": (BOTH, "all"),
    BOTH: ("all",),
    "exponent": ("all",),
    "all": (),
}
GAMMA_TEST = (EFFECTIVE, QUALITY, "does quality count otherwise than as a share of pairs (γ ≠ β)?")
LEAST_SIZES = 4
MARGIN = 0.03
SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)
class Comparison:
    """What ``compare_levels`` found.

    Attributes:
      levels: names, numbered as in the forms. base: the level that others are compared with. margin: of equivalence.
      fits: kind -> joint fit (``KINDS``; with a quality also "effective pairs", γ = β, and "quality-effective data").
      tests: see ``nested.NestedTest``; p_holm is over all of them.
      aicc: kind -> AICc, for the record. holdout: kind -> mean relative error at the largest sizes, hidden.
      chosen: the smallest kind that no test (p_holm < 0.05) together with held-out error speaks against;
        None under 5 draws.
      reason: why, in words.
      parameters: level, parameter (floor, scale, exponent), estimate, low, high (95 %), note; every level
        fitted alone.
      differences: level, base, estimate of exponent minus the base's, low, high (90 %), verdict ("equivalent": these
        inside ±margin, a difference too small to matter; "different": 0 outside the 95 % interval; else
        "undecided"), note.
      lack_of_fit: level -> p-value of the level's own curve against free means (None under 5 draws).
      notes: what a reader must know.
    """

    levels: tuple[str, ...]
    base: str
    margin: float
    fits: dict[str, Fit]
    tests: tuple[NestedTest, ...]
    aicc: dict[str, float]
    holdout: dict[str, float]
    chosen: str | None
    reason: str
    parameters: pl.DataFrame
    differences: pl.DataFrame
    lack_of_fit: dict[str, float | None]
    notes: tuple[str, ...]


def form_of(kind: str, levels: int) -> Form:
    """The form of a kind: those of ``forms.by_level``, and the two that read a quality."""
    if kind in (EFFECTIVE, QUALITY):
        return forms.QUALITY_EFFECTIVE_TIED if kind == EFFECTIVE else forms.QUALITY_EFFECTIVE
    return forms.by_level(kind, levels)


def compare_levels(
    points: Points,
    *,
    quality: Mapping[str, float] | None = None,
    base: str | None = None,
    margin: float = MARGIN,
    factor: float = 4.0,
    resamples: int = 500,
    seed: int = 0,
) -> Comparison:
    """Compares the levels of one curve in pairs each (see ``Comparison``); least squares of log losses throughout.

    Args:
      points: one family and one model size, two levels or more at the same sizes; ``points.table["level"]``
      names them.
      quality: level -> Q in (0, 1], a share of pairs that the level's pair is worth, e.g. (1 - 2η)² for flips
      at rate η.
      base: by default "raw" where there is one, else the first level.
      factor: how much of the sizes to hold out.
      resamples: of tests and intervals; p-values are multiples of 1 / (resamples + 1).

    Raises:
      ScalingError: one level only, levels with different sizes, several model sizes, fewer than 4 sizes,
        qualities or a base that don't match. FitError: a level's own curve that cannot be fitted.
    """
    levels, base = _levels(points, base)
    points = _numbered(points, levels, quality)
    alone = fit_alone(points, levels)
    kinds = [*KINDS, *((EFFECTIVE, QUALITY) if quality is not None else ())]
    fits, notes = _joint_fits(points, kinds, alone)
    tests = _tests(points, fits, resamples, seed)
    hidden, said = _held_out(points, fits, len(levels), factor)
    chosen, reason = choose(tests, hidden, fits)
    resampled = resample.resample(points, _alone_statistic(points, alone), resamples=resamples, seed=seed)
    return Comparison(
        levels=levels,
        base=base,
        margin=margin,
        fits=fits,
        tests=tests,
        aicc={kind: aicc(found) for kind, found in fits.items()},
        holdout=hidden,
        chosen=chosen,
        reason=reason,
        parameters=_parameters(levels, resampled),
        differences=exponent_differences(points, alone, base, margin=margin, resamples=resamples, seed=seed),
        lack_of_fit={q: _own_lack(points, alone[q], i, resamples, seed) for i, q in enumerate(levels)},
        notes=tuple(notes + said),
    )


def _levels(points: Points, base: str | None) -> tuple[tuple[str, ...], str]:
    if "level" not in points.table.columns:
        raise ScalingError(
            "these points name no levels: make them with points(sweep), or give a table with 'level'"
        )
    levels = tuple(dict.fromkeys(points.table["level"].to_list()))
    if len(levels) < 2:
        which = f"only one level, {levels[0]!r}" if levels else "no level with a point"
        raise ScalingError(f"{which}: a comparison needs two or more")
    for name in ("family", "params"):
        if name in points.table.columns and points.table[name].n_unique() > 1:
            found = points.table[name].unique().sort().to_list()
            raise ScalingError(
                f"these points hold several values of {name}, {found}: choose one with points(sweep, ...)"
            )
    names = points.table["level"].to_numpy()
    sizes = {q: points.x["pairs"][names == q] for q in levels}
    for q, own in sizes.items():
        if len(np.unique(own)) != len(own):
            raise ScalingError(f"level {q!r} has a size twice: choose one model and one family")
        apart = sorted(set(own) ^ set(sizes[levels[0]]))
        if apart:
            raise ScalingError(
                f"levels {levels[0]!r} and {q!r} differ in the sizes {', '.join(f'{d:,.0f}' for d in apart)}: "
                "select those that all levels have"
            )
    if len(sizes[levels[0]]) < LEAST_SIZES:
        raise ScalingError(
            f"{len(sizes[levels[0]])} sizes a level; a curve with a floor needs at least {LEAST_SIZES}"
        )
    if base is not None and base not in levels:
        raise ScalingError(f"base={base!r} is none of the levels {list(levels)}")
    return levels, base or ("raw" if "raw" in levels else levels[0])


def _numbered(points: Points, levels: tuple[str, ...], quality: Mapping[str, float] | None) -> Points:
    names = points.table["level"].to_list()
    points = points.with_inputs(level=[levels.index(q) for q in names])
    if quality is None:
        return points
    absent = [q for q in levels if q not in quality]
    if absent or not all(0 < quality[q] <= 1 for q in levels):
        raise ScalingError(
            f"quality must give each of {list(levels)} a number in (0, 1]; got {dict(quality)}"
        )
    return points.with_inputs(quality=[quality[q] for q in names])


def fit_alone(points: Points, levels: Sequence[str], form: Form = POWER_FLOOR) -> dict[str, Fit]:
    """level -> its own least-squares fit. Raises FitError with the level's name."""
    out = {}
    for q in levels:
        own = points.select(points.table["level"].to_numpy() == q)
        try:
            out[q] = fit(form, own.x, own.mean, delta=np.inf)
        except FitError as error:
            raise FitError(f"level {q!r}: {error}") from None
    return out


def _joint_fits(
    points: Points, kinds: Sequence[str], alone: Mapping[str, Fit]
) -> tuple[dict[str, Fit], list[str]]:
    """Fits by kind; a kind that cannot be pinned down is left out, with a note."""
    fits, notes = {}, []
    for kind in kinds:
        if kind == "all":
            fits[kind] = _together(points, list(alone.values()))
            continue
        try:
            fits[kind] = fit(form_of(kind, len(alone)), points.x, points.mean, delta=np.inf)
        except FitError as error:
            notes.append(f"{kind!r} left out: {error}")
    return fits, notes


def _together(points: Points, alone: Sequence[Fit]) -> Fit:
    """The fit of kind "all": nothing is shared, so it is every level's own fit."""
    share = np.array([len(one.y) for one in alone]) / len(points)
    form = form_of("all", len(alone))
    stems = POWER_FLOOR.parameters
    values = {f"{stem}_{q}": one.parameters[stem] for stem in stems for q, one in enumerate(alone)}
    value = float(share @ [one.value for one in alone])
    return Fit(
        form=form,
        parameters={name: values[name] for name in form.parameters},
        x={name: points.x[name] for name in form.inputs},
        y=points.mean,
        weight=np.ones(len(points)),
        loss=alone[0].loss,
        value=value,
        rms=float(np.sqrt(2 * value)),
        decrement=max(one.decrement for one in alone),
        starts=min(one.starts for one in alone),
        agreed=min(one.agreed for one in alone),
        at_bound=tuple(f"{name}_{q}" for q, one in enumerate(alone) for name in one.at_bound),
        notes=tuple(f"level {q}: {note}" for q, one in enumerate(alone) for note in one.notes),
    )


def aicc(found: Fit) -> float:
    """Akaike's criterion with the small-sample correction (Hurvich & Tsai 1989), normal errors of log losses;
    infinite where there are too few points. It takes points as independent, which they are not.
    """
    n, k = len(found.y), len(found.form.parameters) + 1
    if n - k - 1 <= 0 or found.value <= 0:
        return float("inf")
    return float(n * np.log(2 * found.value) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def _tests(points: Points, fits: Mapping[str, Fit], resamples: int, seed: int) -> tuple[NestedTest, ...]:
    done = []
    worlds: dict[str, nested.Simulated] = {}
    for null, alternative, question in (*TESTS, GAMMA_TEST):
        if null not in fits or alternative not in fits:
            continue
        if points.why_no_interval():
            done.append(
                NestedTest(null, alternative, question, float("nan"), None, note=points.why_no_interval())
            )
            continue
        if null not in worlds:
            worlds[null] = nested.simulated_at(points, fits[null], resamples, seed)
        test = nested.nested_test(points, worlds[null], fits[alternative], question)
        done.append(replace(test, null=null, alternative=alternative))
    return tuple(nested.holm(done))


def _held_out(
    points: Points, fits: Mapping[str, Fit], levels: int, factor: float
) -> tuple[dict[str, float], list[str]]:
    """kind -> held-out error at the largest ``factor`` of pairs; at the largest size where too few would be left."""
    notes, out = [], {}
    if not factor > 1:
        raise ScalingError(f"factor={factor}: must be above 1, or no size would be hidden")
    try:
        kept = split(points, "pairs", factor)
    except ScalingError as error:
        sizes = np.unique(points.x["pairs"])
        if len(sizes) <= LEAST_SIZES:
            return {}, [f"nothing held out: {error}"]
        kept = points.x["pairs"] < sizes[-1]
        notes.append(f"only the largest size was held out: {error}")
    for kind in fits:
        try:
            out[kind] = held_out_error(points, form_of(kind, levels), kept, delta=np.inf)
        except FitError as error:
            notes.append(f"{kind!r} has no held-out error: {error}")
    return out, notes


def choose(
    tests: Sequence[NestedTest], holdout: Mapping[str, float], fits: Mapping[str, Fit]
) -> tuple[str | None, str]:
    """The smallest kind that nothing speaks against, and why.

    Against a kind speaks a test of it with p_holm < 0.05 *and* a kind that contains it and predicts the hidden
    sizes better. Of kinds with as many parameters the better fit is taken, and the reason says so.
    """
    made = [t for t in tests if t.null != EFFECTIVE]
    if not made or any(t.p_holm is None for t in made):
        note = next((t.note for t in made if t.note), "no test could be made")
        return None, f"no kind is chosen ({note}); that is no finding that levels are equal"
    certain: dict[str, NestedTest] = {}
    for test in sorted(made, key=lambda t: -t.statistic):
        if test.p_holm is not None and test.p_holm < SIGNIFICANT:
            certain.setdefault(test.null, test)
    better = {kind: _predicts_better(kind, holdout) for kind in KINDS}
    standing = [kind for kind in KINDS if kind in fits and not (kind in certain and better[kind])]
    sizes = {kind: len(fits[kind].form.parameters) for kind in standing}
    tied = [kind for kind in standing if sizes[kind] == min(sizes.values())]
    chosen = min(tied, key=lambda kind: fits[kind].value)
    return chosen, "; ".join(_reasons(chosen, tied, certain, better))


def _predicts_better(kind: str, holdout: Mapping[str, float]) -> str | None:
    """The kind that contains this one and predicts the hidden sizes best, if it does so better than this one."""
    best = min(CONTAINED_IN[kind], key=lambda larger: holdout.get(larger, np.inf), default=None)
    if best is None or holdout.get(best, np.inf) >= holdout.get(kind, np.inf):
        return None
    return best


def _reasons(
    chosen: str, tied: Sequence[str], certain: Mapping[str, NestedTest], better: Mapping[str, str | None]
) -> list[str]:
    said = []
    for null, test in certain.items():
        worse = f"{null!r} falls to {test.alternative!r} (p = {test.p_holm:.3g})"
        if better[null]:
            said.append(f"{worse} and {better[null]!r} predicts the hidden sizes better")
        else:
            said.append(f"{worse}, but nothing that contains it predicts the hidden sizes better")
    if chosen == "shared":
        said.append("no difference between levels is shown, which does not show that there is none")
    if len(tied) > 1:
        rivals = ", ".join(repr(kind) for kind in tied if kind != chosen)
        said.append(f"{rivals} stands as well and fits worse: no test tells the two apart")
    return said


def stacked(size: int, parts: Sequence[tuple[NDArray, resample.Statistic]]) -> resample.Statistic:
    """One statistic out of several on subsets of ``size`` points: (positions, statistic of those means) a part.

    Values are put one after the other; so everything is refitted on the same resamples, and differences are paired.
    """

    def statistic(means: NDArray) -> tuple[NDArray, NDArray]:
        values, slopes = [], []
        for index, part in parts:
            value, own = part(means[:, index])
            slope = np.zeros((*value.shape, size))
            slope[:, :, index] = own
            values.append(value)
            slopes.append(slope)
        return np.concatenate(values, 1), np.concatenate(slopes, 1)

    return statistic


def contrasts(statistic: resample.Statistic, matrix: NDArray) -> resample.Statistic:
    """The linear combinations ``matrix`` [c, s] of a statistic with s components."""

    def combined(means: NDArray) -> tuple[NDArray, NDArray]:
        values, slopes = statistic(means)
        return values @ matrix.T, np.einsum("cs,rsn->rcn", matrix, slopes)

    return combined


def _alone_statistic(
    points: Points, alone: Mapping[str, Fit], transform: Callable[[NDArray], NDArray] | None = None
) -> resample.Statistic:
    """By default floor, log scale and exponent of each level in turn."""
    names = points.table["level"].to_numpy()
    transform = transform or (
        lambda theta: np.stack([theta[:, 0], np.log(np.maximum(theta[:, 1], 1e-300)), theta[:, 2]], -1)
    )
    parts = [(np.flatnonzero(names == q), resample.of_fit(one, transform)) for q, one in alone.items()]
    return stacked(len(points), parts)


def _parameters(levels: Sequence[str], resampled: resample.Resampled) -> pl.DataFrame:
    rows = []
    for q, level in enumerate(levels):
        for k, name in enumerate(POWER_FLOOR.parameters):
            interval = resampled.interval(3 * q + k)
            if name == "scale":  # resampled as a log
                interval = interval.map(lambda value: float(np.exp(value)))
            rows.append((level, name, interval.estimate, interval.low, interval.high, interval.note))
    schema = {
        "level": pl.String,
        "parameter": pl.String,
        "estimate": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema | {"note": pl.String}, orient="row")


def exponent_differences(
    points: Points,
    alone: Mapping[str, Fit],
    base: str,
    *,
    margin: float = MARGIN,
    resamples: int = resample.RESAMPLES,
    seed: int = 0,
) -> pl.DataFrame:
    """The table ``Comparison.differences``: "exponent" of each level's own fit minus the base's, with 90 % intervals.

    ``alone`` holds fits of any form with a parameter "exponent", one a level of ``points``. The 90 % interval inside
    ±margin is two one-sided tests at 5 % (TOST).
    """
    names = list(alone)
    which = next(iter(alone.values())).form.parameters.index("exponent")
    others = [q for q in names if q != base]
    matrix = np.zeros((len(others), len(names)))
    for row, q in enumerate(others):
        matrix[row, names.index(q)], matrix[row, names.index(base)] = 1, -1
    exponents = _alone_statistic(points, alone, lambda theta: theta[:, which : which + 1])
    found = resample.resample(points, contrasts(exponents, matrix), resamples=resamples, seed=seed)
    rows = []
    for i, q in enumerate(others):
        interval = found.interval(i, confidence=0.90)
        said = verdict(interval, found.interval(i), margin)
        rows.append((q, base, interval.estimate, interval.low, interval.high, said, interval.note))
    columns = ("level", "base", "estimate", "low", "high", "verdict", "note")
    kinds = (pl.String, pl.String, pl.Float64, pl.Float64, pl.Float64, pl.String, pl.String)
    return pl.DataFrame(rows, schema=dict(zip(columns, kinds, strict=True)), orient="row")


def verdict(narrow: resample.Interval, wide: resample.Interval, margin: float) -> str:
    """What the 90 % and the 95 % interval of a difference say; see ``Comparison.differences``."""
    if narrow.low is None or narrow.high is None or wide.low is None or wide.high is None:
        return "undecided"
    if -margin < narrow.low and narrow.high < margin:
        return "equivalent"
    return "different" if wide.low > 0 or wide.high < 0 else "undecided"


def _own_lack(points: Points, one: Fit, number: int, resamples: int, seed: int) -> float | None:
    own = points.select(points.x["level"] == number)
    return nested.lack_of_fit(own, one, resamples, seed).p_value
