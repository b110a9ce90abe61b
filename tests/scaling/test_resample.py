"""``resample``: exact where it should be, reproducible, paired; (slow) its intervals cover on SYNTHETIC data sets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from rewardscale.scaling import forms, solver
from rewardscale.scaling.fit import fit
from rewardscale.scaling.forms import Form
from rewardscale.scaling.points import Points, from_draws
from rewardscale.scaling.resample import Interval, Statistic, of_fit, resample, simulate

SIZES = np.geomspace(250, 16_000, 7)


def draws_of(clean: NDArray, draws: int, noise: float, common: float, rng: np.random.Generator) -> NDArray:
    """Losses [draws, n]: relative noise, of whose variance a share ``common`` is the draw's own."""
    shared = rng.normal(size=(draws, 1))
    return clean * np.exp(
        noise * (np.sqrt(common) * shared + np.sqrt(1 - common) * rng.normal(size=(draws, len(clean))))
    )


def sample(draws: int = 5, noise: float = 0.01, common: float = 0.5, seed: int = 0) -> Points:
    clean = forms.power_law(SIZES, 0.3, 3.0, 0.35)
    return from_draws({"pairs": SIZES}, draws_of(clean, draws, noise, common, np.random.default_rng(seed)))


def linear(*weights: NDArray) -> Statistic:
    """The statistic w · means for each w."""
    w = np.stack(weights)

    def statistic(means: NDArray) -> tuple[NDArray, NDArray]:
        return means @ w.T, np.broadcast_to(w, (len(means), *w.shape))

    return statistic


def student(t: NDArray, degrees: int) -> float:
    """p-value of these numbers being Student's t."""
    return float(stats.kstest(t, stats.t(degrees).cdf).pvalue)


# Exact for what is linear in the means.


@pytest.mark.parametrize("draws", [5, 10])
def test_linear_statistics_are_students_t(draws: int) -> None:
    made = sample(draws)
    mean, contrast = np.full(7, 1 / 7), np.linspace(-1, 1, 7)
    found = resample(made, linear(mean, contrast), resamples=20_000)
    for i in range(2):
        assert student(found.t[:, i], draws - 1) > 1e-3
        assert stats.kstest(found.t[:, i], "norm").pvalue < 1e-3, "and not a normal"
    low, high = np.quantile(found.t[:, 0], [0.025, 0.975])
    assert (-low, high) == pytest.approx([stats.t(draws - 1).ppf(0.975)] * 2, rel=0.05)
    grand = stats.ttest_1samp(
        (made.shifts["draws"] @ mean) * np.sqrt(draws * (draws - 1)) + made.mean @ mean, 0
    )
    interval, textbook = found.interval(0), grand.confidence_interval(0.95)
    assert interval.estimate == pytest.approx(made.mean.mean())
    assert interval.low == pytest.approx(textbook.low, abs=0.03 * (textbook.high - textbook.low))
    assert interval.high == pytest.approx(textbook.high, abs=0.03 * (textbook.high - textbook.low))


def test_a_form_without_nonlinear_parameters_is_students_t() -> None:
    """Through the fit and its influence: least squares in plain losses is linear in the means."""
    made = sample(6)
    known = forms.POWER_FLOOR.fixed(exponent=0.35)
    found = fit(known, made.x, made.mean, log=False, delta=np.inf)
    again = resample(made, of_fit(found), resamples=10_000)
    for i in range(2):
        assert student(again.t[:, i], 5) > 1e-3
    design = np.linalg.pinv(np.stack([np.ones(7), SIZES**-0.35], 1))
    assert again.se == pytest.approx(np.sqrt(((made.shifts["draws"] @ design.T) ** 2).sum(0)), rel=1e-6)


def test_best_of_n_is_students_t() -> None:
    """A form that has no nonlinear parameter at all, and negative values."""
    rng = np.random.default_rng(0)
    distance = np.sqrt(np.linspace(0.5, 10, 9))
    clean = forms.BEST_OF_N({"distance": distance}, gain=1.0, over_optimisation=0.35)
    made = from_draws({"distance": distance}, clean + 0.02 * rng.normal(size=(7, 9)))
    found = fit(forms.BEST_OF_N, made.x, made.mean, log=False, delta=np.inf)
    again = resample(made, of_fit(found), resamples=10_000)
    assert min(student(again.t[:, i], 6) for i in range(2)) > 1e-3


