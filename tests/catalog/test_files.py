"""What the datasets save appears whole or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import ibis
import pandas as pd
import plotly.graph_objects as go
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from kedro.io import AbstractVersionedDataset, DataCatalog, DatasetError, Version
from kedro.validation.exceptions import DataValidationError

from fairrec_pipeline.catalog.figures import PlotlyJson
from fairrec_pipeline.catalog.files import Folder, IbisParquet, Json
from tests.catalog.cases import CASES, FRAME, Case, newer, plain


def make(case: Case, folder: Path | str, save: str | None = None, load: str | None = None) -> AbstractVersionedDataset:
    version = Version(load, save) if save or load else None
    return case[0](filepath=f"{folder}/{case[1]}", version=version)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: Case, tmp_path: Path) -> None:
    dataset = make(case, tmp_path)
    assert not dataset.exists()
    dataset.save(case[2])
    assert files(tmp_path) == [case[1]]
    assert plain(dataset.load()) == plain(case[2])
    dataset.save(case[2])  # an unversioned file is replaced


@pytest.mark.parametrize("case", CASES)
def test_versions(case: Case, tmp_path: Path) -> None:
    make(case, tmp_path, save="2026-01-01").save(case[2])
    make(case, tmp_path, save="2026-01-02").save(newer(case[2]))
    assert plain(make(case, tmp_path, save="2026-01-03").load()) == plain(newer(case[2]))
    assert plain(make(case, tmp_path, load="2026-01-01").load()) == plain(case[2])
    with pytest.raises(DatasetError, match="must not exist if versioning is enabled"):
        make(case, tmp_path, save="2026-01-01").save(newer(case[2]))


MEMORY = "memory:///data"
"""A folder of a file system that is not the local one; not memory://data: there Kedro takes `data` for a host."""


@pytest.mark.parametrize("case", CASES)
def test_another_file_system(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = make(case, MEMORY)
    assert not dataset.exists()
    dataset.save(case[2])
    assert make(case, MEMORY).exists()
    assert plain(make(case, MEMORY).load()) == plain(case[2])
    assert list(MemoryFileSystem.store) == [f"/data/{case[1]}"]
    assert files(tmp_path) == []


@pytest.mark.parametrize("case", CASES)
def test_versions_on_another_file_system(case: Case) -> None:
    make(case, MEMORY, save="2026-01-01").save(case[2])
    make(case, MEMORY, save="2026-01-02").save(newer(case[2]))
    assert plain(make(case, MEMORY, save="2026-01-03").load()) == plain(newer(case[2]))
    assert plain(make(case, MEMORY, load="2026-01-01").load()) == plain(case[2])
    with pytest.raises(DatasetError, match="must not exist if versioning is enabled"):
        make(case, MEMORY, save="2026-01-01").save(newer(case[2]))


@pytest.mark.parametrize("case", CASES)
def test_an_upload_that_breaks_leaves_no_version(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    make(case, MEMORY, save="2026-01-01").save(case[2])
    put = MemoryFileSystem.put_file

    def fail(self: Any, lpath: str, rpath: str, **options: Any) -> None:
        put(self, lpath, rpath, **options)
        self.store[rpath].truncate(2)
        message = "connection reset"
        raise OSError(message)

    monkeypatch.setattr(MemoryFileSystem, "put_file", fail)
    with pytest.raises(DatasetError, match="connection reset"):
        make(case, MEMORY, save="2026-01-02").save(newer(case[2]))
    assert list(MemoryFileSystem.store) == [f"/data/{case[1]}/2026-01-01/{case[1]}"]
    assert plain(make(case, MEMORY, save="2026-01-03").load()) == plain(case[2])


def test_a_table_of_another_file_system_keeps_its_order_and_is_joined() -> None:
    many = pd.DataFrame({"user_id": range(300_000, 0, -1)})
    dataset = IbisParquet(filepath=f"{MEMORY}/a.parquet")
    dataset.save(many)
    assert dataset.load().to_pandas().equals(many)
    assert len(dataset.load().join(ibis.memtable(FRAME), "user_id").to_pandas()) == 3


def test_threads_share_a_table(tmp_path: Path) -> None:
    IbisParquet(filepath=str(tmp_path / "a.parquet")).save(FRAME)

    def work(n: int) -> int:
        table = IbisParquet(filepath=str(tmp_path / "a.parquet")).load()
        joined = table.join(ibis.memtable(pd.DataFrame({"user_id": [1, 2]})), "user_id")
        IbisParquet(filepath=str(tmp_path / f"{n}.parquet")).save(joined.order_by("user_id"))
        return len(pd.read_parquet(tmp_path / f"{n}.parquet"))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(40))) == {2}


