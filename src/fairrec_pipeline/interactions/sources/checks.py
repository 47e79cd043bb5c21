"""What every source is checked for, and how ids, times and labels are made alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ibis
import ibis.expr.types as ir

from fairrec_pipeline.interactions.columns import ITEM, TIMESTAMP, UNKNOWN_LABEL, USER
from fairrec_pipeline.interactions.errors import DataError
from fairrec_pipeline.interactions.sources.raw_files import readable

_MILLIONTHS = 1_000_000


def count_rows(table: ir.Table) -> int:
    return int(table.count().execute())


def checked_events(log: ir.Table, user: str, item: str, timestamp: str, path: Path) -> ir.Table:
    """Checked and normalised events; see `read_source`."""
    events = log.select(**{USER: _blank_to_null(log[user]), ITEM: _blank_to_null(log[item]), TIMESTAMP: log[timestamp]})
    names = {USER: user, ITEM: item, TIMESTAMP: timestamp}
    nulls = {column: events[column].isnull().sum() for column in names}
    found = events.agg(n_rows=events.count(), **nulls).to_pandas().iloc[0]
    if found.n_rows == 0:
        message = f"{path} is empty: it has columns but no rows. Put a log with interactions there"
        raise DataError(message)
    bad = [f"{name} ({found[column]:.0f})" for column, name in names.items() if found[column]]
    if bad:
        message = (
            f"{path} has null or blank values in {', '.join(bad)} among its {found.n_rows:.0f} rows. Every row needs a "
            f"user, an item and a time: remove those rows from the file"
        )
        raise DataError(message)
    with readable(path):
        instants = _instants(events[TIMESTAMP], timestamp, path)
        return events.select(**{USER: _ids(events[USER]), ITEM: _ids(events[ITEM]), TIMESTAMP: instants}).cache()


def _blank_to_null(column: ir.Column) -> ir.Column:
    return column.strip().nullif("") if column.type().is_string() else column


def _ids(column: ir.Column) -> ir.Column:
    """int64 where that loses nothing ("007" and "7" stay two ids), else string."""
    if column.type().is_integer():
        return column.cast("int64")
    number = column.try_cast("int64")
    same = number.cast(column.type()) == column
    return number if same.fill_null(False).all().execute() else column.cast("string")


def _instants(column: ir.Column, name: str, path: Path) -> ir.Column:
    """int64 timestamps, of a column without nulls; units as in `read_source`."""
    dtype = column.type()
    if dtype.is_integer():
        return column.cast("int64")
    if dtype.is_timestamp() or dtype.is_date():
        return _microseconds(column)
    number = column.try_cast("float64")
    number = ibis.ifelse(number.isnan() | number.isinf(), ibis.null("float64"), number)
    # Naive dates are taken as UTC: with a type that has a zone, DuckDB honours the offsets that some rows may carry.
    date = column.cast("string").try_cast("timestamp('UTC')")
    readings = column.as_table().select(value=column.cast("string"), number=number, date=date)
    _ = ibis._
    found = readings.agg(
        n=_.count(), n_numbers=_.number.count(), n_dates=_.date.count(), whole=(_.number == _.number.round()).all()
    )
    n, n_numbers, n_dates, whole = found.to_pandas().iloc[0]
    if n_numbers == n:
        # Not through float64 where it can be helped: it has too few digits for nanoseconds since 1970.
        return column.try_cast("int64") if whole else (number * _MILLIONTHS).round().cast("int64")
    if n_dates == n:
        return _microseconds(date)
    bad = readings.filter((_.number if n_numbers else _.date).isnull()).select("value")
    examples = ", ".join(repr(value) for value in bad.distinct().order_by("value").limit(3).to_pandas()["value"])
    message = (
        f"{path} has {count_rows(bad)} of {n} values in {name} that cannot be read as a time: {examples}. "
        f"Allowed: all numbers, or all ISO dates such as 2015-06-01 12:30:00"
    )
    raise DataError(message)


def _microseconds(column: ir.Column) -> ir.Column:
    return column.cast("timestamp").delta(ibis.timestamp("1970-01-01"), unit="microsecond")


def no_attributes(events: ir.Table) -> ir.Table:
    return events.select(USER).distinct().order_by(USER).cache()


def checked_attributes(users: ir.Table, user: str, attributes: Sequence[str], events: ir.Table, path: Path) -> ir.Table:
    ids = _blank_to_null(users[user]).cast("string").try_cast(events[USER].type())
    labels = {name: _blank_to_null(users[name].cast("string")) for name in attributes}
    table = users.select(**{USER: ids}, **labels).filter(ibis._[USER].notnull()).cache()
    twice = table.group_by(USER).agg(n=ibis._.count()).filter(ibis._.n > 1).order_by(USER)
    n_twice = count_rows(twice)
    if n_twice:
        examples = ", ".join(str(value) for value in twice.limit(3).to_pandas()[USER])
        message = f"{path} has more than one row for {n_twice} users: {examples}. Keep one row per user"
        raise DataError(message)
    users_of_log = no_attributes(events)
    joined = users_of_log.left_join(table, USER).order_by(users_of_log[USER])
    return joined.select(
        users_of_log[USER], **{name: table[name].fill_null(UNKNOWN_LABEL) for name in attributes}
    ).cache()