def test_simulated_means_have_the_covariance_of_the_means() -> None:
    made = sample(6)
    expected = made.shifts["draws"].T @ made.shifts["draws"]
    means, shifts = simulate(made, 10_000, seed=3)
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert means.mean(0) == pytest.approx(made.mean, rel=1e-3)
    assert np.abs(np.cov(means.T) - expected).max() < 0.06 * size.max()
    u = shifts["draws"]
    assert u.sum(1) == pytest.approx(np.zeros((10_000, 7)), abs=1e-12)
    assert np.abs(np.einsum("rki,rkj->ij", u, u) / 10_000 - expected).max() < 0.06 * size.max()
    assert np.corrcoef(means[:, 0], (u**2).sum(1)[:, 0])[0, 1] == pytest.approx(0, abs=0.04)
    around = simulate(made, 10_000, seed=3, around=made.mean + 1)[0]
    assert around == pytest.approx(means + 1)


def test_both_kinds_of_units_add_up() -> None:
    made = sample(6)
    clusters = 0.01 * np.random.default_rng(1).normal(size=(50, 7))
    both = Points(
        made.x, made.mean, dict(made.shifts) | {"clusters": clusters - clusters.mean(0)}, made.draws
    )
    mean = linear(np.full(7, 1 / 7))
    found, draws = resample(both, mean, resamples=4_000), resample(made, mean)
    alone = np.sqrt(((clusters - clusters.mean(0)).mean(1) ** 2).sum())
    assert found.se[0] ** 2 == pytest.approx(draws.se[0] ** 2 + alone**2)
    assert np.std(found.values[:, 0]) == pytest.approx(found.se[0], rel=0.05)


# Bookkeeping.


def test_reproducible_by_seed() -> None:
    made = sample()
    statistic = of_fit(fit(forms.POWER_FLOOR, made.x, made.mean))
    first, again, other = (resample(made, statistic, resamples=50, seed=s) for s in (7, 7, 8))
    assert np.array_equal(first.t, again.t, equal_nan=True)
    assert not np.array_equal(first.t, other.t, equal_nan=True)


def test_estimate_is_the_fit() -> None:
    made = sample()
    found = fit(forms.POWER_FLOOR, made.x, made.mean)
    again = resample(made, of_fit(found), resamples=50)
    assert again.estimate == pytest.approx(found.theta, rel=1e-5)
    logs = resample(made, of_fit(found, lambda theta: np.log(theta[:, :1])), resamples=50)
    assert logs.estimate[0] == pytest.approx(np.log(found.theta[0]), rel=1e-4)
    assert logs.se[0] == pytest.approx(again.se[0] / found.theta[0], rel=1e-4), "delta method"


def test_influence_is_the_derivative_of_the_fit() -> None:
    """Against refits of means moved a little, one at a time."""
    made = sample(noise=0.003)
    found = fit(forms.POWER_FLOOR, made.x, made.mean, delta=np.inf)
    _, slope = of_fit(found)(made.mean[None])
    for i in range(7):
        moved = [made.mean.copy(), made.mean.copy()]
        moved[0][i] *= 1 + 1e-5
        moved[1][i] *= 1 - 1e-5
        up, down = (fit(forms.POWER_FLOOR, made.x, m, delta=np.inf).theta for m in moved)
        numeric = (up - down) / (2e-5 * made.mean[i])
        assert slope[0, :, i] == pytest.approx(numeric, rel=0.1, abs=0.02 * np.abs(slope[0]).max())


