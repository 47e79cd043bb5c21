"""Raw files as tables of text or of their types; DuckDB reads them.

Text files are read as text and typed later, because a type guessed from the first rows turns a bad value further down
into an error that names neither the file nor the column.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import ibis.expr.types as ir

from fairrec_pipeline.interactions.engine import engine
from fairrec_pipeline.interactions.errors import DataError
from fairrec_pipeline.storage import sha256


class RawData(NamedTuple):
    """What a source holds.

    Attributes:
        events: columns user_id, item_id, timestamp.
        user_attributes: one row per user of the events, one column per attribute.
        files: that were read.
    """

    events: ir.Table
    user_attributes: ir.Table
    files: tuple[Path, ...] = ()


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes, time of the last change and SHA-256 of a file: enough to see that it was replaced."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256(path)}


def read_table(path: Path) -> ir.Table:
    """A Parquet file with its types, or a text file as text."""
    suffixes = {suffix.lower() for suffix in path.suffixes[-2:]}
    if suffixes & {".parquet", ".pq"}:
        require_file(path)
        with readable(path):
            return engine().read_parquet(path).cache()
    if suffixes & {".csv", ".tsv"}:
        return read_text(path, header=True)
    message = f"{path} has a suffix that says nothing of its format. Allowed: .parquet, .csv, .csv.gz, .tsv, .tsv.gz"
    raise DataError(message)


def read_text(path: Path, origin: Path | None = None, **dialect: Any) -> ir.Table:
    """A text file as text; errors name its origin."""
    require_file(path)
    with readable(path if origin is None else origin):
        if path.stat().st_size == 0:  # DuckDB would make up a column
            message = f"{path if origin is None else origin} is empty. Put a whole copy there"
            raise DataError(message)
        return engine().read_csv(path, all_varchar=True, **dialect).cache()


def read_member(archive: Path, member: str, **dialect: Any) -> ir.Table:
    """A text file of a zip archive; DuckDB cannot look into one, so the member is unpacked for the time of reading."""
    require_file(archive)
    name = find_member(archive, member)
    if name is None:
        message = f"{archive} holds no {member}. Take the archive as it is published"
        raise DataError(message)
    with tempfile.TemporaryDirectory() as folder:
        with readable(archive), zipfile.ZipFile(archive) as files:
            path = Path(files.extract(name, folder))
        return read_text(path, archive / name, **dialect)


def find_member(archive: Path, name: str) -> str | None:
    """Full name of a file of the archive, in whatever folder of it."""
    with readable(archive), zipfile.ZipFile(archive) as files:
        return next((member for member in sorted(files.namelist()) if member.rpartition("/")[2] == name), None)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, zipfile.BadZipFile, EOFError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"{path} cannot be read: {reason}. The file is damaged or of another format; put a whole copy there"
        raise DataError(message) from error


def require_file(path: Path) -> None:
    if not path.is_file():
        message = f"{path} does not exist. Put the file there, or change its name in parameters_datasets.yml"
        raise DataError(message)


def require_columns(table: ir.Table, columns: Sequence[str], path: Path, hint: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        message = f"{path} has no column {', '.join(missing)}; its columns are {', '.join(table.columns)}. {hint}"
        raise DataError(message)
