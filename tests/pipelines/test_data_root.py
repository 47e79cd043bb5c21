"""Where artifacts lie is one parameter: a folder anywhere, or an address. On S3 it is tested by tests/scale."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fairrec_pipeline import storage
from fairrec_pipeline.errors import FairrecError, OptionError
from tests.projects import run_pipeline, store

CSV = "08_reporting/synthetic/comparison.csv"
SMALL = {"experiment": "small", "experiments": {"small": {"arms": ["erm"], "seeds": 1, "tune": False}}}


def test_a_run_leaves_the_same_wherever_its_root_is(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """On the disk, in another folder, and on a file system that is not of this machine's."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "results"
    run_pipeline(project, "experiment", data_root="memory:///bucket/a", **SMALL)
    run_pipeline(project, "experiment", data_root=str(elsewhere), **SMALL)
    assert [path for path in (project / "data").rglob("*") if path.is_file()] == []
    run_pipeline(project, "experiment", **SMALL)
    table = (project / "data" / CSV).read_text()
    assert (elsewhere / CSV).read_text() == table
    assert storage.read_text(f"memory:///bucket/a/{CSV}") == table
    names = {path.name for path in (project / "data").rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert {name.rpartition("/")[2] for name in MemoryFileSystem.store} == names
    (record,) = store(project).records()
    pd.testing.assert_frame_equal(
        record.user_metrics, pd.read_parquet(next(elsewhere.rglob("erm/**/user_metrics.parquet/*/*.parquet")))
    )


def test_the_environment_of_a_run_may_say_it(project: Path) -> None:
    (project / "conf/test/globals.yml").write_text("data_root: results\n")
    run_pipeline(project, "data")
    assert list((project / "results").rglob("dataset_statistics.json/*/*.json"))
    assert not list((project / "data").rglob("*.json"))


def test_a_store_that_cannot_be_written_to_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        message = "Access Denied"
        raise PermissionError(message)

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    with pytest.raises(
        OptionError, match=r"data_root=memory:///a cannot be written to \(PermissionError: Access Denied"
    ):
        run_pipeline(project, "train", data_root="memory:///a")


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("", "a folder, or an address such as s3://bucket/prefix, is expected"),
        ("s3://bucket/", "without a slash at its end"),
        ("s3://key:secret@bucket/a", r"credentials do not belong into an address"),
        ("memory://bucket", "memory:// has no host: write memory:///bucket"),
        ("nothing://bucket", "nothing:// cannot be used: Protocol not known: nothing"),
    ],
)
def test_a_root_that_cannot_be_one_is_refused(project: Path, root: str, message: str) -> None:
    with pytest.raises(FairrecError, match=message) as caught:
        run_pipeline(project, "data", data_root=root)
    assert "data_root" in str(caught.value)
    assert "secret" not in str(caught.value)