def test_an_ibis_table_is_saved_in_its_order(tmp_path: Path) -> None:
    dataset = IbisParquet(filepath=str(tmp_path / "a.parquet"))
    dataset.save(ibis.memtable(FRAME).order_by("user_id"))
    assert pd.read_parquet(tmp_path / "a.parquet").user_id.tolist() == [1, 2, 3]
    joined = dataset.load().join(ibis.memtable(FRAME), "user_id")
    assert len(joined.to_pandas()) == 3
    assert dataset.preview(2)["data"] == [[1, "a"], [2, "b"]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("error", [RuntimeError("disk full"), KeyboardInterrupt()])
def test_a_failing_write_leaves_no_version(
    case: Case, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(case, tmp_path, save="2026-01-01").save(case[2])
    before = files(tmp_path)

    def fail(self: Any, data: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(case[0], "_write", fail)
    with pytest.raises((DatasetError, KeyboardInterrupt)):
        make(case, tmp_path, save="2026-01-02").save(case[2])
    assert files(tmp_path) == before
    assert plain(make(case, tmp_path, save="2026-01-03").load()) == plain(case[2])


def test_a_killed_write_leaves_nothing_that_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = (Json, "a.json", {"n": 1})
    make(case, tmp_path, save="2026-01-01").save(case[2])

    def die(self: Any, data: Any, path: Path) -> None:
        path.write_bytes(b"half")
        os._exit(9)

    monkeypatch.setattr(Json, "_write", die)
    child = os.fork()
    if child == 0:
        make(case, tmp_path, save="2026-01-02").save(case[2])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert any(name.endswith(".partial") for name in files(tmp_path))
    assert make(case, tmp_path, save="2026-01-03").load() == case[2]


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_file_is_named(case: Case, tmp_path: Path) -> None:
    dataset = make(case, tmp_path, save="2026-01-01")
    dataset.save(case[2])
    path = tmp_path / case[1] / "2026-01-01" / case[1]
    path.write_bytes(b"\xff nonsense")
    with pytest.raises(DatasetError, match=rf"{path} cannot be read \(.*Delete {path.parent} and run the pipeline"):
        dataset.load()


@pytest.mark.parametrize("case", CASES)
def test_an_error_that_is_no_damage_is_not_called_so(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(case, tmp_path).save(case[2])
    for error in (
        duckdb.InvalidInputException("Attempting to execute an unsuccessful or closed pending query result"),
        PermissionError(13, "Permission denied"),
        MemoryError(),
        TypeError("unexpected keyword"),
    ):
        monkeypatch.setattr(case[0], "_read", Mock(side_effect=error))
        with pytest.raises(DatasetError) as caught:
            make(case, tmp_path).load()
        assert caught.value.__cause__ is error
        assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_a_missing_file_is_named(case: Case, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{case[1]} does not exist. Run the pipeline that writes it first"):
        make(case, tmp_path).load()


def test_a_figure_has_a_preview(tmp_path: Path) -> None:
    figure = PlotlyJson(filepath=str(tmp_path / "a.json"))
    figure.save(go.Figure(layout={"title": {"text": "é"}}))
    assert figure.preview()["layout"]["title"]["text"] == "é"


def test_folder(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "absent"))
    assert folder.load() == tmp_path / "absent"
    assert folder.exists()
    with pytest.raises(DatasetError, match="is not written by a pipeline"):
        folder.save(FRAME)


def test_raw_files_of_another_file_system_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = Folder("memory:///raw/shop")
    assert list(folder.load().iterdir()) == []
    MemoryFileSystem().pipe_file("/raw/shop/log/1.csv", b"a")
    MemoryFileSystem().pipe_file("/raw/shop/log/2.csv", b"b")
    local = folder.load()
    assert local.name == "shop"
    assert {path.name: path.read_text() for path in local.rglob("*.csv")} == {"1.csv": "a", "2.csv": "b"}
    (local / "downloaded.zip").write_text("by a source")
    MemoryFileSystem().pipe_file("/raw/shop/log/1.csv", b"newer")
    MemoryFileSystem().rm_file("/raw/shop/log/2.csv")
    assert folder.load() == local
    assert {path.name for path in local.rglob("*") if path.is_file()} == {"1.csv", "downloaded.zip"}
    assert (local / "log/1.csv").read_text() == "newer"


INTERACTIONS = pd.DataFrame(
    {
        "user_id": [1, 1, 2, 2],
        "item_id": [1, 2, 1, 2],
        "timestamp": [1, 2, 1, 2],
        "position": [0, 1, 0, 1],
        "role": ["train", "test", "train", "test"],
    }
)
USER_GROUPS = pd.DataFrame(
    {"user_id": [1, 2], "train_length": [1, 1], "popularity_ratio": [0.0, 1.0], "pop33": ["niche", "popular"]}
)


@pytest.mark.parametrize(
    ("schema", "table", "change", "message"),
    [
        ("interactions", INTERACTIONS, {}, None),
        ("interactions", INTERACTIONS, {"role": ["train", "test", "train", "exam"]}, "isin"),
        ("interactions", INTERACTIONS, {"role": ["train", "train", "train", "test"]}, None),  # no target for user 1
        ("interactions", INTERACTIONS, {"role": ["test", "test", "train", "test"]}, "at most one test and one"),
        ("interactions", INTERACTIONS, {"position": [0, 2, 0, 1]}, "positions 0 .. n-1"),
        ("interactions", INTERACTIONS, {"position": [0, 0, 0, 1]}, "positions 0 .. n-1"),
        ("interactions", INTERACTIONS, {"item_id": ["a", None, "b", "c"]}, "contains null values"),
        ("interactions", INTERACTIONS, {"extra": [0, 0, 0, 0]}, "'extra' not in DataFrameSchema"),
        ("user_groups", USER_GROUPS, {}, None),
        ("user_groups", USER_GROUPS, {"user_id": [1, 1]}, "one row per user"),
        ("user_groups", USER_GROUPS, {"train_length": [0, 1]}, "greater_than_or_equal_to"),
        ("user_groups", USER_GROUPS, {"pop33": ["niche", None]}, "contains null values"),
        ("user_groups", USER_GROUPS, {"age": [1, 2]}, "expected column 'age' to have type string"),
    ],
)
def test_schemas_stop_a_bad_table(
    schema: str, table: pd.DataFrame, change: dict[str, list[Any]], message: str | None, tmp_path: Path
) -> None:
    entry = {
        "type": "fairrec_pipeline.catalog.files.IbisParquet",
        "filepath": str(tmp_path / "a.parquet"),
        "validator": f"fairrec_pipeline.catalog.schemas.{schema}",
    }
    catalog = DataCatalog.from_config({"table": entry})
    table = ibis.memtable(table.assign(**change))
    if message is None:
        catalog.save("table", table)
        assert catalog.load("table").count().execute() > 0
        return
    with pytest.raises(DataValidationError, match=message):
        catalog.save("table", table)
    assert files(tmp_path) == []
