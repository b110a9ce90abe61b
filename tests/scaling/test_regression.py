"""``log_log`` against scipy, and what it refuses; published exponents are in test_outside_checks.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import linregress

from rewardscale.scaling.fit import FitError
from rewardscale.scaling.regression import log_log


def test_log_log_against_scipy() -> None:
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 1e6, 13)
    y = 3 * x**0.4 * np.exp(0.1 * rng.normal(size=13))
    ours = log_log(x, y)
    theirs: Any = linregress(np.log(x), np.log(y))
    assert (ours.exponent, ours.intercept) == pytest.approx((theirs.slope, theirs.intercept))
    assert (ours.se_exponent, ours.se_intercept) == pytest.approx((theirs.stderr, theirs.intercept_stderr))
    assert ours.r2 == pytest.approx(theirs.rvalue**2)
    twice = np.where(np.arange(13) % 2, 1, 2)
    repeated = log_log(np.repeat(x, twice), np.repeat(y, twice))
    assert log_log(x, y, twice).exponent == pytest.approx(repeated.exponent), "a weight of 2 is a point twice"
    assert ours.predict([1.0, 10.0]) == pytest.approx(
        np.exp(ours.intercept) * np.array([1, 10**ours.exponent])
    )


def test_log_log_without_residual_degrees() -> None:
    line = log_log([1, 100], [5, 50])
    assert (line.exponent, line.se_exponent, line.se_intercept) == (pytest.approx(0.5), None, None)


@pytest.mark.parametrize(
    ("x", "y", "weight", "message"),
    [
        ([1, 2, 3], [1, 2, 0], None, "y must be.*above 0: 0.0"),
        ([1, np.nan, 3], [1, 2, 3], None, "x must be.*nan"),
        ([1, 2, 3], [1, 2, 3], [1, 1, -1], "weight must be.*-1"),
        ([1, 2, 3], [1, 2], None, "got 3, 2 and 3"),
        ([2, 2, 2], [1, 2, 3], None, "two different x"),
    ],
)
def test_log_log_refuses(x: list, y: list, weight: list | None, message: str) -> None:
    with pytest.raises(FitError, match=message):
        log_log(x, y, weight)
