"""The pipelines that train, in a project: what is refused before, what is not done twice, whatever runs them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from kedro.runner import ThreadRunner

from fairrec_pipeline.comparison.selection import IncomparableArmsError
from fairrec_pipeline.errors import FairrecError
from tests.projects import run_pipeline, store

SMALL = {"small": {"arms": ["erm", "cvar"], "seeds": 1, "tune": False}}


def test_an_arm_on_other_data_stops_a_comparison_before_anything_is_trained(project: Path, epochs: list[int]) -> None:
    run_pipeline(project, "train", loss="kl")
    assert len(epochs) == 2
    with pytest.raises(IncomparableArmsError, match=r"(?s)kl .*was trained on data .*other_data=skip"):
        run_pipeline(project, "experiment", experiments=SMALL, split={"validation_users": 20})
    assert len(epochs) == 2
    # what the run trains again is no obstacle
    run_pipeline(project, "experiment", experiments={"small": SMALL["small"] | {"arms": ["kl", "erm"]}},
                 split={"validation_users": 20})  # fmt: skip
    assert len(epochs) == 6
    compared = pd.read_csv(project / "data/08_reporting/synthetic/comparison.csv")
    assert {"kl", "erm"} <= set(compared["arm"])


def test_only_missing_outputs_trains_nothing_that_is_there(project: Path, epochs: list[int]) -> None:
    run_pipeline(project, "train", loss="cvar")
    (before,) = store(project).records()
    run_pipeline(project, "train", options={"only_missing_outputs": True}, loss="cvar")
    assert len(epochs) == 2
    (after,) = store(project).records()
    assert after.card == before.card
    # other parameters are another training, whatever is there
    run_pipeline(project, "train", options={"only_missing_outputs": True}, loss="cvar", train={"epochs": 3})
    assert len(epochs) == 5


def test_a_run_that_goes_on_from_a_node_mixes_nothing(project: Path) -> None:
    """What Kedro suggests after a failure; the parts of an arm then had versions of different sessions."""
    run_pipeline(project, "train", loss="kl", seed=21)
    run_pipeline(project, "train", options={"from_nodes": ["train_arms"]}, loss="kl", seed=21, train={"epochs": 1})
    run_pipeline(project, "compare")
    (record,) = store(project).records()
    assert {entry["version"] for entry in record.card["parts"].values()} == {record.card["version"]}
    assert record.card["epochs"] == 1
    compared = pd.read_csv(project / "data/08_reporting/synthetic/comparison.csv")
    assert "kl" in set(compared["arm"])


def test_an_attribute_may_be_called_anything(project: Path) -> None:
    shop = project / "data/01_raw/shop"
    shop.mkdir(parents=True)
    users = range(30)
    rows = [(user, (user + step) % 9, step) for user in users for step in range(7)]
    pd.DataFrame(rows, columns=["user", "item", "at"]).to_csv(shop / "log.csv", index=False)
    labels = [("a/b", "a_b", "x" * 300)[user % 3] for user in users]
    pd.DataFrame({"user": users, "a/b": labels}).to_csv(shop / "users.csv", index=False)
    small = "{split: {core: 1}, train: {epochs: 1, steps_per_epoch: 2, batch_size: 8}}"
    (project / "conf/test/parameters_shop.yml").write_text(
        "datasets: {shop: {adapter: table, interactions: log.csv, user: user, item: item, timestamp: at,"
        f" users: users.csv, user_attributes: ['a/b'], parameters: {small}}}}}"
    )
    for loss in ("erm", "gdro"):
        run_pipeline(project, "train", dataset="shop", loss=loss, loss_groups="a/b")
    run_pipeline(project, "compare", dataset="shop")
    compared = pd.read_csv(project / "data/08_reporting/shop/comparison.csv")
    assert {"erm", "gdro-a/b"} <= set(compared["arm"])
    assert set(compared.loc[compared["split"] == "a/b", "group"]) == {"a/b", "a_b", "x" * 300}


def test_a_plan_that_cannot_be_run_is_refused_before_data_are_prepared(project: Path) -> None:
    with pytest.raises(FairrecError, match=r"grids\.cvar\.train: warm_start_steps 9 leave no step"):
        run_pipeline(project, "tune", loss="cvar", grids={"cvar": {"train.warm_start_steps": [9]}})
    assert [path for path in (project / "data").rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_threads_train_what_one_thread_trains(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A connection of DuckDB is not shared, and torch's random numbers are not mixed."""
    import shutil

    other = tmp_path_factory.mktemp("other") / "project"
    shutil.copytree(project, other)
    run_pipeline(project, "__default__", options={"runner": ThreadRunner(max_workers=4)})
    run_pipeline(other, "__default__")
    threads, alone = ({record.arm: record for record in store(each).records()} for each in (project, other))
    assert threads.keys() == alone.keys()
    for arm, record in alone.items():
        pd.testing.assert_frame_equal(threads[arm].user_metrics, record.user_metrics, check_exact=True)
