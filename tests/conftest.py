"""Fixtures shared by all tests: a project of its own, and no trace of one test in the next."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(autouse=True)
def no_run_left_open() -> Iterator[None]:
    """Ends the runs that a test left active, and forgets the address that MLflow sets for the whole process."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # the next fixture of a module may start a process with it
    if mlflow := sys.modules.get("mlflow"):
        while mlflow.active_run():
            mlflow.end_run()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch: tensors of a few hundred numbers gain nothing from more, and tests run side by side."""
    import torch  # only where a test asks for it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one an epoch that is trained in this process."""
    from fairrec_pipeline.training import fit as fit_module  # torch only where a test trains

    trained: list[int] = []
    end_epoch = fit_module._Training.end_epoch

    def counted(training: Any) -> Any:
        trained.append(1)
        return end_epoch(training)

    monkeypatch.setattr(fit_module._Training, "end_epoch", counted)
    return trained


@pytest.fixture(autouse=True)
def nothing_left_in_memory() -> Iterator[None]:
    """Empties the file system in memory, if a test used it."""
    yield
    if memory := sys.modules.get("fsspec.implementations.memory"):
        memory.MemoryFileSystem.store.clear()
        memory.MemoryFileSystem.pseudo_dirs[:] = [""]


def copy_project(folder: Path) -> Path:
    """The project without its artifacts."""
    shutil.copytree(ROOT / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"))
    (folder / "conf" / "local").mkdir()
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (folder / "data" / "01_raw").mkdir(parents=True)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fresh clone, as far as a run can tell."""
    return copy_project(tmp_path)


@pytest.fixture(scope="module")
def shared_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone that the tests of a module use one after the other."""
    return copy_project(tmp_path_factory.mktemp("project"))


def guard(refused: Path) -> dict[str, str]:
    """Environment in which `pickle.load`, `torch.load`, `eval` and their like fail, and are written into a file."""
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(ROOT / "tests/e2e/guard"), *([before] if before else [])])
    return {"PYTHONPATH": path, "FAIRREC_GUARD": str(refused)}


Kedro = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def kedro() -> Kedro:
    """Runs a kedro command in a folder, as a user's shell would; whatever runs the code of a file fails."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as scratch:
            refused = Path(scratch, "refused")
            run = subprocess.run(
                [Path(sys.executable).with_name("kedro"), *arguments],
                cwd=folder,
                env={**os.environ, "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", **guard(refused)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert not refused.exists(), refused.read_text()
            return run

    return run
