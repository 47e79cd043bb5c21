"""The exported model gives the answers of torch; without the packages a message says what to install."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fairrec_pipeline.serving.model_folder import ModelFolderError
from fairrec_pipeline.serving.onnx_export import main
from fairrec_pipeline.serving.recommender import Recommender
from fairrec_pipeline.serving.requests import Query


def exported(folder: Path) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")
    assert main([str(folder)]) == 0
    return folder


@pytest.mark.parametrize("filter_seen", [False, True])
@pytest.mark.parametrize(
    "backbone", [{"blocks": 2, "heads": 2}, {"copy_window": 0}, {"tied_embeddings": True, "copy_window": 30}]
)
def test_the_answers_of_torch(
    backbone: dict[str, int], filter_seen: bool, model_folder: Callable[..., Path], histories: list[list[int]]
) -> None:
    folder = exported(model_folder(**backbone))
    queries = [Query[int](history=history, filter_seen=filter_seen) for history in histories]
    by_torch, by_onnx = (Recommender.load(folder, backend).answer(queries) for backend in ("torch", "onnx"))
    assert np.mean([ours.items == theirs.items for ours, theirs in zip(by_torch, by_onnx, strict=True)]) >= 0.999
    for ours, theirs in zip(by_torch, by_onnx, strict=True):
        np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-5, rtol=0)


def test_an_export_of_other_weights_and_a_damaged_one(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder, other = exported(model_folder()), model_folder(tied_embeddings=True)
    shutil.copy(folder / "model.onnx", other / "model.onnx")
    with pytest.raises(ModelFolderError, match=r"model.onnx: was exported from other weights .* write it: python -m"):
        Recommender.load(other, "onnx")
    (other / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelFolderError, match=r"model.onnx: is damaged or not readable"):
        Recommender.load(other, "onnx")


def test_no_export(folder: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"model.onnx: there is no such file; write it: python -m .*onnx_export"):
        Recommender.load(folder, "onnx")


def test_packages_that_are_not_installed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main([str(folder)]) == 2
    assert 'needs onnx and onnxscript, which are not installed; pip install "fairrec_pipeline[onnx]"' in (
        capsys.readouterr().err
    )
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "model.onnx").write_bytes(b"")
    with pytest.raises(ModelFolderError, match=r'needs onnxruntime, .* pip install "fairrec_pipeline\[onnx\]"'):
        Recommender.load(copy, "onnx")