def test_pairing_narrows_differences() -> None:
    """Two levels on the same draws: the draw's own luck drops out of their difference."""
    rng = np.random.default_rng(2)
    clean = np.concatenate([forms.power_law(SIZES, 0.3, b, 0.35) for b in (3.0, 4.0)])
    y = draws_of(clean, 8, 0.02, 0.9, rng)
    x = {"pairs": np.tile(SIZES, 2), "level": np.repeat([0.0, 1.0], 7)}
    crossed = np.concatenate([y[:, :7], np.roll(y[:, 7:], 3, axis=0)], 1)  # the same numbers, other partners
    difference = np.repeat([-1 / 7, 1 / 7], 7)
    paired, apart = (resample(from_draws(x, v), linear(difference), resamples=2_000) for v in (y, crossed))
    width = [i.high - i.low for i in (paired.interval(0), apart.interval(0))]  # type: ignore[operator]
    assert width[0] < 0.6 * width[1]
    truth = float(clean @ difference)
    assert paired.interval(0).low < truth < paired.interval(0).high  # type: ignore[operator]


def test_p_values_agree_with_intervals() -> None:
    found = resample(sample(), linear(np.full(7, 1 / 7)), resamples=4_000)
    interval = found.interval(0)
    assert interval.low is not None and interval.high is not None
    width = interval.high - interval.low
    for edge, inward in ((interval.low, 1), (interval.high, -1)):
        inside = found.p_value(0, edge + 0.02 * inward * width)
        outside = found.p_value(0, edge - 0.02 * inward * width)
        assert inside is not None and outside is not None and outside < 0.05 < inside
    assert found.p_value(0, interval.estimate) == pytest.approx(1.0, abs=0.05)
    assert found.p_value(0, 100.0) == pytest.approx(2 / 4_001)


def test_p_values_are_uniform_where_the_null_holds() -> None:
    rng = np.random.default_rng(5)
    p = []
    for s in range(300):
        made = from_draws({"pairs": SIZES}, draws_of(np.ones(7), 5, 0.01, 0.5, rng))
        p.append(resample(made, linear(np.linspace(-1, 1, 7)), resamples=300, seed=s).p_value(0, 0.0))
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_few_draws_give_the_reason_instead() -> None:
    found = resample(sample(4), linear(np.full(7, 1 / 7)))
    assert found.note == "4 draws: fewer than 5, no interval" and found.t.shape == (0, 1)
    interval = found.interval(0)
    assert interval.low is interval.high is interval.se is None and interval.note == found.note
    assert found.p_value(0, 0.0) is None


def test_what_is_held_at_a_bound_has_no_interval() -> None:
    bends = 3 * SIZES**-0.4 * (1 - 0.05 * np.log(SIZES / 250) ** 2 / 20)
    made = from_draws({"pairs": SIZES}, draws_of(bends, 5, 0.001, 0.5, np.random.default_rng(0)))
    found = fit(forms.POWER_FLOOR, made.x, made.mean)
    assert found.at_bound == ("floor",)
    again = resample(made, of_fit(found), resamples=200)
    assert again.interval(0).low is None and "bound" in again.interval(0).note
    assert again.p_value(0, 0.1) is None
    assert again.interval(2).low is not None, "the exponent has one all the same"


def test_statistics_that_fail_on_many_resamples_have_no_interval() -> None:
    def sometimes(means: NDArray) -> tuple[NDArray, NDArray]:
        values, slopes = linear(np.full(7, 1 / 7))(means)
        values = values.copy()
        values[1::4] = np.nan
        return values, slopes

    interval = resample(sample(), sometimes, resamples=100).interval(0)
    assert interval.low is None and interval.note == "25 of 100 resamples gave no value"


def test_losses_known_too_badly_for_logs() -> None:
    """Means that are drawn below 0 have no fit on a log scale: they are left out, and too many of them are said."""
    made = sample(noise=0.003)
    statistic = of_fit(fit(forms.POWER_FLOOR, made.x, made.mean))
    wild = Points(made.x, made.mean, {"draws": 1_000 * made.shifts["draws"]}, made.draws)
    below = (simulate(wild, 300, seed=0)[0] <= 0).any(-1)
    found = resample(wild, statistic, resamples=300)
    assert 30 < below.sum() < 300 and np.isnan(found.values[below]).all()
    assert np.isfinite(found.values[~below]).all()
    interval = found.interval(2)
    assert interval.low is None and "of 300 resamples gave no value" in interval.note


