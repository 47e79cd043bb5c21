"""Logs of users, clean and odd: each is read right, or refused by a message with file, cause and next step."""

from __future__ import annotations

import gzip
import re
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.sources import read_source
from fairrec_pipeline.interactions.sources.raw_files import RawData
from fairrec_pipeline.parameters.datasets import DatasetName, Source

BLOCK = {"adapter": "table", "interactions": "log.csv", "user": "who", "item": "what", "timestamp": "when"}


def read(folder: Path, **block: Any) -> RawData:
    return read_source(folder, Source.model_validate({**BLOCK, **block}))


def rows(raw: RawData) -> list[tuple[Any, ...]]:
    return list(raw.events.order_by("file_row").to_pandas().itertuples(index=False, name=None))


def write(folder: Path, text: str, name: str = "log.csv", encoding: str = "utf-8") -> None:
    data = text.encode(encoding)
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


GOOD = "who,what,when\n1,5,10\n2,6,20\n"


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../log.csv", "/etc/log.csv", "a/../../log.csv", "s3://b/log.csv", "C:\\log.csv", "~x"]
)
@pytest.mark.parametrize("key", ["interactions", "users"])
def test_files_lie_below_the_data_folder(name: str, key: str) -> None:
    with pytest.raises(ValidationError, match=r"below the data folder is expected, without `..` and not absolute"):
        Source.model_validate({**BLOCK, key: name})


def test_a_link_out_of_the_data_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    write(tmp_path, GOOD)
    (folder / "log.csv").symlink_to(tmp_path / "log.csv")
    with pytest.raises(DataError, match=r"shop/log.csv is a link to .*, outside of the data folder .* the file itself"):
        read(folder)
    (folder / "log.csv").unlink()
    write(folder, GOOD, "real.csv")
    (folder / "log.csv").symlink_to("real.csv")
    (tmp_path / "link").symlink_to(folder)
    assert len(rows(read(tmp_path / "link"))) == 2


@pytest.mark.parametrize("name", ["log[1].csv", "log*.csv", "log?.csv", "a b'c.csv", "log[1].parquet"])
def test_no_name_is_a_pattern(tmp_path: Path, name: str) -> None:
    for other in ("log1.csv", "log22.csv"):
        write(tmp_path, "who,what,when\n8,8,8\n", other)
    pd.DataFrame({"who": [8], "what": [8], "when": [8]}).to_parquet(tmp_path / "log1.parquet")
    with pytest.raises(DataError, match=r"does not exist. Put the file there"):
        read(tmp_path, interactions=name)
    if name.endswith(".parquet"):
        pd.DataFrame({"who": [1, 2], "what": [5, 6], "when": [10, 20]}).to_parquet(tmp_path / name)
    else:
        write(tmp_path, GOOD, name)
    assert rows(read(tmp_path, interactions=name)) == [(1, 5, 10, 0), (2, 6, 20, 1)]


@pytest.mark.parametrize(
    ("name", "valid"),
    [("2024", True), (2024, True), ("my shop", True), ("1.5", True), ("yes", True), ("über", True)]
    + [(name, False) for name in ("a/b", "..", "a*", "{a}", "${a}", "a\tb", "a\nb", "a\u2028b", " a", "~a", "")],
)
def test_names_of_datasets(name: Any, valid: bool) -> None:
    adapter: TypeAdapter[str] = TypeAdapter(DatasetName)
    if valid:
        assert adapter.validate_python(name) == str(name)
    else:
        with pytest.raises(ValidationError, match="the name of a dataset is that of a folder: it has none of"):
            adapter.validate_python(name)


