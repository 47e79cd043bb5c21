"""A folder is served if it is whole and of this format; else one sentence names the file and the next step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairrec_pipeline.serving.model_folder import ModelFolderError, open_folder
from fairrec_pipeline.serving.recommender import Recommender


def changed(folder: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a folder with another config.json."""
    shutil.copytree(folder, target)
    config = json.loads((folder / "config.json").read_text())
    answer = change(config)
    (target / "config.json").write_text(json.dumps(config if answer is None else answer))
    return target


def test_what_a_folder_says(folder: Path) -> None:
    config = open_folder(folder).config
    assert (config.arm, config.seed, config.dataset, config.item_type) == ("cvar", 3, "shop", int)
    assert config.summary()["n_items"] == 300
    assert "catalogue" not in config.summary()


def test_who_trained_it_may_be_missing(folder: Path, tmp_path: Path) -> None:
    def forget(config: dict[str, Any]) -> None:
        for name in ("arm", "seed", "dataset", "data_fingerprint"):
            del config[name]

    assert open_folder(changed(folder, tmp_path / "model", forget)).config.arm is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config: config.pop("format"),
            r"format should be 2, got none; an older version wrote it: train the arm",
        ),
        (lambda config: config.update(format=1), "got 1; an older version wrote it: train the arm again"),
        (lambda config: config.update(format=3), "got 3; update this project"),
        (lambda config: config.update(architecture="GRU4Rec"), "architecture should be SASRec, got 'GRU4Rec'"),
        (lambda config: config.pop("filter_seen"), "filter_seen: Field required; train the arm again"),
        (lambda config: config["backbone"].pop("dim"), "backbone.dim: Field required"),
        (lambda config: config["backbone"].update(heads=3), "dim must be a multiple of heads"),
        (lambda config: config["backbone"].update(width=3), "backbone.width: Extra inputs are not permitted"),
        (lambda config: config["catalogue"].pop(), "299 items, 299 of them distinct, and backbone.n_items is 300"),
        (lambda config: config["catalogue"].__setitem__(0, 13), "300 items, 299 of them distinct"),
        (lambda config: config["catalogue"].__setitem__(0, "a"), "catalogue: should be a list of integers or of texts"),
        (lambda config: config.update(catalogue=[]), "catalogue: should be a list of integers or of texts"),
        (lambda config: [config], "should be a JSON object, got list"),
    ],
)
def test_a_config_that_cannot_be_served(
    change: Callable[[dict[str, Any]], Any], message: str, folder: Path, tmp_path: Path
) -> None:
    def only_in_place(config: dict[str, Any]) -> Any:
        answer = change(config)
        return answer if answer == [config] else None

    with pytest.raises(ModelFolderError, match=message) as caught:
        open_folder(changed(folder, tmp_path / "model", only_in_place))
    assert str(caught.value).startswith(str(tmp_path / "model" / "config.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damaged_and_missing_files(name: str, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / name).write_bytes((copy / name).read_bytes()[:100])
    with pytest.raises(ModelFolderError, match=rf"{name}: .*train the arm again"):
        open_folder(copy)
    (copy / name).unlink()
    with pytest.raises(ModelFolderError, match=rf"{name}: there is no such file; --model is a folder with"):
        open_folder(copy)


def test_files_of_two_trainings(folder: Path, tmp_path: Path) -> None:
    other = changed(folder, tmp_path / "model", lambda config: config["backbone"].update(dim=16))
    with pytest.raises(ModelFolderError, match=r"item_embedding.weight should be \(301, 16\) .* got \(301, 8\)"):
        open_folder(other)
    fewer = changed(folder, tmp_path / "fewer", lambda config: config["backbone"].update(blocks=1))
    with pytest.raises(ModelFolderError, match=r"model.safetensors: does not fit config.json .*blocks.1"):
        Recommender.load(fewer)


def test_weights_that_are_not_finite(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"final_norm.bias": torch.full((8,), float("nan"))}, copy / "model.safetensors")
    with pytest.raises(ModelFolderError, match=r"final_norm.bias has values that are not finite"):
        Recommender.load(copy)


def test_a_loaded_model_outlives_its_file(folder: Path, tmp_path: Path) -> None:
    """Weights that were mapped from the file would end the process with a bus error."""
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    recommender = Recommender.load(copy)
    before = recommender.recommend([10])
    (copy / "model.safetensors").write_bytes(b"")
    assert recommender.recommend([10]) == before


def test_no_pickle_is_loaded(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    torch.save(load_file(folder / "model.safetensors"), copy / "model.safetensors")
    with pytest.raises(ModelFolderError, match=r"model.safetensors: is damaged"):
        open_folder(copy)
