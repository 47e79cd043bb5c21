"""What every source is checked for before its events and attributes are used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import FILE_ROW, ITEM, TIMESTAMP, UNKNOWN_LABEL, USER
from fairrec_pipeline.interactions.sources.raw_files import RawData, Step, readable
from fairrec_pipeline.interactions.sources.values import blank_to_null, id_text, ids, label_text, times
from fairrec_pipeline.parameters.datasets import Table


def checked_events(log: ir.Table, source: Table, path: Path, steps: Sequence[Step], n_malformed: int = 0) -> RawData:
    """Events of a raw log, whose users have no attributes.

    Args:
        log: the columns of the source, and file_row.
        steps: what was kept of the file so far.
        n_malformed: how many lines were left out already.

    Raises:
        DataError: the log is empty, or more rows than allowed have no user, no item or no time that can be read.
    """
    names = {USER: source.user, ITEM: source.item, TIMESTAMP: source.timestamp}
    dtype = log[source.timestamp].type()
    if dtype.is_nested() or dtype.is_boolean() or dtype.is_binary() or dtype.is_time():
        message = f"{path} has times of type {dtype} in {source.timestamp}. Allowed: one number, date or text a row"
        raise DataError(message)
    with readable(path):
        rows = log.select(FILE_ROW, **{column: blank_to_null(log[name]) for column, name in names.items()})
        counts = rows.agg(n_rows=rows.count(), **{column: rows[column].isnull().sum() for column in names})
        n_rows, *n_null = counts.to_pandas().fillna(0).astype(int).iloc[0]
        if n_rows == 0 and not n_malformed:
            raise DataError(f"{path} is empty: it has columns but no rows. Put a log with interactions there")
        if any(n_null) and not source.malformed:
            bad = [f"{name} ({n})" for name, n in zip(names.values(), n_null, strict=True) if n]
            raise DataError(
                f"{path} has null or blank values in {', '.join(bad)} among its {n_rows} rows. Every row needs a user, "
                f"an item and a time: remove those rows from the file, or let a share of the rows be malformed"
            )
        full = rows.drop_null(list(names))
        read = times(full[TIMESTAMP], source.timestamp_format, source.timestamp_unit)
        timed = full.mutate(instant=read.values)
        timed = timed if dtype.is_integer() else timed.cache()  # dates are slow to read
        unreadable, good = timed.filter(timed.instant.isnull()), timed.filter(timed.instant.notnull())
        n_unreadable, n_good = count_rows(unreadable), count_rows(good)
        if n_unreadable and not source.malformed:
            raise DataError(
                f"{path} has {n_unreadable} of {n_rows} values in {source.timestamp} that cannot be read as a time: "
                f"{examples(unreadable[TIMESTAMP].cast('string'))}. Allowed: {read.allowed}"
            )
        n_lines, n_bad = n_rows + n_malformed, n_rows + n_malformed - n_good
        if n_bad > source.malformed * n_lines or n_good == 0:
            raise DataError(
                f"{path} has {n_bad} malformed rows of {n_lines}, {n_bad / n_lines:.1%}: {n_malformed} with another "
                f"number of fields or characters of another encoding, {n_unreadable} with a time that cannot be read, "
                f"{n_bad - n_malformed - n_unreadable} with null or blank values. malformed={source.malformed} lets "
                f"{source.malformed:.1%} be left out. Correct the file or raise it"
            )
        by_column = {column: ids(good[column], names[column], path) for column in (USER, ITEM)}
        events = good.select(**by_column, **{TIMESTAMP: good.instant, FILE_ROW: good[FILE_ROW]}).cache()
        n_repeated = n_good - count_rows(events.select(USER, ITEM, TIMESTAMP).distinct())
    done = [Step("with a user, an item and a time", n_good, n_rows - n_good, "null, blank or unreadable values")]
    if read.n_cut:
        done.append(Step(f"{read.n_cut:,} times are finer than a {read.cut_at} and were cut", n_good))
    done.append(Step(f"{n_repeated:,} repeat the user, item and time of another row; they are kept", n_good))
    users = events.select(USER).distinct().order_by(USER).cache()
    return RawData(events, users, (path,), (*steps, *done), n_repeated)


def with_attributes(raw: RawData, users: ir.Table, source: Table, path: Path) -> RawData:
    """The data with the attributes of a table of users, as text: "unknown" where there is no label.

    A row belongs to a user of the log if the id is the same text or the same number, exactly: 001 is not 1, nor is 0.6.

    Args:
        raw: events, and their users.
        users: the user column of the source and its user_attributes, a row per user.

    Raises:
        DataError: two rows for a user, a row or a label for no user of the log, or rows with ids in
            another spelling.
    """
    of_log, attributes = raw.user_attributes, source.user_attributes
    with readable(path):
        labels = {f"label_{number}": label_text(users[name], name, path) for number, name in enumerate(attributes)}
        texts = blank_to_null(id_text(blank_to_null(users[source.user]), source.user, path))
        if of_log[USER].type().is_integer():  # 1.0 is the number 1, 001 may be a code
            texts = texts.re_replace(r"^(-?(?:0|[1-9]\d*))\.0+$", r"\1")
        table = users.select(id_text=texts, **labels).drop_null("id_text").cache()
        twice = table.group_by("id_text").agg(n=ibis._.count()).filter(ibis._.n > 1)
        n_twice, n_ids = count_rows(twice), count_rows(table)
    if n_ids == 0:
        raise DataError(f"{path} has no row with a user in {source.user}. Write one row per user")
    if n_twice:
        message = f"{path} has more than one row for {n_twice} users: {examples(twice.id_text)}. Keep one row per user"
        raise DataError(message)
    keyed = of_log.mutate(id_text=of_log[USER].cast("string"))
    n_users, n_matched = count_rows(keyed), count_rows(keyed.semi_join(table, "id_text"))
    if n_matched == 0:
        raise DataError(
            f"{path} has a row for none of the {n_users} users of the log: its ids are such as "
            f"{examples(table.id_text)}, those of the log such as {examples(keyed.id_text)}. Write the ids in "
            f"the same way in both files"
        )
    _refuse_other_spelling(keyed, table, path)
    joined = keyed.left_join(table, "id_text").order_by(keyed[USER])
    known = {name: joined[label].fill_null(UNKNOWN_LABEL) for name, label in zip(attributes, labels, strict=True)}
    found = joined.select(USER, **known).cache()
    if nameless := _unlabelled(found):
        raise DataError(
            f"{path} has no value in {', '.join(nameless)} for any user of the log. Fill the column, or take it out of "
            f"user_attributes"
        )
    return raw._replace(user_attributes=found, matched_users=n_matched / n_users)


def _refuse_other_spelling(users: ir.Table, rows: ir.Table, path: Path) -> None:
    """Users without a row are common; with a row that only differs as 001 from 1, they are mostly a mistake."""
    without = users.anti_join(rows, "id_text").select(plain=_plain(ibis._.id_text), of_log=ibis._.id_text).cache()
    unused = rows.anti_join(users, "id_text").select(plain=_plain(ibis._.id_text), of_row=ibis._.id_text).cache()
    alike = without.inner_join(unused, "plain").order_by("of_log").select("of_log", "of_row").to_pandas()
    if len(alike):
        shown = ", ".join(f"{row.of_row!r} for {row.of_log!r}" for row in alike.head(3).itertuples())
        raise DataError(
            f"{path} has rows of {len(alike)} users of the log in another spelling: {shown}. Write the ids in the same "
            f"way in both files, or give those users rows of their own"
        )


_DIGITS = "０１２３４５６７８９٠١٢٣٤٥٦٧٨٩"
"""Of keyboards for Chinese or Japanese, and for Arabic."""


def _plain(text: Any) -> Any:
    """An id without blanks and invisible characters around it; numbers as one number, whatever they look like."""
    trimmed = text.re_replace(r"^[\pZ\pC]+|[\pZ\pC]+$", "").translate(_DIGITS, "0123456789" * 2)
    is_number = trimmed.re_search(r"^[+-]?\d+(\.\d*)?([eE]\+?\d+)?$")
    number = ibis.ifelse(is_number, trimmed, ibis.null("string")).try_cast("decimal(38, 9)")
    return ibis.coalesce(number.cast("string"), trimmed)


def refuse_unlabelled(user_attributes: ir.Table, core: ir.Table) -> None:
    """Raise a DataError if no user of the core has a label of some attribute, though others of the log have one."""
    if nameless := _unlabelled(user_attributes.semi_join(core, USER)):
        raise DataError(
            f"no user that split.core keeps has a value in {', '.join(nameless)}: all who have one are dropped. Lower "
            f"split.core, bring attributes of the other users, or take {', '.join(nameless)} out of user_attributes"
        )


def _unlabelled(users: ir.Table) -> list[str]:
    """Attributes of which no user has a label."""
    attributes = [name for name in users.columns if name != USER]
    n_known = users.agg(
        n=users.count(), **{f"known_{name}": (users[name] != UNKNOWN_LABEL).sum() for name in attributes}
    )
    counts = n_known.to_pandas().fillna(0).iloc[0]
    return [name for name in attributes if counts[f"known_{name}"] == 0]


def count_rows(table: ir.Table) -> int:
    return int(table.count().execute())


def examples(column: ir.Column) -> str:
    """The three smallest values of a column, for a message."""
    values = column.name("value").as_table().distinct().order_by("value").limit(3)
    return ", ".join(map(repr, values.to_pyarrow()["value"].to_pylist()))