def test_a_folder_of_parquet_files_is_one_log(tmp_path: Path) -> None:
    frame = pd.DataFrame({"who": np.arange(40) // 4, "what": np.arange(40) % 4, "when": np.arange(40)})
    folder = tmp_path / "log.parquet"
    (folder / "day=2").mkdir(parents=True)
    frame[:15].to_parquet(folder / "part-0.parquet")
    frame[15:].to_parquet(folder / "day=2" / "part-1.parquet")
    (folder / "_SUCCESS").touch()
    for name in (".part.parquet", "_delta/a.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        frame.to_parquet(folder / name)
    raw = read(tmp_path, interactions="log.parquet")
    nested_first = pd.concat([frame[15:], frame[:15]])
    assert [row[2] for row in rows(raw)] == nested_first["when"].tolist()
    assert [path.name for path in raw.files] == ["part-1.parquet", "part-0.parquet"]


def test_parts_that_do_not_fit_or_are_damaged_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "log.parquet"
    folder.mkdir()
    with pytest.raises(DataError, match=r"log.parquet is a folder without Parquet files. Put the parts"):
        read(tmp_path, interactions="log.parquet")
    frame = pd.DataFrame({"who": [1], "what": [2], "when": [3]})
    frame.to_parquet(folder / "a.parquet")
    frame.astype({"who": str}).to_parquet(folder / "b.parquet")
    with pytest.raises(
        DataError, match=r"b.parquet has the column who with the type \w*string, but a.parquet .* int64"
    ):
        read(tmp_path, interactions="log.parquet")
    frame.rename(columns={"who": "user"}).to_parquet(folder / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet has no column who; its columns are user, what, when"):
        read(tmp_path, interactions="log.parquet")
    (folder / "b.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"b.parquet cannot be read: .*damaged"):
        read(tmp_path, interactions="log.parquet")
    (folder / "b.parquet").unlink()
    (folder / "b.parquet").symlink_to("/etc/hosts")
    with pytest.raises(DataError, match=r"b.parquet is a link to /etc/hosts, outside of the data folder"):
        read(tmp_path, interactions="log.parquet")


# --- text files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["log.csv", "log.tsv.gz"])
def test_the_separator_is_the_one_that_gives_the_columns(tmp_path: Path, separator: str, name: str) -> None:
    write(tmp_path, GOOD.replace(",", separator), name)
    assert rows(read(tmp_path, interactions=name)) == [(1, 5, 10, 0), (2, 6, 20, 1)]


def test_another_separator_is_named(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace(",", "^"))
    with pytest.raises(DataError, match=r"has no column who, what, when; its columns are who\^what\^when"):
        read(tmp_path)
    assert len(rows(read(tmp_path, csv={"separator": "^"}))) == 2
    with pytest.raises(ValidationError):
        Source.model_validate({**BLOCK, "csv": {"separator": "::"}})


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_encodings(tmp_path: Path, encoding: str, name: str) -> None:
    write(tmp_path, GOOD + "1,café,30\n", name, encoding)
    said = rf"{name} has another encoding .*Set csv: {{encoding: latin-1}} .*in datasets.{tmp_path.name}, or save"
    with pytest.raises(DataError, match=said) as error:
        read(tmp_path, interactions=name)
    assert encoding == "utf-16" or "on Line: 4; Original Line: 1,caf" in str(error.value)
    assert [row[1] for row in rows(read(tmp_path, interactions=name, csv={"encoding": encoding}))] == ["5", "6", "café"]
    with pytest.raises(ValidationError, match="no encoding is called 'utf-9'"):
        Source.model_validate({**BLOCK, "csv": {"encoding": "utf-9"}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b\x08rest", "is compressed by gzip: name it .csv.gz"),
        (b"PK\x03\x04rest", "is a zip archive"),
        (b"PAR1rest", "is a Parquet file: name it .parquet"),
        (b"\xd0\xcf\x11\xe0rest", "is a spreadsheet of an old Excel: save the table as CSV"),
        (b"\xfd7zXZrest", "is compressed by xz: unpack it"),
        (b"\x28\xb5\x2f\xfdrest", "is compressed by zstd: unpack it"),
        (
            b"SQLite format 3\0rest",
            r"is no CSV in utf-8: its header 'SQLite format 3\\x00rest' has NUL bytes. Save the",
        ),
        (GOOD.encode("utf-16-le"), r"is no CSV in utf-8: .* set csv: {encoding: utf-16-le}"),
        (GOOD.encode("utf-32"), "it begins with the byte order mark of utf-32. Set csv"),
        (b'[{"who": 1, "what": 5}, {"who": 2}]', "has no column who.* It begins as JSON does: save the table as CSV"),
        (b'{"who": 1, "what": 5}\n', "has no column who.* It begins as JSON does: save the table as CSV"),
        (b"<!DOCTYPE html><p>Log in</p>", "has no column who.* It begins as HTML or XML does: save the table as CSV"),
        (GOOD.encode("utf-16"), r"it begins with the byte order mark of utf-16. Set csv: {encoding: .*utf-16"),
    ],
)
def test_what_is_no_csv_is_called_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"log.csv .*{said}"):
        read(tmp_path)


def test_what_was_compressed_twice_is_said(tmp_path: Path) -> None:
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(gzip.compress(GOOD.encode())))
    with pytest.raises(DataError, match=r"log.csv.gz is compressed by gzip: .*unpack it if it was compressed twice"):
        read(tmp_path, interactions="log.csv.gz")


@pytest.mark.parametrize(
    "text",
    [
        f'"{GOOD}' + "1,5,10\n" * 400_000,
        "[" + '{"who": 1}, ' * 400_000,
        'who,what,when\n1,"5,10\n' + "1,5,10\n" * 100_000,
    ],
)
def test_messages_are_short_whatever_the_file_holds(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    with pytest.raises(DataError, match=r"log.csv (has no column|cannot be read)") as error:
        read(tmp_path)
    assert len(str(error.value)) < 6_000


@pytest.mark.parametrize("damage", [b"", b"who,what,when\n1,5,10\n", b"PAR1", None])
def test_a_damaged_parquet_file_is_named(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"who": range(999), "what": range(999), "when": range(999)}), path, compression="snappy")
    whole = path.read_bytes()
    for content in (
        [damage] if damage is not None else [whole[:-9], whole[: len(whole) // 2], whole[:4] + bytes(200) + whole[204:]]
    ):
        path.write_bytes(content)
        with pytest.raises(
            DataError,
            match=rf"^{path} cannot be read: .+\. The file is damaged or of another format; put a whole copy there$",
        ):
            read(tmp_path, interactions="log.parquet")


@pytest.mark.parametrize("block", [{}, {"malformed": 0.01}, {"csv": {"encoding": "latin-1"}}])
def test_a_separator_at_the_end_of_a_line_is_no_field(tmp_path: Path, block: dict[str, Any]) -> None:
    write(tmp_path, "who,what,when\n1,5,10,\n2,6,20\n")
    assert rows(read(tmp_path, **block)) == [(1, 5, 10, 0), (2, 6, 20, 1)]


@pytest.mark.parametrize("block", [{}, {"malformed": 0.9}])
def test_a_log_that_is_cut_off_is_not_read_in_part(tmp_path: Path, block: dict[str, Any]) -> None:
    whole = gzip.compress((GOOD + "1,5,30\n" * 20_000 + "1,7,40\n2,8,50\n" * 999).encode())
    (tmp_path / "LOG.CSV.GZ").write_bytes(whole)
    assert len(rows(read(tmp_path, interactions="LOG.CSV.GZ", **block))) == 22_000
    (tmp_path / "LOG.CSV.GZ").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"LOG.CSV.GZ cannot be read: Compressed file ended .*put a whole copy there"):
        read(tmp_path, interactions="LOG.CSV.GZ", **block)


def test_byte_order_mark_blank_lines_and_quotes(tmp_path: Path) -> None:
    write(
        tmp_path, '\ufeff\n\n"who","what, it is",when\r\n1,"a, ""b""\r\nc",10\r\n\r\n2,5" disk,20'.replace("\r\n", "\n")
    )
    assert [row[1] for row in rows(read(tmp_path, item="what, it is"))] == ['a, "b"\nc', '5" disk']


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,5,10,extra", r"Line: 4; Original Line: 1,5,10,extra; Expected Number of Columns: 3 Found: 4. Correct that"),
        ("1,5", r"on Line: 4; Original Line: 1,5; Expected Number of Columns: 3 Found: 2. Correct that line"),
        (
            '1,"5,10',
            r"on Line: 4; Original Line: 1,\"5,10; .*unterminated quote.*or let a share of the rows be malformed",
        ),
    ],
)
def test_a_malformed_line_is_shown(tmp_path: Path, line: str, said: str) -> None:
    write(tmp_path, f"{GOOD}{line}\n")
    with pytest.raises(DataError, match=rf"log.csv cannot be read: .*{said}"):
        read(tmp_path)


def test_lines_that_end_in_different_ways(tmp_path: Path) -> None:
    write(tmp_path, "who,what,when\r\n1,2,3\n1,2,4\r\n")
    with pytest.raises(
        DataError, match=r"log.csv cannot be read: .*If its lines end in different ways .*save it again"
    ):
        read(tmp_path)
    assert len(rows(read(tmp_path, malformed=0.01))) == 2


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet"])
def test_rows_are_numbered_in_the_order_of_the_file(tmp_path: Path, name: str) -> None:
    numbers = np.arange(300_000)
    table = pd.DataFrame({"who": numbers, "what": -numbers, "when": numbers % 97})
    if name.endswith("parquet"):
        table.to_parquet(tmp_path / name, row_group_size=5_000)
    else:
        table.to_csv(tmp_path / name, index=False)
    events = read(tmp_path, interactions=name).events.to_pandas()
    assert (events.user_id == events.file_row).all()


MALFORMED = (
    "who,what,when\n" + "".join(f"{n},{n % 7},{n}\n" for n in range(90)) + "1,2,3,4\n1,2\n,2,3\n1, ,3\n1,2,soon\n"
)


def test_a_share_of_the_rows_may_be_malformed(tmp_path: Path) -> None:
    write(tmp_path, MALFORMED)
    (tmp_path / "log.csv").write_bytes((tmp_path / "log.csv").read_bytes() + b"1,\xe9,3\n")
    raw = read(tmp_path, malformed=0.07)
    assert [row[0] for row in rows(raw)] == list(range(90))
    assert [(step.kept, step.dropped) for step in raw.steps[:2]] == [(93, 3), (90, 3)]
    said = (
        r"has 6 malformed rows of 96, 6.2%: 3 with another number .*, 1 with a time .*, 2 with null .*=0.05 lets 5.0%"
    )
    with pytest.raises(DataError, match=said):
        read(tmp_path, malformed=0.05)


def test_lines_that_an_open_quote_swallows_count(tmp_path: Path) -> None:
    write(tmp_path, 'who,what,when\n1,"2,3\n' + "1,2,3\n" * 99)
    with pytest.raises(DataError, match=r"100 malformed rows of 100"):
        read(tmp_path, malformed=0.5)


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_a_column_that_is_there_twice(tmp_path: Path, name: str) -> None:
    if name.endswith("csv"):
        write(tmp_path, "who,who,what,when\n1,2,3,4\n")
    else:
        pq.write_table(pa.table([[1], [2], [3], [4]], names=["who", "who", "what", "when"]), tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} has the column who more than once. Rename all but one"):
        read(tmp_path, interactions=name)
    with pytest.raises(ValidationError, match="the column who is named twice among who, who, when"):
        Source.model_validate({**BLOCK, "item": "who"})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_names_that_differ_in_case_only_and_the_name_of_the_row_numbers(tmp_path: Path, suffix: str) -> None:
    name, row = f"log.{suffix}", {"who": [1], "what": [2], "when": [3], "File_Row": [4], "WHEN": [5]}
    pd.DataFrame(row).to_csv(tmp_path / name, index=False) if suffix == "csv" else pq.write_table(
        pa.table(row), tmp_path / name
    )
    with pytest.raises(DataError, match=rf"{name} has columns whose names differ in case only: when, WHEN. Rename"):
        read(tmp_path, interactions=name, where={"WHEN": 5})
    with pytest.raises(DataError, match=rf"{name} has a column called file_row, as the numbers .* Rename it"):
        read(tmp_path, interactions=name, item="File_Row")


def test_a_column_with_a_blank_in_its_name_is_shown_as_such(tmp_path: Path) -> None:
    write(tmp_path, "who ,what,when\n1,2,3\n")
    with pytest.raises(DataError, match=r"has no column who; its columns are 'who ', what, when"):
        read(tmp_path)


# --- ids, times, rows -----------------------------------------------------------------------------------------------


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"who": [1, 2], "what": [5, 6], "when": [10, 20], **columns})


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([2**63 + 1, 7], pa.uint64()), ["9223372036854775809", "7"]),
        (pa.array([3, 7], pa.uint64()), [3, 7]),
        (pa.array([1.0, 2.0]), [1, 2]),
        (pa.array([Decimal(1), Decimal(2)], pa.decimal128(20, 2)), [1, 2]),
        (pa.array([Decimal(1), Decimal("2.5")], pa.decimal128(20, 2)), ["1", "2.50"]),
        (pa.array([1.0, 0.6]), ["1", "0.6"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["1.0", "2"]), ["1.0", "2"]),
    ],
)
def test_ids_of_a_parquet_file(tmp_path: Path, ids: pa.Array, expected: list[Any]) -> None:
    pq.write_table(pa.table({"who": ids, "what": [5, 6], "when": [10, 20]}), tmp_path / "log.parquet")
    assert [row[0] for row in rows(read(tmp_path, interactions="log.parquet"))] == expected


