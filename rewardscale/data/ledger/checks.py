"""What verdicts and attributes must be before they enter a ledger, and how they become tables."""

import dataclasses
import datetime
import math
from collections.abc import Sequence
from typing import Any, get_args

import orjson
import polars as pl

from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.schema import (
    CATEGORIES,
    CORE_COLUMNS,
    KINDS,
    VERDICT_COLUMNS,
    Attributes,
    Controversiality,
    Objectivity,
    Verdict,
)

_NULLABLE = ("preferred", "confidence", "iteration", "time")
_DEFAULTS: dict[str, Any] = {
    field.name: list(field.default) if isinstance(field.default, tuple) else field.default
    for field in dataclasses.fields(Verdict)
    if field.default is not dataclasses.MISSING
}
_LIMITS = {  # largest value of each column of integers; none but `preferred` is negative
    name: 2 ** int(str(dtype).removeprefix("UInt")) - 1
    for name, dtype in VERDICT_COLUMNS.items()
    if dtype.is_unsigned_integer()
}
_TEXTS = tuple(name for name, dtype in VERDICT_COLUMNS.items() if dtype == pl.String)


def _as_json(dtype: pl.DataType) -> pl.DataType:
    """The type that polars reads from JSON where it cannot read `dtype`."""
    wide = pl.Int64() if dtype.is_integer() else pl.Float64() if dtype.is_float() else dtype
    return pl.String() if wide.is_temporal() else wide


_TIME = "%Y-%m-%dT%H:%M:%S%.f%z"


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


def check(verdict: Verdict) -> None:
    """Raises DataError where `checked` would refuse a table of this one verdict, or its time says no zone."""
    if verdict.kind not in KINDS:
        raise DataError(f"unknown verdict kind {verdict.kind!r}; use one of {KINDS}")
    if verdict.preferred not in (1, -1, 0, None) or (verdict.preferred is None and verdict.kind == "source"):
        raise DataError(
            f"`preferred` is {verdict.preferred!r}; it must be +1, -1, 0 (tie) or, but for a source, None"
        )
    if verdict.confidence is not None and not 0 <= verdict.confidence <= 1:
        raise DataError(f"`confidence` is {verdict.confidence!r}; it must lie in [0, 1], or be None")
    for name in ("cost", "seconds"):
        value = getattr(verdict, name)
        if not (math.isfinite(value) and 0 <= value < 3e38):  # a float32
            raise DataError(f"`{name}` is {value!r}; it must be finite and not negative")
    for name, limit in _LIMITS.items():
        value = getattr(verdict, name)
        if value is None and name == "iteration":
            continue
        if not isinstance(value, int) or not 0 <= value <= limit:
            raise DataError(f"`{name}` is {value!r}; it must be an integer from 0 to {limit}")
    for name in _TEXTS:
        if not isinstance(getattr(verdict, name), str):
            raise DataError(f"`{name}` is {getattr(verdict, name)!r}; it must be a text")
    if verdict.time is not None and verdict.time.tzinfo is None:
        raise DataError(f"`time` is {verdict.time}, without a time zone; give it in UTC")


def _in_utc(verdict: Verdict) -> Verdict:
    """The verdict, checked, its time in UTC."""
    check(verdict)
    if verdict.time is None or verdict.time.tzinfo is datetime.UTC:
        return verdict
    return dataclasses.replace(verdict, time=verdict.time.astimezone(datetime.UTC))


def check_attributes(attributes: Attributes) -> None:
    """Raises DataError for a category, objectivity or controversiality that there is not."""
    known = {
        "category": CATEGORIES,
        "objectivity": get_args(Objectivity),
        "controversiality": get_args(Controversiality),
    }
    for name, values in known.items():
        if getattr(attributes, name) not in values:
            raise DataError(f"attributes: {name} is {getattr(attributes, name)!r}; use one of {values}")


def to_frame(verdicts: Sequence[Verdict]) -> pl.DataFrame:
    """The verdicts as a table of VERDICT_COLUMNS. Raises DataError as `check`."""
    verdicts = list(map(_in_utc, verdicts))
    columns = {name: [getattr(verdict, name) for verdict in verdicts] for name in VERDICT_COLUMNS}
    return pl.DataFrame(columns, schema=VERDICT_COLUMNS)


def to_verdicts(frame: pl.DataFrame) -> list[Verdict]:
    """The rows of a table of VERDICT_COLUMNS as records."""
    rows = frame.select(VERDICT_COLUMNS.names()).iter_rows(named=True)
    return [Verdict(**{**row, "examples": tuple(row["examples"])}) for row in rows]


def to_json(verdict: Verdict) -> bytes:
    """A verdict as the log and the database keep it. Raises DataError as `check`, and for text that is no Unicode."""
    try:
        return orjson.dumps(_in_utc(verdict))
    except TypeError as error:
        raise DataError(f"a verdict cannot be written as JSON: {error}") from error


def from_json(records: Sequence[bytes]) -> pl.DataFrame:
    """The table of what `to_json` made: VERDICT_COLUMNS, a row a record."""
    frame = read_json(records, VERDICT_COLUMNS)
    defaults = [  # a record of old may lack a field
        pl.col(name).fill_null(pl.lit(value, VERDICT_COLUMNS[name]))
        for name, value in _DEFAULTS.items()
        if name not in _NULLABLE and frame[name].null_count()
    ]
    return frame.with_columns(defaults)


def read_json(records: Sequence[bytes], schema: pl.Schema) -> pl.DataFrame:
    """JSON objects as a table of `schema`: null where one lacks a field, other fields left out."""
    if not records:
        return pl.DataFrame(schema=schema)
    frame = pl.read_ndjson(b"\n".join(records), schema={k: _as_json(v) for k, v in schema.items()})
    return frame.select(
        pl.col(name).str.to_datetime(_TIME, time_unit="us", time_zone="UTC")
        if dtype.is_temporal()
        else pl.col(name).cast(dtype)
        for name, dtype in schema.items()
    )
