"""The recommend pipeline in a project: the lists of the model for everybody, files that change them, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from kedro.io import DatasetError

from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.errors import DataError
from fairrec_pipeline.training.scoring import ModelScorer, restored
from tests.projects import run_pipeline
from tests.worlds import complete_histories

OUTPUTS = "data/07_model_output/synthetic"


def recommended(project: Path, arm: str = "erm/seed-0") -> pd.DataFrame:
    return pd.read_parquet(sorted((project / OUTPUTS / arm).glob("recommendations.parquet/*/*.parquet"))[-1])


@pytest.fixture(scope="module")
def trained(shared_project: Path) -> Path:
    run_pipeline(shared_project, "train")
    return shared_project


def test_the_lists_are_those_of_the_model(trained: Path) -> None:
    """Of the scores of training and torch's own top-k, for everybody."""
    run_pipeline(trained, "recommend", recommend={"k": 10})
    (path,) = trained.glob("data/05_model_input/synthetic/interactions.parquet/*/*.parquet")
    record = ArmStore(str(trained / "data/06_models/synthetic"), str(trained / OUTPUTS), "").find("erm", 0)
    assert record is not None
    assert record.model is not None
    model = restored(record.model.weights, torch.device("cpu"), **record.model.config["backbone"])
    histories = complete_histories(pd.read_parquet(path), np.array(record.model.config["catalogue"]))
    best = torch.topk(ModelScorer(model, histories)(torch.arange(histories.n_users)), 10, dim=1)
    expected = pd.DataFrame(
        {
            "user_id": histories.users.repeat(10),
            "rank": list(range(1, 11)) * histories.n_users,
            "item_id": histories.catalogue[best.indices.numpy().ravel()],
            "score": best.values.numpy().ravel(),
        }
    )
    pd.testing.assert_frame_equal(recommended(trained), expected, check_exact=False, atol=1e-5)


def test_files_of_items_and_users(trained: Path) -> None:
    folder = trained / "data/01_raw/synthetic"
    folder.mkdir(exist_ok=True)
    items = sorted(set(recommended_by_default(trained)["item_id"]))
    (folder / "allow.txt").write_text("\n".join(map(str, items[:6])))
    (folder / "exclude.csv").write_text(f"item_id\n{items[0]}\n999999\n")
    (folder / "users.csv").write_text(f"user_id,item_id\nben,{items[1]}\nanna,\nben,{items[2]}\n")
    files = {"allow": "allow.txt", "exclude": "exclude.csv", "users": "users.csv"}
    run_pipeline(trained, "recommend", recommend={**files, "filter_seen": True, "arm": "erm"})
    lists = recommended(trained).groupby("user_id")["item_id"].agg(set)
    assert lists.to_dict() == {"anna": set(items[1:6]), "ben": set(items[3:6])}


def recommended_by_default(project: Path) -> pd.DataFrame:
    run_pipeline(project, "recommend")
    return recommended(project)


def test_what_cannot_be_recommended_with_is_said(trained: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"cvar with seed 0 is not trained.*kedro run --pipeline=train --params loss="
    ):
        run_pipeline(trained, "recommend", recommend={"arm": "cvar"})
    with pytest.raises(DatasetError, match=r"no arm is the champion yet .*kedro run --pipeline=promote"):
        run_pipeline(trained, "recommend", recommend={"arm": "champion"})
    folder = trained / "data/01_raw/synthetic"
    folder.mkdir(exist_ok=True)
    (folder / "none.txt").write_text("999999\n")
    with pytest.raises(DataError, match=r"none\.txt: the model knows none of its 1 items"):
        run_pipeline(trained, "recommend", recommend={"allow": "none.txt"})
