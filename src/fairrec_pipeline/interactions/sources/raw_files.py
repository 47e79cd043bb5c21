"""Raw files as tables: what lies below the data folder, read by DuckDB, with errors that name file and cause.

Text files are read as text and typed later, because a type guessed from the first rows turns a bad value further down
into an error that names neither the file nor the column.
"""

from __future__ import annotations

import csv
import gzip
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import FILE_ROW
from fairrec_pipeline.storage import sha256


class Step(NamedTuple):
    """What a step kept and dropped, in rows of the log."""

    what: str
    kept: int
    dropped: int = 0
    why: str = ""


class RawData(NamedTuple):
    """What a source holds.

    Attributes:
        events: columns user_id, item_id, timestamp, file_row (0-based, in the order of the files).
        user_attributes: one row per user of the events, one column per attribute.
        steps: what was kept and dropped on the way.
        n_repeated: rows with the user, item and time of another one; they are kept.
        matched_users: share of the users of the events that have a row of attributes; None without attributes.
    """

    events: ir.Table
    user_attributes: ir.Table
    files: tuple[Path, ...] = ()
    steps: tuple[Step, ...] = ()
    n_repeated: int = 0
    matched_users: float | None = None


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes, times and SHA-256 of a file: enough to see that it was replaced."""
    return {**file_times(path), "sha256": sha256(path)}


def file_times(path: Path) -> dict[str, int]:
    """Size and times of a file: if none has changed, nor has its content, and a large file need not be read."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}


def located(folder: Path, name: str) -> Path:
    """Path of a file or folder below the data folder.

    Raises:
        DataError: there is none, or it is a link to somewhere else.
    """
    path = folder / name
    if not path.exists():
        raise DataError(f"{path} does not exist. Put the file there, or change its name in datasets.{folder.name}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"{path} is a link to {path.resolve()}, outside of the data folder {folder}. Put the file itself there, or "
            f"make {folder} the link"
        )
    return path


PARQUET = (".parquet", ".pq")


def parquet_parts(folder: Path) -> list[str]:
    """Names of the Parquet files below a folder, in order.

    As Spark and Arrow have it, what begins with a dot or an underscore is not of the data.
    """
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PARQUET and file.is_file())
    names = [file.relative_to(folder) for file in found]
    return [name.as_posix() for name in names if not any(part[0] in "._" for part in name.parts)]


def require_whole(path: Path) -> None:
    """Read a .gz file to its end: of one that is cut off DuckDB reads the first part and says nothing.

    Raises:
        EOFError: it is cut off.
    """
    if is_gzipped(path):
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass


def is_gzipped(path: Path) -> bool:
    """Whether the name of a file says so."""
    return path.suffix.lower() == ".gz"


def with_numbers(table: ir.Table) -> ir.Table:
    """The table with the 0-based number of each row; without another order DuckDB keeps that of the files."""
    return table.mutate(**{FILE_ROW: ibis.row_number()})


def numbered(table: ir.Table) -> ir.Table:
    """The same, read: the file may be gone afterwards."""
    return with_numbers(table).cache()


# zipfile says RuntimeError of an encrypted member, NotImplementedError of a compression that it does not know
_DAMAGE = (
    duckdb.Error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    csv.Error,
    pa.ArrowException,
    OSError,
    EOFError,
    RuntimeError,
    OverflowError,
    UnicodeError,
)


_MOST, _LONGEST = 30, 80
"""Names that a message shows, and characters of each: what is no CSV may seem to have a column as long as the file."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what a library says of a file that cannot be read into an error that names the file, cause and next step."""
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(_what_is_wrong(path, error)) from error


def require_columns(columns: Sequence[str], wanted: Sequence[str], path: Path, hint: str) -> None:
    """Make sure that a file has every column, and once; to DuckDB names that differ in case only are the same."""
    if missing := [column for column in wanted if column not in columns or not column]:
        raise DataError(f"{path} has no column {_shown(missing)}; its columns are {_shown(columns)}. {hint}")
    twice = [column for column in wanted if list(columns).count(column) > 1]
    if twice:
        raise DataError(f"{path} has the column {', '.join(twice)} more than once. Rename all but one")
    folded = [column.casefold() for column in wanted]
    alike = [column for column in wanted if folded.count(column.casefold()) > 1]
    if alike:
        raise DataError(f"{path} has columns whose names differ in case only: {', '.join(alike)}. Rename all but one")
    if FILE_ROW in folded:
        raise DataError(f"{path} has a column called {FILE_ROW}, as the numbers of the rows are called here. Rename it")


def _shown(names: Sequence[str]) -> str:
    plain = (name if name and name.isprintable() and name == name.strip() else repr(name) for name in names[:_MOST])
    more = [f"and {len(names) - _MOST} more"] if len(names) > _MOST else []
    return ", ".join([*(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..." for name in plain), *more])


def _what_is_wrong(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{path} cannot be read: {error.strerror}. Give yourself the right to read it"
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder. Put the file itself there"
    # what DuckDB says, with the line and its text, without its advice on options that nobody here can set
    text = re.split(r"^\s*(?:Possible|file =|LINE \d)", str(error).strip(), maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip()[:200] for line in text.splitlines() if line.strip()]
    lines = lines if len(lines) < 6 else [*lines[:3], "...", lines[-1]]  # an open quote swallows many
    reason = "; ".join(lines).rstrip(".") or type(error).__name__
    if isinstance(error, UnicodeError) or "not utf-8 encoded" in reason:
        return (
            f"{path} has another encoding than the one that it is read with, utf-8 unless the dataset's block names "
            f"one: {reason}. Set csv: {{encoding: latin-1}} (or cp1252, utf-16, ...) in datasets.{path.parent.name}, "
            f"or save the file as UTF-8"
        )
    next_step = "The file is damaged or of another format; put a whole copy there"
    if "state machine" in reason:
        next_step = "If its lines end in different ways (\\r\\n and \\n), save it again, or set `malformed` above 0"
    elif "Could not convert Timestamp" in reason:
        next_step = "A time is further from 1970 than 290,000 years; correct it"
    elif re.search(r"on Line: \d+", reason):
        next_step = "Correct that line, or let a share of the rows be malformed: `malformed` in the dataset's block"
    return f"{path} cannot be read: {reason}. {next_step}"
