"""What every source is checked for before its events and attributes are used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import ibis
import ibis.expr.types as ir

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import FILE_ROW, ITEM, TIMESTAMP, UNKNOWN_LABEL, USER
from fairrec_pipeline.interactions.sources.raw_files import RawData, Step, readable
from fairrec_pipeline.interactions.sources.values import blank_to_null, id_text, ids, label_text, times


class LogColumns(NamedTuple):
    """Columns of a raw log, and how its times are written (see `values.times`)."""

    user: str
    item: str
    timestamp: str
    form: str | None = None
    unit: str | None = None


def checked_events(
    log: ir.Table, columns: LogColumns, path: Path, *, malformed: float = 0.0, n_malformed: int = 0
) -> RawData:
    """Events of a raw log, whose users have no attributes.

    Args:
        log: the columns, and file_row.
        malformed: share of the rows that may be left out.
        n_malformed: how many lines were left out already.

    Raises:
        DataError: the log is empty, or more rows than allowed have no user, no item or no time that can be read.
    """
    names = {USER: columns.user, ITEM: columns.item, TIMESTAMP: columns.timestamp}
    if log[columns.timestamp].type().is_nested():
        message = f"{path} has times of type {log[columns.timestamp].type()} in {columns.timestamp}. Allowed: one a row"
        raise DataError(message)
    with readable(path):
        filled = {column: blank_to_null(log[name]) for column, name in names.items()}
        events = log.select(**filled, **{FILE_ROW: log[FILE_ROW]}).cache()
        nulls = {column: events[column].isnull().sum() for column in names}
        counts = events.agg(n_rows=events.count(), **nulls).to_pandas().iloc[0]
        n_rows = int(counts.n_rows)
        if n_rows == 0 and not n_malformed:
            message = f"{path} is empty: it has columns but no rows. Put a log with interactions there"
            raise DataError(message)
        bad = [f"{name} ({counts[column]:.0f})" for column, name in names.items() if counts[column]]
        if bad and not malformed:
            message = (
                f"{path} has null or blank values in {', '.join(bad)} among its {n_rows} rows. Every row needs a user, "
                f"an item and a time: remove those rows from the file, or let a share of the rows be malformed"
            )
            raise DataError(message)
        events = events.drop_null(list(names))
        read = times(events[TIMESTAMP], columns.form, columns.unit)
        events = events.mutate(instant=read.values).cache()
        unreadable = events.filter(events.instant.isnull())
        n_unreadable = count_rows(unreadable)
        if n_unreadable and not malformed:
            values = examples(unreadable.select(value=unreadable[TIMESTAMP].cast("string")), "value")
            message = (
                f"{path} has {n_unreadable} of {n_rows} values in {columns.timestamp} that cannot be read as a time: "
                f"{values}. Allowed: {read.allowed}"
            )
            raise DataError(message)
        good = events.filter(events.instant.notnull())
        n_good = count_rows(good)
        n_bad = n_rows - n_good + n_malformed
        if n_bad > malformed * (n_rows + n_malformed) or n_good == 0:
            raise DataError(_malformed_message(n_bad, n_rows + n_malformed, n_malformed, n_unreadable, malformed, path))
        checked = good.select(
            **{
                USER: ids(good[USER], columns.user, path),
                ITEM: ids(good[ITEM], columns.item, path),
                TIMESTAMP: good.instant,
                FILE_ROW: good[FILE_ROW],
            }
        ).cache()
        n_repeated = n_good - count_rows(checked.select(USER, ITEM, TIMESTAMP).distinct())
    steps = [Step("with a user, an item and a time", n_good, n_rows - n_good, "null, blank or unreadable values")]
    if read.n_cut:
        steps.append(Step(f"{read.n_cut:,} times are finer than a microsecond and were cut", n_good))
    steps.append(Step(f"{n_repeated:,} repeat the user, item and time of another row; they are kept", n_good))
    users = checked.select(USER).distinct().order_by(USER).cache()
    return RawData(checked, users, (path,), tuple(steps), n_repeated)


def count_rows(table: ir.Table) -> int:
    return int(table.count().execute())


def checked_attributes(
    users: ir.Table, user: str, attributes: Sequence[str], of_log: ir.Table, path: Path
) -> tuple[ir.Table, float]:
    """Attributes of the users of the events.

    A row belongs to a user of the log if the id is the same text or the same number, exactly: 001 is not 1, nor is 0.6.

    Args:
        users: a row per user.
        user, attributes: its columns of ids and of labels.
        of_log: the users of the events.

    Returns:
        user_id and the labels as text, one row per user of the events, "unknown" where there is no label; and the share
        of the users that have a row.

    Raises:
        DataError: two rows for a user, or a row for no user of the log.
    """
    with readable(path):
        labels = {name: label_text(users[name], name, path) for name in attributes}
        texts = blank_to_null(id_text(blank_to_null(users[user]), user, path))
        if of_log[USER].type().is_integer():  # 1.0 is the number 1, 001 may be a code
            texts = texts.re_replace(r"^(-?(?:0|[1-9]\d*))\.0+$", r"\1")
        table = users.select(id_text=texts, **labels).filter(ibis._.id_text.notnull()).cache()
        twice = table.group_by("id_text").agg(n=ibis._.count()).filter(ibis._.n > 1).order_by("id_text")
        n_twice = count_rows(twice)
    if n_twice:
        message = (
            f"{path} has more than one row for {n_twice} users: {examples(twice, 'id_text')}. Keep one row per user"
        )
        raise DataError(message)
    keyed = of_log.mutate(id_text=of_log[USER].cast("string"))
    n_users, n_matched = count_rows(keyed), count_rows(keyed.semi_join(table, "id_text"))
    if n_matched == 0:
        message = (
            f"{path} has a row for none of the {n_users} users of the log: its ids are such as "
            f"{examples(table, 'id_text')}, those of the log such as {examples(keyed, 'id_text')}. Write the ids in "
            f"the same way in both files"
        )
        raise DataError(message)
    joined = keyed.left_join(table, "id_text").order_by(keyed[USER])
    known = {name: table[name].fill_null(UNKNOWN_LABEL) for name in attributes}
    return joined.select(keyed[USER], **known).cache(), n_matched / n_users


def examples(table: ir.Table, column: str) -> str:
    """The three smallest values of a column, for a message."""
    few = table.select(column).distinct().order_by(column).limit(3).to_pandas()[column]
    return ", ".join(repr(value) for value in few)


def _malformed_message(n_bad: int, n_rows: int, n_lines: int, n_times: int, malformed: float, path: Path) -> str:
    n_nulls = n_bad - n_lines - n_times
    return (
        f"{path} has {n_bad} malformed rows of {n_rows}, {n_bad / n_rows:.1%}: {n_lines} with another number of fields "
        f"or characters of another encoding, {n_times} with a time that cannot be read, {n_nulls} with null or blank "
        f"values. malformed={malformed} lets {malformed:.1%} be left out. Correct the file or raise it"
    )