@pytest.mark.parametrize("ids", [pa.array([[1], [2]]), pa.array([{"a": 1}, {"a": 2}])])
def test_lists_and_structures_are_no_ids(tmp_path: Path, ids: pa.Array) -> None:
    pq.write_table(pa.table({"who": ids, "what": [5, 6], "when": [10, 20]}), tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log.parquet has ids of type .* in who. Allowed: numbers and texts"):
        read(tmp_path, interactions="log.parquet")


@pytest.mark.parametrize(
    ("time", "dtype"), [([1], "array<int64>"), (True, "boolean"), (b"7", "binary"), (clock(1, 2), "time")]
)
def test_lists_and_booleans_are_no_times(tmp_path: Path, time: Any, dtype: str) -> None:
    pq.write_table(pa.table({"who": [1], "what": [5], "when": pa.array([time])}), tmp_path / "log.parquet")
    with pytest.raises(DataError, match=rf"log.parquet has times of type {dtype} in when. Allowed: one number, date"):
        read(tmp_path, interactions="log.parquet")


@pytest.mark.parametrize("form", ["%d/%m/%Q", ""])
def test_what_is_no_form_of_dates_is_named(tmp_path: Path, form: str) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(DataError, match=r"timestamp_format is no form of dates: .*Write one such as %d/%m/%Y"):
        read(tmp_path, timestamp_format=form)


def test_times_of_a_form(tmp_path: Path) -> None:
    write(tmp_path, "who,what,when\n1,5,31/12/2020 10:00\n2,6,01/02/2020 00:00\n")
    with pytest.raises(
        DataError, match=r"2 of 2 values in when that cannot be read as a time: '01/02/2020 00:00'.*_format"
    ):
        read(tmp_path)
    raw = read(tmp_path, timestamp_format="%d/%m/%Y %H:%M")
    assert [row[2] for row in rows(raw)] == [1609408800000000, 1580515200000000]
    with pytest.raises(DataError, match=r"1 of 2 values in when .*'31/12/2020 10:00'. Allowed: dates such as %m/%d/%Y"):
        read(tmp_path, timestamp_format="%m/%d/%Y %H:%M")


@pytest.mark.parametrize(("unit", "factor"), [("s", 1_000_000), ("ms", 1_000), ("us", 1)])
@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_times_of_a_unit(tmp_path: Path, unit: str, factor: int, name: str) -> None:
    values = frame(when=[1600000000, 1600000001])
    values.to_csv(tmp_path / name, index=False) if name.endswith("csv") else values.to_parquet(tmp_path / name)
    raw = read(tmp_path, interactions=name, timestamp_unit=unit)
    assert [row[2] for row in rows(raw)] == [1600000000 * factor, 1600000001 * factor]
    with pytest.raises(ValidationError, match="timestamp_format is for dates and timestamp_unit for numbers"):
        Source.model_validate({**BLOCK, "timestamp_unit": "s", "timestamp_format": "%Y"})


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_nanoseconds_are_cut_and_counted(tmp_path: Path, name: str) -> None:
    """In decimals: a float has no room for 1,700,000,000,000,000.999 microseconds, nor for the sign of a cut."""
    when = [1700000000000000999, -1700000000000000001, 1700000000000001000]
    values = pd.DataFrame({"who": [1, 2, 3], "what": [5, 6, 7], "when": when})
    values.to_csv(tmp_path / name, index=False) if name.endswith("csv") else values.to_parquet(tmp_path / name)
    raw = read(tmp_path, interactions=name, timestamp_unit="ns")
    assert [row[2] for row in rows(raw)] == [1700000000000000, -1700000000000001, 1700000000000001]
    assert "2 times are finer than a microsecond and were cut" in [step.what for step in raw.steps]


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_seconds_with_fractions_are_read_as_they_are_written(tmp_path: Path, name: str) -> None:
    values = frame(when=[1700001000.25, 1700001000.1])
    values.to_csv(tmp_path / name, index=False) if name.endswith("csv") else values.to_parquet(tmp_path / name)
    raw = read(tmp_path, interactions=name, timestamp_unit="s")
    assert [row[2] for row in rows(raw)] == [1700001000250000, 1700001000100000]
    assert not any("were cut" in step.what for step in raw.steps)


def test_fractions_that_fall_together_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "who,what,when\n1,5,0.0000001\n1,6,0.0000002\n1,7,0.5\n")
    raw = read(tmp_path)
    assert [row[2] for row in rows(raw)] == [0, 0, 500_000]
    assert "1 times are finer than a millionth and were cut" in [step.what for step in raw.steps]
    write(tmp_path, "who,what,when\n1,5,1700000000000000\n1,6,1700000000000000.5\n")
    with pytest.raises(
        DataError, match=r"numbers below 9.2e12 where some have fractions \(larger ones: timestamp_unit\)"
    ):
        read(tmp_path)
    assert [row[2] for row in rows(read(tmp_path, timestamp_unit="us"))] == [1700000000000000] * 2


