"""CSV files of users: header, separator and encoding, and rows that are malformed."""

from __future__ import annotations

import csv
import gzip
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import ibis.expr.types as ir

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.engine import engine, literal_path
from fairrec_pipeline.interactions.sources.raw_files import (
    is_gzipped,
    numbered,
    readable,
    require_columns,
    require_whole,
)
from fairrec_pipeline.parameters.datasets import Csv

_SEPARATORS = (",", "\t", ";", "|")
_OTHER_FORMATS = {
    b"\x1f\x8b": "compressed by gzip: name it .csv.gz",
    b"PK\x03\x04": "a zip archive (or a spreadsheet): unpack it, or save the table as CSV",
    b"PAR1": "a Parquet file: name it .parquet",
    b"BZh": "compressed by bzip2: unpack it, or compress it by gzip",
}
"""What a file is by its first bytes, whatever its name says."""


class _Header(NamedTuple):
    names: list[str]
    separator: str
    blank_lines: int


def read_delimited(
    path: Path, columns: Sequence[str], dialect: Csv, hint: str, *, optional: Sequence[str], drop: bool
) -> tuple[ir.Table, int]:
    """Read columns of a CSV or TSV file as text.

    Args:
        path: `.gz` is unpacked.
        dialect: separator (None: the one of , tab ; | at which the header has the columns) and encoding.
        hint, optional, drop: see `table.read_columns`.

    Returns:
        The columns with row numbers, and the number of lines left out.

    Raises:
        DataError: the file is empty, has no such column, another encoding, or a malformed row.
    """
    with readable(path), tempfile.TemporaryDirectory() as scratch:
        _require_text(path, dialect)
        header = _header(path, columns, dialect)
        columns = [*columns, *(name for name in optional if name in header.names)]
        require_columns(header.names, columns, path, hint)
        source, n_dropped, skip = path, 0, header.blank_lines
        if drop or dialect.encoding != "utf-8":
            source = Path(scratch, "rows.csv")
            skip = 0 if drop else skip
            n_dropped = _copy(path, source, header, dialect, drop=drop)
        require_whole(source)
        table = engine().read_csv(
            literal_path(source), auto_detect=False, header=True, skip=skip, delim=header.separator, quote='"',
            escape='"', columns={f"c{n}": "VARCHAR" for n in range(len(header.names))},
            compression="gzip" if is_gzipped(source) else "none",
        )  # fmt: skip
        named = table.select(**{name: table[f"c{header.names.index(name)}"] for name in columns})
        return numbered(named), n_dropped


def _require_text(path: Path, dialect: Csv) -> None:
    """Name what is no text at all, or another one than it is read as, by its first bytes."""
    with path.open("rb") as file:
        first = file.read(4)
    other = next((what for magic, what in _OTHER_FORMATS.items() if first.startswith(magic)), None)
    if other and not is_gzipped(path):
        raise DataError(f"{path} is {other}")
    if dialect.encoding == "utf-8" and first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnicodeError("it begins with the byte order mark of utf-16")


def _header(path: Path, columns: Sequence[str], dialect: Csv) -> _Header:
    """Names of the columns; with the separator at which all wanted ones are there, if there is such a one."""
    first = "\t" if ".tsv" in path.suffixes else ","
    candidates = [dialect.separator] if dialect.separator else [first, *_SEPARATORS]
    headers = [_header_at(path, separator, dialect) for separator in candidates]
    return next((header for header in headers if set(columns) <= set(header.names)), headers[0])


def _header_at(path: Path, separator: str, dialect: Csv) -> _Header:
    # A line further down may be of another encoding: DuckDB says which.
    with _opened(path, dialect, errors="surrogateescape") as file:
        for blank_lines, names in enumerate(csv.reader(file, delimiter=separator)):
            if not _is_text(names) or "\x00" in "".join(names):
                raise UnicodeError(f"the header {ascii(separator.join(names))[:80]} is no text")
            if names:
                return _Header(names, separator, blank_lines)
    raise DataError(f"{path} is empty. Put a whole copy there")


def _copy(path: Path, target: Path, header: _Header, dialect: Csv, *, drop: bool) -> int:
    """Write the file as UTF-8, and return how many lines were left out as malformed."""
    csv.field_size_limit(2**31 - 1)  # an open quote may swallow the rest of the file
    n_dropped, last = 0, 0
    errors = "surrogateescape" if drop else "strict"
    with _opened(path, dialect, errors) as file, target.open("w", encoding="utf-8", newline="") as out:
        if not drop:
            shutil.copyfileobj(file, out, 1 << 20)
            return 0
        reader, writer = csv.reader(file, delimiter=header.separator), csv.writer(out, delimiter=header.separator)
        for row in reader:
            if len(row) == len(header.names) and _is_text(row):
                writer.writerow(row)
            elif row:
                n_dropped += reader.line_num - last  # an open quote swallows lines
            last = reader.line_num
    return n_dropped


def _is_text(row: list[str]) -> bool:
    try:
        "".join(row).encode()
    except UnicodeEncodeError:  # bytes that are not of the encoding
        return False
    return True


def _opened(path: Path, dialect: Csv, errors: str) -> IO[str]:
    encoding = "utf-8-sig" if dialect.encoding == "utf-8" else dialect.encoding
    opened: Callable[..., IO[str]] = gzip.open if is_gzipped(path) else open
    return opened(path, "rt", encoding=encoding, errors=errors, newline="")
