"""What a user names for recommendations: files of items, and files of histories of users of whom nothing was known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import FILE_ROW, ITEM, TIMESTAMP, USER
from fairrec_pipeline.interactions.histories import stream_histories
from fairrec_pipeline.interactions.sources.checks import examples
from fairrec_pipeline.interactions.sources.raw_files import located, readable
from fairrec_pipeline.interactions.sources.table import read_columns
from fairrec_pipeline.interactions.sources.values import blank_to_null, id_text, ids, times

_TABLES = (".csv", ".tsv", ".parquet", ".pq", ".gz")


def read_items(folder: Path, name: str, item_type: type[int] | type[str]) -> list[Any]:
    """Item ids of a file.

    Args:
        name: of the file. CSV, TSV and Parquet have a column item_id; any other file has one id a line.

    Raises:
        DataError: there is no such file, it cannot be read, names no item, or has ids of another type.
    """
    path = located(folder, name)
    if path.suffix.lower() in _TABLES:
        table, *_ = read_columns(folder, name, [ITEM], f"Write the file with the columns {ITEM}")
    else:
        with readable(path):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        table = ibis.memtable({ITEM: lines}, schema={ITEM: "string"})
    with readable(path):
        items = blank_to_null(id_text(table[ITEM], ITEM, path))
        typed = _typed(table.select(**{ITEM: items}).drop_null(), item_type, path)
        listed: list[Any] = typed.distinct().order_by(ITEM).to_pyarrow()[ITEM].to_pylist()
    if not listed:
        raise DataError(f"{path} names no item. Write one id a line, or leave the file out")
    return listed


def read_histories(folder: Path, name: str, item_type: type[int] | type[str]) -> Iterator[tuple[Any, list[Any]]]:
    """Users, ascending, with the items of their histories, oldest first.

    Args:
        name: of a CSV, TSV or Parquet file with the columns user_id and item_id, and timestamp where the rows are not
            in the order of time. A row without an item stands for a user without a history.

    Raises:
        DataError: there is no such file, it cannot be read, a row has no user, or a time that cannot be read.
    """
    path = located(folder, name)
    hint = f"Write the file with the columns {USER}, {ITEM} and, if need be, {TIMESTAMP}"
    rows, *_ = read_columns(folder, name, [USER, ITEM], hint, optional=[TIMESTAMP])
    with readable(path):
        rows = rows.mutate(**{name: blank_to_null(rows[name]) for name in rows.columns}).cache()
        items = blank_to_null(id_text(rows[ITEM], ITEM, path))
        when = times(rows[TIMESTAMP], None, None).values if TIMESTAMP in rows.columns else rows[FILE_ROW]
        histories = rows.mutate(**{USER: ids(rows[USER], USER, path), ITEM: items, TIMESTAMP: when})
        _refuse_gaps(histories, path)
        return stream_histories(_typed(histories, item_type, path).order_by(USER, TIMESTAMP, FILE_ROW))


def _refuse_gaps(histories: ir.Table, path: Path) -> None:
    no_time = histories[TIMESTAMP].isnull() & histories[ITEM].notnull()
    counts = histories.agg(n=histories.count(), users=histories[USER].isnull().sum(), times=no_time.sum())
    n, n_without_user, n_without_time = counts.to_pandas().fillna(0).iloc[0].astype(int)
    if n == 0:
        raise DataError(f"{path} has no rows. Write one row an interaction, and one without an item for a new user")
    for n_bad, what in ((n_without_user, "without a user"), (n_without_time, "whose time cannot be read")):
        if n_bad:
            raise DataError(f"{path} has {n_bad} rows {what} among its {n} rows. Correct or remove them")


def _typed(table: ir.Table, item_type: type[int] | type[str], path: Path) -> ir.Table:
    """The table with its texts of items as ids of the model's type; the ids of a model are all of one type."""
    if item_type is str:
        return table
    numbers = table[ITEM].try_cast("int64")
    if shown := examples(table.filter(table[ITEM].notnull() & numbers.isnull())[ITEM]):
        message = (
            f"{path} has item ids such as {shown}, and those of the model are whole numbers. Correct or remove them"
        )
        raise DataError(message)
    return table.mutate(**{ITEM: numbers})