def test_years_that_no_microsecond_reaches_are_no_times(tmp_path: Path) -> None:
    when = pa.array([10**13, 5], pa.timestamp("s"))
    pq.write_table(pa.table({"who": [1, 2], "what": [5, 6], "when": when}), tmp_path / "log.parquet")
    with pytest.raises(
        DataError, match=r"log.parquet cannot be read: .* A time is further from 1970 than 290,000 years"
    ):
        read(tmp_path, interactions="log.parquet")


@pytest.mark.parametrize("word", ["infinity", "-infinity", "epoch", "inf"])
def test_words_are_no_times(tmp_path: Path, word: str) -> None:
    write(tmp_path, f"who,what,when\n1,5,2020-01-01\n2,6,{word}\n")
    with pytest.raises(DataError, match=rf"1 of 2 values in when .*: '{word}'"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_times_that_are_cut_are_counted(tmp_path: Path, name: str) -> None:
    when = ["2020-01-01 00:00:00.123456789", "2020-01-01 00:00:00.123456000"]
    if name.endswith("csv"):
        frame(when=when).to_csv(tmp_path / name, index=False)
    else:
        frame(when=np.array(when, dtype="datetime64[ns]")).to_parquet(tmp_path / name)
    raw = read(tmp_path, interactions=name)
    assert [row[2] for row in rows(raw)] == [1577836800123456] * 2
    assert "1 times are finer than a microsecond and were cut" in [step.what for step in raw.steps]


def test_repeated_rows_are_counted_and_kept(tmp_path: Path) -> None:
    write(tmp_path, GOOD + "1,5,10\n1,5,10\n1,5,11\n")
    raw = read(tmp_path)
    assert raw.n_repeated == 2
    assert len(rows(raw)) == 5


EVENTS = frame(
    n=[1, 1], kind=["view", "cart"], rating=[4.0, 3.5], on=["2020-01-01", "2021-06-01 12:00:00"], live=[True, False],
    price=[Decimal("2.50"), Decimal("3.00")], kept=["a", None], stock=[4.0, None], sign=["<b>", "=x"],
)  # fmt: skip


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
@pytest.mark.parametrize(
    ("where", "users"),
    [
        ({"kind": "view"}, [1]),
        ({"kind": ["view", "cart", "buy"]}, [1, 2]),
        ({"kind": "!= view"}, [2]),
        ({"rating": ">=4"}, [1]),
        ({"rating": "< 4"}, [2]),
        ({"rating": 4}, [1]),
        ({"rating": "== 4"}, [1]),
        ({"rating": [3.5, 9]}, [2]),
        ({"live": True}, [1]),
        ({"live": "True"}, [1]),
        ({"live": "!= TRUE"}, [2]),
        ({"price": 2.5}, [1]),
        ({"price": [2.5, 3]}, [1, 2]),
        ({"kept": "!= bot"}, [1, 2]),
        ({"kept": "a"}, [1]),
        ({"stock": "!= 4"}, [2]),
        ({"kind": "!= view", "kept": "!= a"}, [2]),
        ({"sign": ["<b>"]}, [1]),
        ({"on": ">2020-12-31"}, [2]),
        ({"kind": ["view", "cart"], "rating": ">3", "live": False}, [2]),
    ],
)
def test_rows_are_kept_by_their_values(tmp_path: Path, name: str, where: dict[str, Any], users: list[int]) -> None:
    EVENTS.to_csv(tmp_path / name, index=False) if name.endswith("csv") else EVENTS.to_parquet(tmp_path / name)
    raw = read(tmp_path, interactions=name, where=where)
    assert [row[0] for row in rows(raw)] == users
    filters = raw.steps[1 : 1 + len(where)]
    assert filters[-1].kept == len(users)
    assert sum(step.dropped for step in filters) == 2 - len(users)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (
            {"kind": "look"},
            r"where: {kind: look} keeps none of the 2 rows of .*; its most frequent values are '\w+', '\w+'",
        ),
        ({"rating": ">5"}, r"where: {rating: >5} keeps none"),
        ({"kind": ">=4"}, r"2 values in kind that are no numbers, which where: {kind: '>=4'} needs: 'cart', 'view'"),
        ({"kind": "=> 4"}, r"where: {kind: '=>4'} has the operator =>. Allowed: >=, .* is written in a list"),
        ({"kind": "<> view"}, r"has the operator <>. Allowed"),
        ({"kind": "!view"}, r"has the operator !. Allowed"),
        ({"rating": ">= nan"}, r"compares with no number and no ISO date"),
        ({"kind": ">b"}, r"where: {kind: '>b'} compares with no number and no ISO date. Write one of them"),
        ({"stars": 4}, r"log.csv has no column stars; its columns are"),
        ({"n": 7}, r"where: {n: 7} keeps none of the 2 rows of .*; its most frequent values are '1'"),
        ({"": 7}, r"log.csv has no column ''; its columns are"),
    ],
)
def test_a_filter_that_cannot_be(tmp_path: Path, where: dict[str, Any], said: str) -> None:
    EVENTS.to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(DataError, match=said):
        read(tmp_path, where=where)


