"""Prepared data: whoever reads them reads one version, the one whose parameters were looked at."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from kedro.io import DatasetError

from fairrec_pipeline.hooks import prepare_data
from fairrec_pipeline.interactions.preparation import FORMAT
from tests.conftest import copy_project
from tests.projects import run_pipeline

LATER = "9999-01-01T00.00.00.000Z"


def parts(project: Path) -> Iterator[Path]:
    """Folder of every version of every part of the data."""
    yield from project.glob("data/0[2-5]_*/synthetic/*/*")


@pytest.fixture(scope="module")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose data were prepared with other parameters."""
    project = copy_project(tmp_path_factory.mktemp("other"))
    run_pipeline(project, "data", split={"validation_users": 20})
    return project


def bring(other: Path, project: Path) -> None:
    """As another session that prepares its data at this very moment."""
    for folder in parts(other):
        shutil.copytree(folder, project / folder.relative_to(other).parent / LATER, dirs_exist_ok=True)


def fingerprint(project: Path, version: str = "*") -> str:
    (path,) = [
        path
        for path in project.glob(f"data/05_model_input/synthetic/dataset_statistics.json/{version}/*.json")
        if version != "*" or path.parent.name != LATER
    ]
    return str(json.loads(path.read_text())["fingerprint"])


@pytest.mark.parametrize("prepared", [False, True], ids=["not prepared", "prepared"])
def test_data_that_another_session_writes_meanwhile_are_not_read(
    project: Path, other_data: Path, prepared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if prepared:
        run_pipeline(project, "data")
    pin = prepare_data._pin_what_it_reads

    def pin_then_bring(*arguments: Any) -> None:
        pin(*arguments)
        bring(other_data, project)

    monkeypatch.setattr(prepare_data, "_pin_what_it_reads", pin_then_bring)
    run_pipeline(project, "train")
    (card,) = project.glob("data/07_model_output/synthetic/erm/seed-0/run_card.json/*/run_card.json")
    assert json.loads(card.read_text())["data_fingerprint"] == fingerprint(project)
    assert fingerprint(project) != fingerprint(project, LATER)


def test_the_data_pipeline_reads_what_it_has_written_itself(project: Path, other_data: Path) -> None:
    """Another session's events, of a later version, lie there from the start."""
    bring(other_data, project)
    run_pipeline(project, "data")
    mine = {folder.name for folder in parts(project)} - {LATER}
    assert len(mine) == 1
    assert fingerprint(project) != fingerprint(project, LATER)


def test_two_sessions_prepare_the_same_data_once(project: Path, other_data: Path) -> None:
    """The second waits for the first, and then looks again."""
    run_pipeline(project, "data", split={"validation_users": 30})
    before = {folder.name for folder in parts(project)}
    held = threading.Event()

    def prepare_as_the_first() -> None:
        with FileLock(project / "data/.synthetic.lock"):
            held.set()
            time.sleep(4)
            bring(other_data, project)

    first = threading.Thread(target=prepare_as_the_first)
    first.start()
    held.wait()
    run_pipeline(project, "train", split={"validation_users": 20})
    first.join()
    assert {folder.name for folder in parts(project)} == before | {LATER}


@pytest.mark.parametrize(
    "content",
    ["[]", "null", "5", '{"a": ', "", '{"prepared_with": 5}', f'{{"prepared_with": {{"format": {FORMAT}}}}}'],
)
def test_damaged_statistics_name_themselves(content: str, shared_project: Path, other_data: Path) -> None:
    bring(other_data, shared_project)
    (path,) = shared_project.glob("data/05_model_input/synthetic/dataset_statistics.json/*/*.json")
    path.write_text(content)
    with pytest.raises(DatasetError, match=rf"{path} cannot be read .*Delete {path.parent} and run the pipeline"):
        run_pipeline(shared_project, "train", split={"validation_users": 20})
