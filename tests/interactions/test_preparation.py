"""When data are prepared again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fairrec_pipeline.interactions.preparation import FORMAT, prepared_with, why_prepare
from fairrec_pipeline.interactions.sources.raw_files import describe_file
from fairrec_pipeline.parameters.blocks import Groups, Split
from fairrec_pipeline.parameters.datasets import Source

SPLIT = Split(kind="leave_one_out", train_share=0.9, core=5, validation_users=0.5, seed=1, ties="item")
GROUPS = Groups(popular_quantile=0.8, splits={"pop1080": (0.1, 0.8, 0.1)})
SOURCE = {"adapter": "synthetic", "n_users": 10, "n_items": 10, "seed": 0}


def wanted(**source: Any) -> dict[str, Any]:
    return prepared_with("a", Source.model_validate({**SOURCE, **source}), SPLIT, GROUPS)


def test_prepared_with_holds_what_the_data_depend_on() -> None:
    plain = wanted()
    assert wanted(parameters={"train": {"epochs": 1}}) == plain
    assert plain == {
        "format": FORMAT,
        "dataset": "a",
        "source": SOURCE,
        "split": SPLIT.model_dump(mode="json"),
        "groups": {"popular_quantile": 0.8, "splits": {"pop1080": [0.1, 0.8, 0.1]}},
    }


def test_why_data_are_prepared_again(tmp_path: Path) -> None:
    assert why_prepare(None, wanted(), tmp_path) == "are not prepared yet"
    assert why_prepare({**wanted(), "raw_files": {}}, wanted(), tmp_path) is None
    reason = why_prepare(wanted(), wanted(seed=1), tmp_path)
    assert reason == "were prepared with other parameters (source)"
    first_house = {name: value for name, value in wanted().items() if name != "format"}
    assert why_prepare(first_house, wanted(), tmp_path) == "were prepared by an older version of this project"


@pytest.fixture
def log(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A raw file, and what is kept of it."""
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n1,2,3\n")
    return path, {**wanted(), "raw_files": {"log.csv": describe_file(path)}}


def test_a_replaced_raw_file_is_noticed(log: tuple[Path, dict[str, Any]]) -> None:
    path, described = log
    changed = described["raw_files"]["log.csv"]["mtime_ns"]
    for text in ("user,item,time\n1,2,4\n", "user,item,time\n1,2,3\n4,5,6\n"):
        path.write_text(text)
        os.utime(path, ns=(changed, changed))
        reason = why_prepare(described, wanted(), path.parent)
        assert reason == f"were prepared from another log.csv than the one in {path.parent}"


def test_other_parts_of_a_folder_are_noticed(tmp_path: Path) -> None:
    """As Spark writes a table again: other names, and none of the former is left."""
    table = {"adapter": "table", "interactions": "log.parquet", "user": "u", "item": "i", "timestamp": "t"}
    present = prepared_with("a", Source.model_validate(table), SPLIT, GROUPS)
    folder = tmp_path / "log.parquet"
    folder.mkdir()
    first, second, third = (folder / f"{name}.parquet" for name in ("a", "b", "c"))
    for path in (first, second):
        path.write_text(path.name)
    read = {f"log.parquet/{path.name}": describe_file(path) for path in (first, second)}
    described = {**present, "raw_files": read}
    assert why_prepare(described, present, tmp_path) is None
    said = f"were prepared from other files of log.parquet than those in {tmp_path}"
    third.write_text("new")
    assert why_prepare(described, present, tmp_path) == said
    first.unlink()
    second.unlink()
    assert why_prepare(described, present, tmp_path) == said
    third.unlink()
    (folder / "_SUCCESS").touch()
    assert why_prepare(described, present, tmp_path) is None, "they are gone, which makes the prepared data no worse"
    (folder / "_SUCCESS").unlink()
    folder.rmdir()
    folder.write_text("one file")
    assert why_prepare(described, present, tmp_path) == said


def test_a_touched_copied_or_removed_raw_file_changes_nothing(log: tuple[Path, dict[str, Any]]) -> None:
    path, described = log
    os.utime(path, ns=(1, 1))
    assert why_prepare(described, wanted(), path.parent) is None
    path.unlink()
    assert why_prepare(described, wanted(), path.parent) is None