# --- attributes -----------------------------------------------------------------------------------------------------


def attributes(folder: Path, log_ids: list[Any], users: pd.DataFrame, name: str = "users.csv") -> RawData:
    frame(who=log_ids).to_csv(folder / "log.csv", index=False)
    users.to_csv(folder / name, index=False) if name.endswith("csv") else users.to_parquet(folder / name)
    return read(folder, users=name, user_attributes=["plan"])


def test_attributes_may_be_called_as_columns_of_ours(tmp_path: Path) -> None:
    names = ["id_text", "label_0", "item_id", "n", "value"]
    frame().to_csv(tmp_path / "log.csv", index=False)
    pd.DataFrame({"who": [1, 2], **{name: [f"{name} a", "b"] for name in names}}).to_csv(
        tmp_path / "users.csv", index=False
    )
    labels = read(tmp_path, users="users.csv", user_attributes=names).user_attributes.to_pandas()
    assert {name: labels[name].tolist() for name in names} == {name: [f"{name} a", "b"] for name in names}


def test_an_attribute_that_nobody_has_is_refused(tmp_path: Path) -> None:
    users = pd.DataFrame({"who": [1, 2, 3], "plan": [None, "", "a"]})
    with pytest.raises(DataError, match=r"users.csv has no value in plan for any user of the log. Fill the column"):
        attributes(tmp_path, [1, 2], users)


