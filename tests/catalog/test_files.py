"""What the datasets save appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import pytest
from kedro.io import AbstractVersionedDataset, DataCatalog, DatasetError, Version
from kedro.validation.exceptions import DataValidationError

from fairrec_pipeline.catalog.files import Csv, Folder, IbisParquet, Json, Parquet, Text

FRAME = pd.DataFrame({"user_id": [2, 1, 3], "name": ["b", "a", "c"]})
CASES = [
    (IbisParquet, "a.parquet", FRAME),
    (Parquet, "a.parquet", FRAME),
    (Csv, "a.csv", FRAME),
    (Json, "a.json", {"n": 1, "s": "é"}),
    (Text, "a.md", "é\n"),
]

Case = tuple[type[AbstractVersionedDataset], str, Any]


def make(case: Case, folder: Path, save: str | None = None, load: str | None = None) -> AbstractVersionedDataset:
    version = Version(load, save) if save or load else None
    return case[0](filepath=str(folder / case[1]), version=version)


def plain(data: Any) -> Any:
    data = data.to_pandas() if isinstance(data, ibis.Table) else data
    return data.to_dict("list") if isinstance(data, pd.DataFrame) else data


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
    newer = {dict: {"n": 2}, str: "n", pd.DataFrame: FRAME.head(1)}[type(case[2])]
    make(case, tmp_path, save="2026-01-02").save(newer)
    assert plain(make(case, tmp_path, save="2026-01-03").load()) == plain(newer)
    assert plain(make(case, tmp_path, load="2026-01-01").load()) == plain(case[2])
    with pytest.raises(DatasetError, match="must not exist if versioning is enabled"):
        make(case, tmp_path, save="2026-01-01").save(newer)


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
def test_a_missing_file_is_named(case: Case, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{case[1]} does not exist. Run the pipeline that writes it first"):
        make(case, tmp_path).load()


def test_folder(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "absent"))
    assert folder.load() == tmp_path / "absent"
    assert folder.exists()
    with pytest.raises(DatasetError, match="is not written by a pipeline"):
        folder.save(FRAME)


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
        ("interactions", INTERACTIONS, {"role": ["train", "train", "train", "test"]}, "one test interaction per user"),
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
