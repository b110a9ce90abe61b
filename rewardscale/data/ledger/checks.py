"""What a table of verdicts must hold before it enters a ledger."""

import dataclasses
from typing import Any

import polars as pl

from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.schema import CORE_COLUMNS, KINDS, VERDICT_COLUMNS, Verdict

_NULLABLE = ("preferred", "confidence", "iteration", "time")
_DEFAULTS: dict[str, Any] = {
    field.name: list(field.default) if isinstance(field.default, tuple) else field.default
    for field in dataclasses.fields(Verdict)
    if field.default is not dataclasses.MISSING
}


def complete(verdicts: pl.DataFrame) -> pl.DataFrame:
    """VERDICT_COLUMNS in their order and types; a column that is absent takes the default of `Verdict`.

    Raises DataError where a column of CORE_COLUMNS is absent or a type does not fit.
    """
    missing = [name for name in CORE_COLUMNS if name not in verdicts.columns]
    if missing:
        raise DataError(f"verdicts lack the columns {missing}; the ledger needs {list(CORE_COLUMNS)}")
    for name, dtype in VERDICT_COLUMNS.items():  # a cast would silently cut 0.9 to 0
        if dtype.is_integer() and name in verdicts.columns:
            found = verdicts[name].dtype
            if not (found.is_integer() or found == pl.Null):
                raise DataError(f"verdicts: `{name}` must hold integers, not {found}")
    try:
        return verdicts.select(
            (pl.col(name) if name in verdicts.columns else pl.lit(_DEFAULTS[name], dtype).alias(name)).cast(
                dtype
            )
            for name, dtype in VERDICT_COLUMNS.items()
        )
    except pl.exceptions.PolarsError as error:
        raise DataError(f"verdicts do not fit the ledger's types {dict(VERDICT_COLUMNS)}: {error}") from error


def checked(verdicts: pl.DataFrame) -> pl.DataFrame:
    """`complete(verdicts)`, every value being one that the ledger may hold.

    Raises:
      DataError: missing columns or values, a wrong type, unknown kinds, preferences outside {-1, 0, +1} (null, for
        "could not say", where the source itself says nothing), confidences outside [0, 1], costs or seconds that
        are negative or not finite.
    """
    part = complete(verdicts)
    empty = [name for name in VERDICT_COLUMNS if name not in _NULLABLE and part[name].null_count()]
    if empty:
        raise DataError(f"verdicts have no value in some rows of {empty}; only {list(_NULLABLE)} may be null")
    unknown = sorted(set(part["kind"].unique()) - set(KINDS))
    if unknown:
        raise DataError(f"unknown verdict kinds {unknown}; use one of {KINDS}")
    if part.filter(pl.col("kind") == "source")["preferred"].null_count():
        raise DataError(
            "'preferred' of a verdict of kind 'source' is null; a source that says nothing has no verdict"
        )
    if not part["preferred"].drop_nulls().is_in([-1, 0, 1]).all():
        raise DataError("`preferred` must be +1 (first), -1 (second), 0 (tie), or null (could not say)")
    if not part["confidence"].drop_nulls().is_between(0, 1).all():
        raise DataError("`confidence` must lie in [0, 1], or be null")
    for name in ("cost", "seconds"):
        if not (part[name].is_finite() & (part[name] >= 0)).all():
            raise DataError(f"`{name}` must be finite and not negative")
    return part