def test_attributes_without_users_or_columns_are_refused(tmp_path: Path) -> None:
    users = pd.DataFrame({"who": [None, None], "plan": ["a", "b"]})
    with pytest.raises(DataError, match=r"users.csv has no row with a user in who. Write one row per user"):
        attributes(tmp_path, [1, 2], users)
    with pytest.raises(ValidationError, match=r"users is users.csv, but user_attributes names no column of it"):
        read(tmp_path, users="users.csv")


def test_attributes_of_nobody_are_refused(tmp_path: Path) -> None:
    users = pd.DataFrame({"who": [1, 2], "plan": ["a", "b"]})
    said = (
        r"users.csv has a row for none of the 2 users of the log: its ids are such as '1', '2', those of the log such "
    )
    with pytest.raises(DataError, match=said + r"as '001', '002'. Write the ids in the same way in both files"):
        attributes(tmp_path, ["001", "002"], users)


@pytest.mark.parametrize(
    ("of_log", "of_row"),
    [
        ("007", "7"),
        ("7", "007"),
        ("7.0", "7"),
        ("7", "+7"),
        ("x", "x\xa0"),
        ("\u200bx", "x"),
        ("7", "7\0"),
        ("7", "7."),
        ("7000", "7e3"),
        ("7", "\uff17"),
        ("7", "\u0667"),
    ],
)
def test_rows_in_another_spelling_are_not_left_out_in_silence(tmp_path: Path, of_log: str, of_row: str) -> None:
    """As in a log with the ids 001 to 600 and rows for 1 to 600: from 100 on they fit."""
    users = pd.DataFrame({"who": ["100", of_row], "plan": ["a", "b"]})
    said = "users.csv has rows of 1 users of the log in another spelling: " + re.escape(f"{of_row!r} for {of_log!r}")
    with pytest.raises(
        DataError, match=said + r". Write the ids in the same way in both files, or give those users rows"
    ):
        attributes(tmp_path, ["100", of_log], users)
    own = pd.DataFrame({"who": ["100", of_row, of_log], "plan": ["a", "b", "c"]})
    raw = attributes(tmp_path, ["100", of_log], own)
    assert sorted(raw.user_attributes.to_pandas().plan) == ["a", "c"]


