"""The log of a user of this project: a file of interactions, and one of user attributes."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

import ibis.expr.types as ir

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.engine import engine, literal_path
from fairrec_pipeline.interactions.sources.checks import checked_events, count_rows, examples, with_attributes
from fairrec_pipeline.interactions.sources.delimited import read_delimited
from fairrec_pipeline.interactions.sources.raw_files import (
    PARQUET,
    RawData,
    Step,
    located,
    parquet_parts,
    readable,
    require_columns,
    with_numbers,
)
from fairrec_pipeline.interactions.sources.values import label_text
from fairrec_pipeline.parameters.datasets import Csv, Table

_COMPARISON = re.compile(r"\s*([<>=!~]+)\s*(.+?)\s*")
_OPERATORS = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq, "==": operator.eq,
    "!=": operator.ne,
}  # fmt: skip


def read_own_table(folder: Path, source: Table) -> RawData:
    """Read the files that a dataset's block names; see `read_source`."""
    columns = list(dict.fromkeys([source.user, source.item, source.timestamp, *source.where]))
    hint = f"Set user, item and timestamp of datasets.{folder.name} to columns of the file"
    path = folder / source.interactions
    log, files, n_malformed = read_columns(folder, source.interactions, columns, hint, source)
    with readable(path):
        n_rows = count_rows(log)
    steps = [Step(f"read {source.interactions}", n_rows, n_malformed, "malformed lines")]
    for column, wanted in source.where.items():
        log = _keep_rows(log, column, wanted, path)
        n_kept = count_rows(log)
        steps.append(Step(f"where {column} is {_shown(wanted)}", n_kept, steps[-1].kept - n_kept, "other values"))
    raw = checked_events(log, source, path, steps, n_malformed)
    if source.users is not None:
        hint = f"Set user and user_attributes of datasets.{folder.name} to columns of the file"
        columns = [source.user, *source.user_attributes]
        users, more, _ = read_columns(folder, source.users, columns, hint, source)
        raw, files = with_attributes(raw, users, source, folder / source.users), [*files, *more]
    return raw._replace(files=tuple(files))


