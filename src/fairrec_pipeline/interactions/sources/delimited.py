"""CSV files of users: header, separator and encoding, and rows that are malformed."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, AnyStr, NamedTuple

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
    b"\x1f\x8b": "compressed by gzip: name it .csv.gz, or unpack it if it was compressed twice",
    b"PK\x03\x04": "a zip archive (or a spreadsheet): unpack it, or save the table as CSV",
    b"\xd0\xcf\x11\xe0": "a spreadsheet of an old Excel: save the table as CSV",
    b"PAR1": "a Parquet file: name it .parquet",
    b"BZh": "compressed by bzip2: unpack it, or compress it by gzip",
    b"\xfd7zXZ": "compressed by xz: unpack it, or compress it by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it, or compress it by gzip",
}
"""What a file is by its first bytes, whatever its name says."""
_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_OTHER_TEXTS = {"{": "JSON", "[{": "JSON", "<": "HTML or XML"}
"""What a text without the columns is by how it begins."""
_LONGEST_HEADER = 1 << 20
"""In characters; a file without line ends, such as JSON, is not read to its end for the names of its columns."""


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
    csv.field_size_limit(2**31 - 1)  # an open quote may swallow the rest of the file
    with readable(path), tempfile.TemporaryDirectory() as scratch:
        _require_text(path, dialect)
        header = _header(path, columns, dialect)
        if other := _by_beginning(header.separator.join(header.names).lstrip(), _OTHER_TEXTS):
            hint = f"It begins as {other} does: save the table as CSV. {hint}"
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
    """Name what is no text at all, or another one than it is read as, by its first bytes, unpacked."""
    with gzip.open(path) if is_gzipped(path) else path.open("rb") as file:
        first = file.read(8)
    if other := _by_beginning(first, _OTHER_FORMATS):
        raise DataError(f"{path} is {other}")
    if dialect.encoding == "utf-8" and (mark := _by_beginning(first, _MARKS)):
        raise UnicodeError(f"it begins with the byte order mark of {mark}")


def _by_beginning(first: AnyStr, known: Mapping[AnyStr, str]) -> str | None:
    return next((what for beginning, what in known.items() if first.startswith(beginning)), None)


def _header(path: Path, columns: Sequence[str], dialect: Csv) -> _Header:
    """Names of the columns; with the separator at which all wanted ones are there, if there is such a one."""
    first = "\t" if ".tsv" in path.suffixes else ","
    candidates = [dialect.separator] if dialect.separator else [first, *_SEPARATORS]
    headers = [_header_at(path, separator, dialect) for separator in candidates]
    return next((header for header in headers if set(columns) <= set(header.names)), headers[0])


def _header_at(path: Path, separator: str, dialect: Csv) -> _Header:
    # A line further down may be of another encoding: DuckDB says which.
    with _opened(path, dialect, errors="surrogateescape") as file:
        beginning = io.StringIO(file.read(_LONGEST_HEADER), newline="")
    for blank_lines, names in enumerate(csv.reader(beginning, delimiter=separator)):
        shown = ascii(separator.join(names))[:80]
        if "\0" in "".join(names):
            raise DataError(
                f"{path} is no CSV in {dialect.encoding}: its header {shown} has NUL bytes. Save the table as CSV, or "
                f"set csv: {{encoding: utf-16-le}} (utf-16-be, utf-32, ...) if it is a text of that encoding"
            )
        if not _is_text(names):
            raise UnicodeError(f"the header {shown} is no text")
        if names:
            return _Header(names, separator, blank_lines)
    raise DataError(f"{path} is empty. Put a whole copy there")


def _copy(path: Path, target: Path, header: _Header, dialect: Csv, *, drop: bool) -> int:
    """Write the file as UTF-8, and return how many lines were left out as malformed."""
    n_dropped, last = 0, 0
    errors = "surrogateescape" if drop else "strict"
    with _opened(path, dialect, errors) as file, target.open("w", encoding="utf-8", newline="") as out:
        if not drop:
            shutil.copyfileobj(file, out, 1 << 20)
            return 0
        reader, writer = csv.reader(file, delimiter=header.separator), csv.writer(out, delimiter=header.separator)
        for row in reader:
            if len(row) == len(header.names) + 1 and not row[-1]:  # DuckDB allows a separator at the end, too
                row.pop()
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
