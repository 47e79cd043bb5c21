"""`python -m fairrec_pipeline.serving.onnx_export <folder>`: write `model.onnx` beside the weights."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairrec_pipeline.models.sasrec import Block, SASRec
from fairrec_pipeline.serving.model_folder import ModelFolder, ModelFolderError, open_folder
from fairrec_pipeline.serving.onnx_scores import INSTALL, ONNX, WEIGHTS_SHA256, padded_inputs, sha256_of
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
    examples = padded_inputs([[0] * (i + 1) for i in range(3)], backbone)
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


class PaddedScores(nn.Module):
    """The scores of a SASRec for left-padded histories: what is exported."""

    def __init__(self, model: SASRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Any:
        """(b, n_items) scores from the inputs of `padded_inputs`, in their order."""
        tokens, lengths, *copied = inputs
        model, length = self.model, tokens.shape[1]
        columns = torch.arange(length, device=tokens.device)
        positions = model.position_embedding.weight[:length].flip(0)
        x = positions + model.item_embedding(tokens) * model.input_scale
        real = columns >= length - lengths[:, None]  # (b, l)
        # a padded position sees itself, for a softmax over nothing is not a number; no real one sees it
        visible = (columns[:, None] >= columns) & (real[:, None, :] | torch.eye(length, dtype=torch.bool))
        for number, block in enumerate(model.blocks):
            newest_only = number == len(model.blocks) - 1
            x = _block(cast(Block, block), x, visible[:, None], newest_only=newest_only)
        states = model.final_norm(x[:, -1])
        scores = states @ model.output_table.T
        if model.copy is None:
            return scores
        items, features, there = copied
        bias, exponent = model.copy.calibration
        by_recency = states @ model.copy.recency_embedding.weight.T
        return scores.scatter_add(1, items, (by_recency + bias + exponent * features) * there)


def _block(block: Block, x: Tensor, visible: Tensor, *, newest_only: bool) -> Any:
    """(b, l, dim) after the block, or (b, 1, dim) of the newest position."""
    q, k, v = block.qkv(block.attention_norm(x)).unflatten(2, (3, block.heads, -1)).permute(2, 0, 3, 1, 4)
    if newest_only:
        x, q, visible = x[:, -1:], q[:, :, -1:], visible[:, :, -1:]
    weights = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).masked_fill(~visible, float("-inf")).softmax(3)
    x = x + block.attention_out((weights @ v).transpose(1, 2).flatten(2))
    return x + block.contract(functional.relu(block.expand(block.feed_forward_norm(x))))


if __name__ == "__main__":
    sys.exit(main())