@pytest.mark.parametrize("name", ["users.csv", "users.parquet"])
def test_attributes_belong_to_the_same_id_exactly(tmp_path: Path, name: str) -> None:
    users = pd.DataFrame({"who": [0.6, 2.0, 3.0], "plan": ["wrong", "b", "c"]})
    users = users if name.endswith("parquet") else users.assign(who=["0.6", "2", "3"])
    raw = attributes(tmp_path, [1, 2], users, name)
    assert raw.user_attributes.to_pandas().plan.tolist() == ["unknown", "b"]
    assert raw.matched_users == 0.5


@pytest.mark.parametrize("name", ["users.csv", "users.parquet"])
@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ([True, False], ["true", "false"]),
        ([1, 2], ["1", "2"]),
        ([1.0, None], ["1", "unknown"]),
        ([1.5, 2.0], ["1.5", "2"]),
        ([Decimal("2.50"), Decimal("100.00")], ["2.5", "100"]),
        (["1.50", "100"], ["1.5", "100"]),
        ([-0.0, 1.0], ["0", "1"]),
        (["007", "2"], ["007", "2"]),
        (["True", "maybe"], ["True", "maybe"]),
    ],
)
def test_labels_are_the_same_from_every_file(tmp_path: Path, name: str, plan: list[Any], expected: list[str]) -> None:
    raw = attributes(tmp_path, [1, 2], pd.DataFrame({"who": [1, 2], "plan": plan}), name)
    found = raw.user_attributes.to_pandas().plan.tolist()
    assert found == expected