def read_columns(
    folder: Path,
    name: str,
    columns: Sequence[str],
    hint: str,
    source: Table | None = None,
    optional: Sequence[str] = (),
) -> tuple[ir.Table, list[Path], int]:
    """Columns of a file, or of a folder of Parquet files, below the data folder.

    Args:
        hint: what to do if a column is missing.
        source: how a text file is written, and whether malformed lines are left out or the file is refused.
        optional: further columns, which need not be there.

    Returns:
        The columns with row numbers, the files they are from, and how many malformed lines were left out.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    path = located(folder, name)
    suffix = next((part.lower() for part in reversed(path.suffixes) if part.lower() != ".gz"), "")
    if suffix in PARQUET or path.is_dir():
        return *_read_parquet(path, columns, optional, hint), 0
    if suffix in (".csv", ".tsv"):
        dialect, drop = (source.csv, source.malformed > 0) if source else (Csv(), False)
        table, n_malformed = read_delimited(path, columns, dialect, hint, optional=optional, drop=drop)
        return table, [path], n_malformed
    raise DataError(
        f"{path} has a suffix that says nothing of its format. Allowed: .csv, .csv.gz, .tsv, .tsv.gz, and .parquet (a "
        f"file or a folder of them)"
    )


def _read_parquet(
    path: Path, columns: Sequence[str], optional: Sequence[str], hint: str
) -> tuple[ir.Table, list[Path]]:
    import pyarrow.parquet as pq

    files = [path] if path.is_file() else [located(path, name) for name in parquet_parts(path)]
    if not files:
        raise DataError(f"{path} is a folder without Parquet files. Put the parts of the log there")
    schemas = {}
    for file in files:
        with readable(file):
            schemas[file] = pq.read_schema(file)
    first = schemas[files[0]]
    columns = [*columns, *(name for name in optional if name in first.names)]
    for file, schema in schemas.items():
        require_columns(schema.names, columns, file, hint)
        for name in columns:
            if schema.field(name).type != first.field(name).type:
                raise DataError(
                    f"{file} has the column {name} with the type {schema.field(name).type}, but {files[0].name} has it "
                    f"with the type {first.field(name).type}. Write all parts with one type"
                )
    with readable(path):
        table = engine().read_parquet([literal_path(file) for file in files])
        return with_numbers(table.select(*columns)), files  # a file need not be kept, to be read again


def _keep_rows(log: ir.Table, column: str, wanted: Any, path: Path) -> ir.Table:
    """The rows whose value is wanted.

    Raises:
        DataError: no row is, or a value cannot be compared.
    """
    comparison = _COMPARISON.fullmatch(wanted) if isinstance(wanted, str) else None
    with readable(path):
        if comparison is None:
            values = wanted if isinstance(wanted, tuple) else (wanted,)
            kept = log.filter(_is_any(label_text(log[column], column, path), list(map(_as_text, values))))
        else:
            kept = log.filter(_compared(log, column, *comparison.groups(), path=path))
        kept = kept.cache()
        if count_rows(kept) == 0 and count_rows(log) > 0:
            texts = log.select(value=label_text(log[column], column, path))["value"]
            found = texts.topk(5, name="n").to_pandas()["value"].astype(str)
            raise DataError(
                f"where: {{{column}: {_shown(wanted)}}} keeps none of the {count_rows(log)} rows of {path}; its most "
                f"frequent values are {', '.join(map(repr, found))}. Name values that there are"
            )
    return kept


def _compared(log: ir.Table, column: str, sign: str, operand: str, *, path: Path) -> ir.BooleanValue:
    if sign not in _OPERATORS:
        raise DataError(
            f"where: {{{column}: '{sign}{operand}'}} has the operator {sign}. Allowed: {', '.join(_OPERATORS)}; a "
            f"value that begins like that is written in a list"
        )
    text, right = log[column].cast("string"), _number_or_instant(operand)
    if isinstance(right, float):
        values, kind = log[column].try_cast("float64"), "numbers"
    elif right is not None:
        values, kind = text.try_cast("timestamp('UTC')"), "dates"
    elif sign in ("=", "==", "!="):
        is_equal = _is_any(label_text(log[column], column, path), [operand]).fill_null(False)
        return ~is_equal if sign == "!=" else is_equal
    else:
        message = f"where: {{{column}: '{sign}{operand}'}} compares with no number and no ISO date. Write one of them"
        raise DataError(message)
    bad = log.filter(log[column].notnull() & (text.strip() != "") & values.isnull())
    n_bad = count_rows(bad)
    if n_bad:
        raise DataError(
            f"{path} has {n_bad} values in {column} that are no {kind}, which where: {{{column}: '{sign}{operand}'}} "
            f"needs: {examples(bad[column].cast('string'))}. Correct them, or name the values to keep in a list"
        )
    return _OPERATORS[sign](values, right).fill_null(sign == "!=")  # what has no value is not that value


def _is_any(labels: ir.Column, wanted: list[str]) -> ir.BooleanValue:
    """Whether a label is one of those; true and false may be written as in YAML, Python or SQL."""
    booleans = [text.lower() for text in wanted if text.lower() in ("true", "false")]
    return labels.isin(wanted) | labels.lower().isin(booleans)


def _number_or_instant(text: str) -> float | datetime | None:
    with suppress(ValueError):
        return float(text) if isfinite(float(text)) else None
    with suppress(ValueError):
        instant = datetime.fromisoformat(text)
        return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return None


def _as_text(value: Any) -> str:
    """A value of YAML as `label_text` writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _shown(wanted: Any) -> str:
    return f"[{', '.join(map(_as_text, wanted))}]" if isinstance(wanted, tuple) else _as_text(wanted)
