"""The promote pipeline in a project: a better arm becomes the champion, a worse one does not, and MLflow has it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.cli import mistake_in
from fairrec_pipeline.comparison.selection import IncomparableArmsError
from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.serving.mlflow_model import local_folder
from fairrec_pipeline.serving.recommender import Recommender
from tests.projects import run_pipeline

URI = "models:/fairrec-synthetic@champion"


def champion(project: Path) -> dict[str, Any]:
    return json.loads((project / "data/06_models/synthetic/champion/champion.json").read_text())


def versions() -> dict[str, str]:
    """Weights of every version in MLflow."""
    found = mlflow.MlflowClient().search_model_versions("name = 'fairrec-synthetic'")
    return {str(each.version): each.tags["weights_sha256"] for each in found}


@pytest.fixture(scope="module")
def promoted(shared_project: Path) -> Path:
    """cvar with 2 epochs, promoted."""
    run_pipeline(shared_project, "train", loss="cvar")
    run_pipeline(shared_project, "promote")
    return shared_project


def test_the_first_champion(promoted: Path) -> None:
    said = champion(promoted)
    assert (said["arm"], said["seed"], said["registered"]["version"]) == ("cvar", 0, "1")
    store = ArmStore(str(promoted / "data/06_models/synthetic"), str(promoted / "data/07_model_output/synthetic"), "")
    record = store.find("cvar", 0)
    assert record is not None
    assert record.validation_user_metrics is not None
    assert said["weights_sha256"] == record.card["parts"]["model"]["sha256"]
    (judged,) = said["validation"]
    assert judged["overall"] == pytest.approx(record.validation_user_metrics["ndcg_at_20"].mean())
    registered = mlflow.MlflowClient().get_model_version_by_alias("fairrec-synthetic", "champion")
    assert registered.tags["rule"] == "rule=best_overall within=1.0"
    assert registered.tags["data_fingerprint"] == said["data_fingerprint"] == record.card["data_fingerprint"]
    assert registered.tags["validation_ndcg_at_20"] == f"{judged['overall']:.6f}"
    card = (promoted / "data/06_models/synthetic/champion/model_card.md").read_text()
    folder = local_folder(URI)
    assert (folder / "model_card.md").read_text() == card == registered.description
    assert Recommender.load(folder).config.arm == "cvar"


def test_a_better_arm_becomes_the_champion_and_a_worse_one_does_not(promoted: Path) -> None:
    run_pipeline(promoted, "promote")
    assert list(versions()) == ["1"], "the same model is not registered twice"
    run_pipeline(promoted, "train", loss="erm", train={"epochs": 12})
    run_pipeline(promoted, "promote")
    better = champion(promoted)
    assert (better["arm"], better["registered"]["version"], sorted(versions())) == ("erm", "2", ["1", "2"])
    folder = local_folder(URI)
    assert Recommender.load(folder).config.arm == "erm"
    run_pipeline(promoted, "train", loss="kl", train={"epochs": 1, "learning_rate": 1e-6})
    run_pipeline(promoted, "promote")
    after = champion(promoted)
    assert [each["arm"] for each in after["validation"]] == ["erm", "cvar", "kl"]
    assert {**after, "validation": better["validation"]} == better
    assert sorted(versions()) == ["1", "2"]
    # the pipeline recommends with it by its name
    run_pipeline(promoted, "recommend", recommend={"arm": "champion", "k": 3}, loss="cvar")
    (path,) = promoted.glob("data/07_model_output/synthetic/champion/recommendations.parquet/*/*.parquet")
    served = Recommender.load(folder)
    (log,) = promoted.glob("data/05_model_input/synthetic/interactions.parquet/*/*.parquet")
    history = pd.read_parquet(log).groupby("user_id")["item_id"].agg(list)
    lists = pd.read_parquet(path).groupby("user_id")["item_id"].agg(list)
    for user in lists.index[:20]:
        assert lists[user] == served.recommend(history[user], k=3).items


def test_an_arm_on_other_data_is_refused(promoted: Path) -> None:
    before = champion(promoted)
    with pytest.raises(IncomparableArmsError, match=r"cvar .*was trained on data"):
        run_pipeline(promoted, "promote", split={"validation_users": 20})
    with pytest.raises(FairrecError, match="no trained arm to promote"):
        run_pipeline(promoted, "promote", split={"validation_users": 20}, evaluate={"other_data": "skip"})
    assert champion(promoted) == before


def test_a_registry_that_is_away_is_an_error_and_nothing_is_promoted(
    promoted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = champion(promoted)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(
        Exception, match=r"fairrec-synthetic cannot be written to MLflow's registry at http://127"
    ) as away:
        run_pipeline(promoted, "promote")
    said = mistake_in(away.value)
    assert said is not None
    assert len(said.splitlines()) == 1
    assert champion(promoted) == before
