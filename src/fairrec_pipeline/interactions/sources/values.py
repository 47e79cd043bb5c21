"""Ids, times and labels of raw tables, made alike whatever the file they come from."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, cast

import duckdb
import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.engine import engine

_MILLIONTHS = 1_000_000
_MICROSECONDS = {"s": Decimal(1_000_000), "ms": Decimal(1_000), "us": Decimal(1), "ns": Decimal("0.001")}
_FINER = r"\.\d{6}\d*[1-9]"


@ibis.udf.scalar.builtin(signature=((dt.string, dt.string), dt.timestamp))
def try_strptime(value, form):  # type: ignore[no-untyped-def]
    """Of DuckDB: a text as a timestamp, null where it has another form."""


@ibis.udf.scalar.builtin(name="isfinite", signature=((dt.timestamp,), dt.boolean))
def is_finite(value):  # type: ignore[no-untyped-def]
    """Of DuckDB: whether a timestamp is none of its two infinities."""


def blank_to_null(column: ir.Column) -> ir.Column:
    """Blank texts, and numbers that are none, as null; other values as they are."""
    if column.type().is_floating():
        return ibis.ifelse(column.isnan() | column.isinf(), ibis.null(column.type()), column)
    return column.strip().nullif("") if column.type().is_string() else column


def ids(column: ir.Column, name: str, path: Path) -> ir.Column:
    """int64 where every id is a whole number and that loses nothing ("007" and "7" stay two ids), else `id_text`."""
    if isinstance(column.type(), dt.SignedInteger):
        return column.cast("int64")
    text = id_text(column, name, path)
    number = column.try_cast("int64")
    same = number.cast("string") == text
    return number if not column.type().is_boolean() and same.fill_null(False).all().execute() else text


def id_text(column: ir.Column, name: str, path: Path) -> ir.Column:
    """Ids as text, whole numbers without a point; a DataError if the type of the column is not one of ids."""
    dtype = column.type()
    if not isinstance(dtype, dt.Numeric | dt.String | dt.Boolean | dt.UUID):
        message = f"{path} has ids of type {dtype} in {name}. Allowed: numbers and texts; make one id of a row of it"
        raise DataError(message)
    return _plain_text(column)


def label_text(column: ir.Column, name: str, path: Path) -> ir.Column:
    """Labels as text, the same from a CSV and a Parquet file: true and false, whole numbers without a point,
    others without zeros at their end. A column of lists or structures is a DataError.
    """
    if column.type().is_nested():
        raise DataError(f"{path} has values of type {column.type()} in {name}. Allowed: one value a row")
    text = blank_to_null(_plain_text(blank_to_null(column)))
    if column.type().is_decimal():
        return _without_zeros(text)
    if not column.type().is_string():
        return text
    is_boolean = text.lower().isin(["true", "false"])
    is_number = text.re_search(r"^-?(0|[1-9]\d*)(\.\d+)?$")  # 007 is a code
    every = {"booleans": is_boolean.all().fill_null(False), "numbers": is_number.all().fill_null(False)}
    booleans, numbers = column.as_table().agg(**every).to_pandas().iloc[0]
    if booleans:
        return text.lower()
    return _without_zeros(text) if numbers else text


def _without_zeros(text: ir.Column) -> ir.Column:
    """Numbers without zeros behind the point that say nothing: 2.50 is 2.5, 1.0 is 1, and -0.0 is 0."""
    return text.re_replace(r"(\.\d*?)0+$", r"\1").re_replace(r"\.$", "").re_replace("^-0$", "0")


class Times(NamedTuple):
    """Times of a column: int64, null where a value cannot be read; what is allowed; how many were cut, and at what."""

    values: ir.IntegerColumn
    allowed: str
    n_cut: int
    cut_at: str = "microsecond"


def times(column: ir.Column, form: str | None, unit: str | None) -> Times:
    """Read a column without blank values as times.

    Args:
        form: of dates; None: ISO dates, or numbers.
        unit: of numbers since 1970; None: numbers keep their unit, those with fractions are counted in millionths.

    Returns:
        Microseconds since 1970 (dates without a zone are UTC), or numbers without a unit as they are.
    """
    dtype = column.type()
    if form is not None:
        _require_form(form)
        allowed = f"dates such as {form} says, in the signs of strptime (%d/%m/%Y %H:%M:%S)"
        return Times(_microseconds(try_strptime(column.cast("string"), form)), allowed, 0)
    if unit is not None:
        text = column.cast("string") if dtype.is_floating() else column  # 0.1 as it is written, not as it is stored
        number = text.try_cast("decimal(28, 9)").cast("decimal(38, 9)")  # room for the product; a quotient is a float
        per_unit = number * ibis.literal(_MICROSECONDS[unit], "decimal(10, 3)")
        n_cut = int((per_unit != per_unit.floor()).sum().execute() or 0)
        return Times(per_unit.floor().try_cast("int64"), f"numbers (timestamp_unit is {unit})", n_cut)
    if dtype.is_integer():
        return Times(column.try_cast("int64"), "numbers below 2^63", 0)
    if dtype.is_timestamp() or dtype.is_date():
        instants = column.cast("timestamp(6)")
        is_finer = dtype.is_timestamp() and (dtype.scale or 0) > 6
        n_cut = int((instants.cast(dtype) != column).sum().execute() or 0) if is_finer else 0
        return Times(_microseconds(instants), "dates that are not infinite", n_cut)
    return _numbers_or_dates(column)


def _require_form(form: str) -> None:
    try:
        engine().con.execute("SELECT try_strptime('', ?)", [form]).fetchall()
    except duckdb.Error as error:
        reason = str(error).partition("\n")[0].strip()
        message = f"timestamp_format is no form of dates: {reason}. Write one such as %d/%m/%Y %H:%M:%S"
        raise DataError(message) from error


def _numbers_or_dates(column: ir.Column) -> Times:
    allowed = "all numbers, or all ISO dates such as 2015-06-01 12:30:00 (another form: timestamp_format)"
    number = column.try_cast("float64")
    number = ibis.ifelse(number.isnan() | number.isinf(), ibis.null("float64"), number)
    found = column.as_table().agg(n=column.count(), n_numbers=number.count(), whole=(number % 1 == 0).all())
    n, n_numbers, whole = found.to_pandas().iloc[0]
    if n_numbers < n:  # dates are slow to read, so they are only looked for where there may be some
        text = column.cast("string")
        # Naive dates are taken as UTC: with a type that has a zone, DuckDB honours the offsets that some rows may
        # carry. Words such as infinity and epoch are dates to DuckDB.
        date = ibis.ifelse(text.re_search(r"^\s*\d"), text, ibis.null("string")).try_cast("timestamp('UTC')")
        instants = _microseconds(date.cast("timestamp(6)"))
        finer = instants.notnull() & text.re_search(_FINER)
        n_dates, n_cut = column.as_table().agg(n=instants.count(), n_cut=finer.sum()).to_pandas().iloc[0]
        if n_dates > n_numbers:
            return Times(instants, allowed, int(n_cut))
    # Not through float64 where it can be helped: it has too few digits for nanoseconds since 1970.
    values = column.try_cast("int64") if whole else (number * _MILLIONTHS).try_cast("int64")
    values = ibis.ifelse(number.isnull(), ibis.null("int64"), values)
    if whole:
        return Times(values, allowed, 0)
    allowed += "; numbers below 9.2e12 where some have fractions (larger ones: timestamp_unit)"
    different = column.as_table().agg(numbers=number.nunique(), values=values.nunique()).to_pandas().iloc[0]
    return Times(values, allowed, int(different["numbers"] - different["values"]), "millionth")


def _plain_text(column: ir.Column) -> ir.Column:
    """A column as text; whole numbers without a point."""
    text, dtype = column.cast("string"), column.type()
    if not (dtype.is_floating() or dtype.is_decimal()):
        return text
    whole = column.try_cast("int64")
    same = whole.cast("float64" if dtype.is_floating() else dtype) == column
    return ibis.ifelse(same.fill_null(False), whole.cast("string"), text)


def _microseconds(instant: Any) -> ir.IntegerColumn:
    finite = ibis.ifelse(is_finite(instant), instant, ibis.null("timestamp(6)"))
    return cast(ir.IntegerColumn, finite.delta(ibis.timestamp("1970-01-01"), unit="microsecond"))
