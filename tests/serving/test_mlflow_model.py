"""The MLflow model: no pickle, typed requests, the recommender's answers, by a path and by an alias."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.exceptions import MlflowException

from fairrec_pipeline.serving.mlflow_model import local_folder, log_model, save_model
from fairrec_pipeline.serving.model_folder import ModelFolderError, open_folder
from fairrec_pipeline.serving.recommender import Recommender


@pytest.fixture(scope="module")
def saved(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "model"
    save_model(folder, path)
    return path


@pytest.fixture(scope="module")
def model(saved: Path) -> Any:
    threads = torch.get_num_threads()
    yield mlflow.pyfunc.load_model(str(saved))
    torch.set_num_threads(threads)


def test_answers_are_those_of_the_recommender(model: Any, folder: Path, histories: list[list[int]]) -> None:
    recommender = Recommender.load(folder)
    for history, answer in zip(histories, model.predict([{"history": history} for history in histories]), strict=True):
        expected = recommender.recommend(history)
        assert answer.items == expected.items
        assert answer.scores == pytest.approx(expected.scores, abs=1e-5)
        assert (answer.known_items, answer.cold_start) == (expected.known_items, expected.cold_start)


def test_no_pickle_and_readable_by_others(saved: Path) -> None:
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in {".pkl", ".pickle", ".pt", ".bin"}]
    weights = saved / "artifacts" / "model" / "model.safetensors"
    assert weights.stat().st_mode & stat.S_IROTH


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"history": ["10"]}, "history.0\n  Input should be a valid integer"),
        ({"history": [float("nan")]}, "history.0\n  Input should be a valid integer"),
        ({"history": [10], "k": 0}, "k\n  Input should be greater than or equal to 1"),
        ({"history": [10], "top": 1}, "top\n  Extra inputs are not permitted"),
        ({"k": 1}, "history\n  Field required"),
    ],
)
def test_bad_queries(query: dict[str, Any], message: str, model: Any) -> None:
    with pytest.raises(MlflowException) as caught:
        model.predict([query])
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"  # 400 over HTTP
    assert message in str(caught.value).replace("\\n", "\n")


def test_too_many_queries(model: Any) -> None:
    with pytest.raises(MlflowException, match="inputs: at most 256 histories at a time, got 257"):
        model.predict([{"history": []}] * 257)


def test_it_loads_without_the_package_and_without_kedro(saved: Path, tmp_path: Path) -> None:
    """The package is hidden; the code that is used is that of the model."""
    code = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "kedro" or (name == "fairrec_pipeline" and sys.argv[1] + "/code" not in sys.path):
            raise ImportError(name)

sys.meta_path.insert(0, Hidden())
sys.path = [entry for entry in sys.path if not entry.endswith("/src")]
import mlflow
(answer,) = mlflow.pyfunc.load_model(sys.argv[1]).predict([{"history": [10], "k": 2}])
import fairrec_pipeline
assert fairrec_pipeline.__file__.startswith(sys.argv[1]), fairrec_pipeline.__file__
print("items", len(answer.items))
"""
    command = [sys.executable, "-c", code, str(saved)]
    environment = {"PATH": "/usr/bin:/bin", "MLFLOW_DISABLE_TELEMETRY": "true", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.stdout.endswith("items 2\n"), done.stderr


def test_registered_and_fetched_by_alias(
    model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text items; the folder that comes back is the one that went in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        mlflow.create_experiment("shop", artifact_location=str(tmp_path / "artifacts"))
        mlflow.set_experiment("shop")
        folder = model_folder(text=True)
        with mlflow.start_run():
            info = log_model(folder, "cvar", registered_model_name="fairrec-shop")
        assert info.metadata["arm"] == "cvar"
        mlflow.MlflowClient().set_registered_model_alias("fairrec-shop", "champion", "1")
        fetched = local_folder("models:/fairrec-shop@champion")
        assert open_folder(fetched).config == open_folder(folder).config
        assert fetched.joinpath("model.safetensors").read_bytes() == folder.joinpath("model.safetensors").read_bytes()
        answer = mlflow.pyfunc.load_model("models:/fairrec-shop@champion").predict([{"history": ["i10"]}])[0]
        assert answer.items == Recommender.load(folder).recommend(["i10"]).items
    finally:
        mlflow.set_tracking_uri(None)


def test_a_model_of_another_project(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    with pytest.raises(
        ModelFolderError, match=r"holds no artifacts/model/config.json; it is not a model of this project"
    ):
        local_folder(str(tmp_path))


def test_a_folder_that_cannot_be_served_is_not_logged(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"config.json: there is no such file"):
        save_model(tmp_path, tmp_path / "model")
