"""Scores of histories by onnxruntime, without torch: less memory, and less time for a single history."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from fairrec_pipeline.serving.model_folder import ModelFolder, ModelFolderError
from fairrec_pipeline.serving.padding import padded_inputs

ONNX = "model.onnx"
WEIGHTS_SHA256 = "weights_sha256"
INSTALL = 'pip install "fairrec_pipeline[onnx]"'


class OnnxScores:
    """The exported model of a folder, on one thread.

    Args:
        folder: of the model, with the `model.onnx` that `onnx_export` writes.

    Raises:
        ModelFolderError: onnxruntime is not installed, or there is no export of these weights.
    """

    name = "onnx"

    def __init__(self, folder: ModelFolder) -> None:
        path = folder.path / ONNX
        export = f"write it: python -m fairrec_pipeline.serving.onnx_export {folder.path}"
        if not path.is_file():
            raise ModelFolderError(f"{path}: there is no such file; {export}")
        try:
            import onnxruntime
        except ImportError as error:
            message = f"{path}: the onnx backend needs onnxruntime, which is not installed; {INSTALL}"
            raise ModelFolderError(message) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises types of its own, below Exception only
            raise ModelFolderError(f"{path}: is damaged or not readable ({error}); {export}") from error
        if self._session.get_modelmeta().custom_metadata_map.get(WEIGHTS_SHA256) != sha256_of(folder.weights):
            raise ModelFolderError(f"{path}: was exported from other weights than those beside it; {export}")
        self._backbone = folder.config.backbone

    def __call__(self, items: np.ndarray, offsets: np.ndarray) -> Any:
        """What comes back scores a run of users; see `recommender.Scores`."""

        def scores(start: int, stop: int) -> np.ndarray:
            inputs = padded_inputs(items, offsets[start : stop + 1], self._backbone)
            of_users: np.ndarray = self._session.run(None, inputs)[0]
            return of_users

        return scores


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
