"""Whatever a table or a raw file holds: events, or a `DataError` that names the file. Nothing is written."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import random
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.core_filter import events_of_core, find_core
from fairrec_pipeline.interactions.leave_one_out import hold_out
from fairrec_pipeline.interactions.sources import read_source
from fairrec_pipeline.parameters.datasets import Source

TABLES = int(os.environ.get("FAIRREC_EXAMPLES", "200"))
BLOCK = {"adapter": "table", "interactions": "log.csv", "user": "who", "item": "what", "timestamp": "when"}

cells = st.one_of(
    st.integers(0, 5).map(str), st.integers().map(str), st.floats().map(str), st.datetimes().map(str),
    st.text(max_size=5),
    st.sampled_from(["", " ", "NULL", "nan", '"', "'", ",", "\n", "\0", "1e400", "-0", "01", "2024-02-30",
    "x" * 5000, "9" * 30]),
)  # fmt: skip
headers = st.sampled_from(
    ["who,what,when"] * 8 + ["who,what", "who,who,when", "", "what,when,who", "WHO,what,when", '"who,what,when']
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A CSV file, quoted or not, mostly with three columns."""
    rows = draw(st.lists(st.lists(cells, min_size=3, max_size=3) | st.lists(cells, max_size=4), max_size=12))
    quoted = draw(st.booleans())
    written = [",".join(f'"{cell}"' if quoted else cell for cell in row) for row in rows]
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = end.join([draw(headers), *written])
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1"])), errors="replace")


blocks = st.fixed_dictionaries(
    {},
    optional={
        "malformed": st.sampled_from([0.0, 0.5, 0.99]),
        "timestamp_format": st.sampled_from(["%Y", "%d/%m/%Y", "%", "%q", ""]),
        "timestamp_unit": st.sampled_from(["s", "ns"]),
        "csv": st.sampled_from(
            [{"encoding": "latin-1"}, {"encoding": "utf-16"}, {"separator": ";"}, {"separator": '"'}]
        ),
        "where": st.sampled_from(
            [{"what": ">=1"}, {"who": [1, 2]}, {"no": 1}, {"when": "<2024-01-01"}, {"what": True}]
        ),
    },
)