def test_intervals_print_and_map() -> None:
    interval = Interval(2.0, 1.0, 4.0, 0.5)
    assert str(interval) == "2 [1, 4]"
    logs = interval.map(np.log2)
    assert (logs.estimate, logs.low, logs.high, logs.se) == (1.0, 0.0, 2.0, None)
    assert str(Interval(2.0, None, None, None, note="3 draws: fewer than 5, no interval")) == (
        "2 (3 draws: fewer than 5, no interval)"
    )


# Coverage (slow): nominal 95 % of intervals, over SYNTHETIC data sets.

SETS, RESAMPLES = 2_000, 400
# scenario: floor, scale, exponent, relative noise, share of its variance that is the draw's
SCENARIOS = {"a": (0.3, 3.0, 0.35, 0.01, 0.5), "b": (0.3, 20.0, 0.6, 0.02, 0.0)}
Ends = Callable[[Points, Form, int], NDArray]  # -> intervals [parameters, 2]


def truth_of(scenario: str, form: Form) -> dict[str, float]:
    floor, scale, exponent, _, _ = SCENARIOS[scenario]
    whole = {"floor": floor, "scale": scale, "exponent": exponent}
    return {name: whole[name] for name in form.parameters}


def coverage(scenario: str, form: Form, draws: int, ends: Ends, sets: int = SETS) -> NDArray:
    """Share of ``sets`` whose intervals hold each parameter; sets without an interval count as missed."""
    truth = truth_of(scenario, form)
    clean, values = form({"pairs": SIZES}, **truth), np.array(list(truth.values()))
    rng = np.random.default_rng(1)
    held = np.zeros(len(values))
    for s in range(sets):
        made = from_draws({"pairs": SIZES}, draws_of(clean, draws, *SCENARIOS[scenario][3:], rng))
        low, high = ends(made, form, s).T
        held += (low <= values) & (values <= high)
    return held / sets


def studentised(made: Points, form: Form, seed: int) -> NDArray:
    found = resample(made, of_fit(fit(form, made.x, made.mean)), resamples=RESAMPLES, seed=seed)
    intervals = [found.interval(i) for i in range(len(form.parameters))]
    return np.array([(np.nan, np.nan) if i.low is None else (i.low, i.high) for i in intervals], float)


def percentile(made: Points, form: Form, seed: int) -> NDArray:
    """The usual bootstrap: draws with replacement, refit, quantiles of the estimates."""
    shift = made.shifts["draws"]
    draws = len(shift)
    rows = np.sqrt(draws * (draws - 1)) * shift + made.mean
    chosen = np.random.default_rng(seed).integers(draws, size=(RESAMPLES, draws))
    found = fit(form, made.x, made.mean)
    problem = solver.Problem(form, found.x, found.weight, found.loss)
    start = np.repeat(problem.internal(found.theta[None]), RESAMPLES, 0)
    refits = problem.external(solver.polish(problem, rows[chosen].mean(1), start).theta)
    return np.quantile(refits, [0.025, 0.975], axis=0).T


@pytest.mark.slow
@pytest.mark.parametrize("draws", [5, 10])
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("form", [forms.POWER, forms.POWER_FLOOR], ids=lambda form: form.name)
def test_intervals_cover(form: Form, scenario: str, draws: int) -> None:
    """About three minutes of one core each."""
    held = coverage(scenario, form, draws, studentised)
    print(scenario, form.name, draws, dict(zip(form.parameters, held.round(4), strict=True)))
    assert ((held >= 0.93) & (held <= 0.97)).all(), held


@pytest.mark.slow
def test_percentiles_over_five_draws_do_not() -> None:
    """So the test above can fail: the usual bootstrap fails it by ten points."""
    held = coverage("a", forms.POWER_FLOOR, 5, percentile, sets=500)
    print("percentile", held)
    assert held.max() < 0.90, held