@pytest.mark.parametrize("name", ["users.csv", "users.parquet"])
def test_one_point_zero_is_the_number_one(tmp_path: Path, name: str) -> None:
    users = pd.DataFrame({"who": [1.0, 2.0], "plan": ["a", "b"]})
    assert attributes(tmp_path, [1, 2], users, name).matched_users == 1.0
    with pytest.raises(DataError, match=r"users.csv has a row for none of the 2 users"):
        attributes(tmp_path, ["1x", "2x"], users)


def test_not_a_number_is_no_id_and_no_label(tmp_path: Path) -> None:
    nan = pa.array([float("nan"), 2.0])
    pq.write_table(pa.table({"who": [1, 2], "plan": nan}), tmp_path / "users.parquet")
    frame().to_csv(tmp_path / "log.csv", index=False)
    raw = read(tmp_path, users="users.parquet", user_attributes=["plan"])
    assert raw.user_attributes.to_pandas().plan.tolist() == ["unknown", "2"]
    for number in (nan, pa.array([float("inf"), 2.0])):
        pq.write_table(pa.table({"who": number, "what": [5, 6], "when": [10, 20]}), tmp_path / "log.parquet")
        with pytest.raises(DataError, match=r"log.parquet has null or blank values in who \(1\)"):
            read(tmp_path, interactions="log.parquet")


def test_times_beyond_int64_are_not_read(tmp_path: Path) -> None:
    for value in ("99999999999999999999", "99999999999999.5"):
        write(tmp_path, f"who,what,when\n1,5,1\n2,6,{value}\n")
        with pytest.raises(DataError, match=rf"1 of 2 values in when that cannot be read as a time: '{value}'"):
            read(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, GOOD)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=r"log.csv cannot be read: Permission denied. Give yourself the right"):
        read(tmp_path)


def test_lists_are_no_labels(tmp_path: Path) -> None:
    users = pd.DataFrame({"who": [1, 2], "plan": [["a"], ["b"]]})
    with pytest.raises(DataError, match=r"users.parquet has values of type array<string> in plan. Allowed: one value"):
        attributes(tmp_path, [1, 2], users, "users.parquet")