def outcome(folder: Path, block: dict[str, Any]) -> str:
    """What comes of the files of a folder; anything but one of our errors goes through."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        raw = read_source(folder, Source.model_validate(block))
        hold_out(events_of_core(raw.events, *find_core(raw.events, 1)), 1, 0)
        return "read"
    except ValidationError:
        return "refused as a parameter"
    except DataError as error:
        return str(error)
    finally:
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@settings(max_examples=TABLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=TABLES == 200)
@given(tables(), blocks)
def test_a_table_is_read_or_refused(content: bytes, block: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "log.csv").write_bytes(content)
        outcome(Path(folder), BLOCK | block)


# --- files that are damaged


GOOD = "timestamp,visitorid,event,itemid,transactionid\n" + "".join(
    f"{100 + n},{n % 9},view,{n % 7},\n" for n in range(200)
)


def zipped(method: int = zipfile.ZIP_DEFLATED, name: str = "events.csv") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, GOOD)
    return file.getvalue()


def flipped(content: bytes, at: float) -> bytes:
    place = int(at * (len(content) - 1))
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def encrypted(content: bytes) -> bytes:
    """The flag of encryption is set in both headers of the member."""
    local, central = content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")
    content = content[: local + 6] + b"\x01\x00" + content[local + 8 :]
    return content[: central + 8] + b"\x01\x00" + content[central + 10 :]


def of_method(content: bytes, number: int) -> bytes:
    """Another compression is named in both headers of the member."""
    local, central = content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")
    content = content[: local + 8] + number.to_bytes(2, "little") + content[local + 10 :]
    return content[: central + 10] + number.to_bytes(2, "little") + content[central + 12 :]


def parquet() -> bytes:
    file = io.BytesIO()
    pd.DataFrame({"who": np.arange(300) % 9, "what": np.arange(300) % 7, "when": np.arange(300)}).to_parquet(file)
    return file.getvalue()


PLACES = [0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0]
NOISE = random.Random(0).randbytes(2000)
ROCKET: dict[str, Callable[[], tuple[str, bytes]]] = {
    **{f"zip flipped at {at}": lambda at=at: ("a.zip", flipped(zipped(), at)) for at in PLACES},
    **{f"zip cut at {at}": lambda at=at: ("a.zip", zipped()[: int(at * len(zipped()))]) for at in PLACES[:-1]},
    **{f"zip of method {n}": lambda n=n: ("a.zip", of_method(zipped(), n)) for n in (1, 6, 9, 12, 14, 93, 97, 99)},
    **{f"zip stored, flipped at {at}": lambda at=at: ("a.zip", flipped(zipped(zipfile.ZIP_STORED),
    at)) for at in PLACES},
    "zip encrypted": lambda: ("a.zip", encrypted(zipped())),
    "zip lzma flipped": lambda: ("a.zip", flipped(zipped(zipfile.ZIP_LZMA), 0.3)),
    "zip bzip2 flipped": lambda: ("a.zip", flipped(zipped(zipfile.ZIP_BZIP2), 0.3)),
    "zip with another member": lambda: ("a.zip", zipped(name="x.csv")),
    "zip with a member above": lambda: ("a.zip", zipped(name="../../events.csv")),
    "zip that is noise": lambda: ("a.zip", NOISE),
    "zip that is empty": lambda: ("a.zip", b""),
    **{f"gzip cut at {at}": lambda at=at: ("events.csv.gz",
    gzip.compress(GOOD.encode())[: int(at * 400)]) for at in PLACES[1:6]},
    **{f"gzip flipped at {at}": lambda at=at: ("events.csv.gz", flipped(gzip.compress(GOOD.encode()),
    at)) for at in PLACES},
    "gzip that is bzip2": lambda: ("events.csv.gz", bz2.compress(GOOD.encode())),
    "gzip that is text": lambda: ("events.csv.gz", GOOD.encode()),
    "gzip that is empty": lambda: ("events.csv.gz", b""),
    "text with NULs": lambda: ("events.csv", GOOD.replace("3", "\0").encode()),
    "text that is noise": lambda: ("events.csv", NOISE),
    "text of UTF-16": lambda: ("events.csv", GOOD.encode("utf-16")),
    "text that is a zip": lambda: ("events.csv", zipped()),
    "text with a quote": lambda: ("events.csv", GOOD.replace("view", '"view', 1).encode()),
    "text with a name of 5,000 signs": lambda: ("events.csv", GOOD.replace("event,", "e" * 5000 + ",", 1).encode()),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROCKET)
def test_a_damaged_raw_file_is_named(kind: str, tmp_path: Path) -> None:
    """A flipped bit need not be noticed: of a comment of an archive, of the time in its header."""
    folder = tmp_path / "rocket"
    folder.mkdir()
    name, content = ROCKET[kind]()
    (folder / name).write_bytes(content)
    said = outcome(folder, {"adapter": "retailrocket"})
    assert said == "read" or name in said or "no RetailRocket log" in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["rocket", name])
    if "cut" in kind or "noise" in kind or "empty" in kind or "encrypted" in kind or "method" in kind:
        assert said != "read"


OWN: dict[str, Callable[[], tuple[str, bytes]]] = {
    **{f"parquet flipped at {at}": lambda at=at: ("log.parquet", flipped(parquet(), at)) for at in PLACES},
    **{f"parquet cut at {at}": lambda at=at: ("log.parquet",
    parquet()[: int(at * len(parquet()))]) for at in PLACES[:-1]},
    "parquet that is noise": lambda: ("log.parquet", NOISE),
    "parquet that is text": lambda: ("log.parquet", GOOD.encode()),
    "CSV that is Parquet": lambda: ("log.csv", parquet()),
    "CSV that is JSON": lambda: ("log.csv", json.dumps([1, 2]).encode()),
    "CSV with NULs in its header": lambda: ("log.csv", b"who\0,what,when\n1,2,3\n"),
    "CSV with one long line": lambda: ("log.csv", b"who,what,when\n" + b"1," * 100_000),
    "CSV with long names": lambda: ("log.csv", b"who,what,when," + b"n" * 5000 + b"\n1,2,3,4\n1,3,4,4\n1,4,5,4\n"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OWN)
def test_a_damaged_table_is_named(kind: str, tmp_path: Path) -> None:
    name, content = OWN[kind]()
    (tmp_path / name).write_bytes(content)
    said = outcome(tmp_path, BLOCK | {"interactions": name})
    assert said == "read" or name in said
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_there_are_sixty_of_them() -> None:
    assert len(ROCKET) + len(OWN) >= 60


@pytest.mark.parametrize("name", ["x" * 5000 + ".csv", "a/" + "é" * 200 + ".csv", "x" * 256])
def test_a_name_that_no_file_system_has_is_a_parameter_that_is_wrong(name: str, tmp_path: Path) -> None:
    assert outcome(tmp_path, BLOCK | {"interactions": name}) == "refused as a parameter"
