"""A model folder as an MLflow model: logged, registered and fetched. No pickle is written or read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fairrec_pipeline.serving.model_folder import CONFIG, ModelFolderError, open_folder

_PACKAGE = Path(__file__).parents[1]
_NEEDED = ("mlflow", "torch", "safetensors", "numpy", "pandas", "pydantic")
_ARTIFACT = "model"


def log_model(folder: str | Path, name: str = "model", *, registered_model_name: str | None = None, **more: Any) -> Any:
    """Log a model folder to the active MLflow run.

    The model carries this package's code, so that it loads where the package and Kedro are not installed.

    Args:
        folder: with `model.safetensors` and `config.json`; what else lies there (`model.onnx`, a card) goes along.
        name: of the logged model.
        registered_model_name: registers a version under this name as well.
        more: further arguments of `mlflow.pyfunc.log_model`.

    Returns:
        MLflow's `ModelInfo`.

    Raises:
        ModelFolderError: the folder cannot be served.
    """
    import mlflow

    with _arguments(folder) as arguments:
        return mlflow.pyfunc.log_model(name=name, registered_model_name=registered_model_name, **arguments, **more)


def save_model(folder: str | Path, path: str | Path) -> None:
    """Write the MLflow model to a local folder, without a tracking server; see `log_model`."""
    import mlflow

    with _arguments(folder) as arguments:
        mlflow.pyfunc.save_model(path=str(path), **arguments)


def local_folder(uri: str) -> Path:
    """The model folder of a logged model, copied to this machine where it lies elsewhere.

    Args:
        uri: such as `models:/fairrec-retailrocket@champion`.

    Raises:
        ModelFolderError: there is no such model, or it is not one that `log_model` logged.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        model = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError) as error:
        raise ModelFolderError(
            f"{uri}: cannot be fetched from {mlflow.get_tracking_uri()} ({error}); see the registered models with "
            "`kedro mlflow ui`, or set MLFLOW_TRACKING_URI"
        ) from error
    folder = model / "artifacts" / _ARTIFACT
    if not (folder / CONFIG).is_file():
        message = f"{uri}: holds no {folder.relative_to(model) / CONFIG}; it is not a model of this project"
        raise ModelFolderError(message)
    return folder


@contextmanager
def _arguments(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Arguments that logging and saving share, for as long as the context lasts."""
    opened = open_folder(folder)
    config = opened.config
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, _ARTIFACT)  # always under this name, whatever the folder is called
        copy.mkdir()
        for file in opened.path.iterdir():
            if file.is_file():
                shutil.copyfile(
                    file, copy / file.name
                )  # content only: safetensors writes files that others cannot read
        yield {
            "python_model": str(Path(__file__).with_name("mlflow_code.py")),
            "artifacts": {_ARTIFACT: str(copy)},
            "model_config": {"item_type": config.item_type.__name__},
            "code_paths": [str(_PACKAGE)],
            "pip_requirements": [f"{name}=={version(name).partition('+')[0]}" for name in _NEEDED],
            "metadata": config.model_dump(include={"arm", "seed", "dataset", "data_fingerprint"}),
        }
