"""`python -m fairrec_pipeline.serving.onnx_export <folder>`: write `model.onnx` beside the weights."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairrec_pipeline.serving.model_folder import ModelFolder, ModelFolderError, open_folder
from fairrec_pipeline.serving.onnx_scores import INSTALL, ONNX, WEIGHTS_SHA256, sha256_of
from fairrec_pipeline.serving.padded_scores import PaddedScores
from fairrec_pipeline.serving.padding import padded_inputs
from fairrec_pipeline.serving.torch_scores import load_model
from fairrec_pipeline.storage import write_whole


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fairrec_pipeline.serving.onnx_export", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with model.safetensors and config.json")
    try:
        path = export(parser.parse_args(arguments).folder)
    except ModelFolderError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{path}\n")
    return 0


def export(folder: Path) -> Path:
    """Write the model of a folder as ONNX, whole or not at all; number and length of the histories stay open.

    Returns:
        `model.onnx` in the folder.

    Raises:
        ModelFolderError: the folder holds no model, or onnx is not installed.
    """
    opened = open_folder(folder)
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        message = f"{folder}: the export needs onnx and onnxscript, which are not installed; {INSTALL}"
        raise ModelFolderError(message) from error
    program = _program(opened)
    program.model.metadata_props[WEIGHTS_SHA256] = sha256_of(opened.weights)
    path = opened.path / ONNX
    write_whole(path, lambda partial: program.save(partial, external_data=False))
    return path


def _program(folder: ModelFolder) -> Any:
    backbone = folder.config.backbone
    examples = padded_inputs(np.zeros(6, np.int64), np.array([0, 1, 3, 6]), backbone)  # three histories
    inputs = tuple(torch.from_numpy(array) for array in examples.values())
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=1, max=backbone.max_length)
    shapes = tuple({0: batch, 1: length} if name == "tokens" else {0: batch} for name in examples)
    return torch.onnx.export(
        PaddedScores(load_model(folder)).eval(),
        inputs,
        dynamo=True,
        input_names=list(examples),
        output_names=["scores"],
        dynamic_shapes=(shapes,),
        verbose=False,
    )


if __name__ == "__main__":
    sys.exit(main())
