"""Scores of histories by onnxruntime, without torch: less memory, and less time for a single history."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairrec_pipeline.serving.model_folder import Backbone, ModelFolder, ModelFolderError

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
            message = f"{path}: there is no such file; {export}"
            raise ModelFolderError(message)
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
            message = f"{path}: is damaged or not readable ({error}); {export}"
            raise ModelFolderError(message) from error
        if self._session.get_modelmeta().custom_metadata_map.get(WEIGHTS_SHA256) != sha256_of(folder.weights):
            message = f"{path}: was exported from other weights than those beside it; {export}"
            raise ModelFolderError(message)
        self._backbone = folder.config.backbone

    def __call__(self, items: np.ndarray, offsets: np.ndarray) -> Any:
        """What comes back scores a run of users; see `recommender.Scores`."""
        histories = [part.tolist() for part in np.split(items, offsets[1:-1])]

        def scores(start: int, stop: int) -> np.ndarray:
            inputs = padded_inputs(histories[start:stop], self._backbone)
            of_users: np.ndarray = self._session.run(None, inputs)[0]
            return of_users

        return scores


def padded_inputs(histories: Sequence[Sequence[int]], backbone: Backbone) -> dict[str, np.ndarray]:
    """Inputs of the exported model.

    Args:
        histories: b histories of item codes, oldest first, complete.
        backbone: of the model.

    Returns:
        tokens (b, l) int64, padded on the left with the start token, which itself comes first in a history that fits;
        lengths (b,) int64, real tokens of each row;
        with a copy mechanism also items (b, window) int64 and features, real (b, window) float32: of the distinct
        items among the newest `window` of the history, newest first, code, `log(n / (1 + r))` and whether there is one.
    """
    cut = [(backbone.n_items, *history)[-backbone.max_length :] for history in histories]
    lengths = np.array([len(tokens) for tokens in cut])
    tokens = np.full((len(cut), int(lengths.max())), backbone.n_items)
    for row, of_user in zip(tokens, cut, strict=True):
        row[-len(of_user) :] = of_user
    if not backbone.copy_window:
        return {"tokens": tokens, "lengths": lengths}
    shape = (len(cut), backbone.copy_window)
    items, features, real = np.zeros(shape, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for number, history in enumerate(histories):
        times = Counter(history)
        newest = list(dict.fromkeys(reversed(history[-backbone.copy_window :])))
        n = len(newest)
        items[number, :n], real[number, :n] = newest, 1
        features[number, :n] = np.log(np.array([times[item] for item in newest]) / (1 + np.arange(n)))
    return {"tokens": tokens, "lengths": lengths, "items": items, "features": features, "real": real}


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
