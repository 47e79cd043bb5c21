"""Model folders as a training leaves them, and histories to ask about."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fairrec_pipeline.models.copying import FEATURES
from fairrec_pipeline.models.sasrec import SASRec
from tests.worlds import MODEL

N_ITEMS = 300


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a folder with a random model of 300 items; items 10, 13, 16 ..., or such texts."""

    def make(*, text: bool = False, config: dict[str, Any] | None = None, **backbone: Any) -> Path:
        arguments = {**MODEL, "init_std": 0.5, "max_length": 12, "copy_window": 5, **backbone}
        torch.manual_seed(1)
        model = SASRec(N_ITEMS, **arguments)
        if model.copy is not None:  # as after a training
            weights = {"bias": -0.5, "log_count": 0.25, "log_recency": -1.0, "newest": 0.5, "score": -0.5}
            weights |= {"new_items": 0.75, "habit": 1.5}
            model.copy.weights.copy_(torch.tensor([weights[feature] for feature in FEATURES]))
        ids = [10 + 3 * code for code in range(N_ITEMS)]
        catalogue = sorted(f"i{item}" for item in ids) if text else ids
        content = {
            "format": 2, "architecture": "SASRec", "arm": "cvar", "seed": 3, "dataset": "shop",
            "data_fingerprint": "f" * 64, "filter_seen": False, "backbone": {"n_items": N_ITEMS, **arguments},
            "catalogue": catalogue, "a_key_of_the_future": 1, **(config or {}),
        }  # fmt: skip
        folder = tmp_path_factory.mktemp("model")
        save_file(
            {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors"
        )
        (folder / "config.json").write_text(json.dumps(content))
        return folder

    return make


@pytest.fixture(scope="session")
def folder(model_folder: Callable[..., Path]) -> Path:
    """A model with two blocks, two heads and a copy mechanism; items are integers."""
    return model_folder(blocks=2, heads=2)


def histories_of(catalogue: list[int], n_users: int = 200, longest: int = 30) -> list[list[int]]:
    """Histories with repeats and items that the model does not know, of 0 to `longest` items."""
    rng = np.random.default_rng(0)
    popular = rng.choice(catalogue, 20)
    ids = [*popular.tolist() * 10, *catalogue, *range(-20, 0)]
    return [rng.choice(ids, length).tolist() for length in rng.integers(0, longest + 1, n_users)]


@pytest.fixture(scope="session")
def histories(folder: Path) -> list[list[int]]:
    """200 histories over the items of `folder`."""
    return histories_of(json.loads((folder / "config.json").read_text())["catalogue"])
