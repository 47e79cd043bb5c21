"""Trainings on a cluster of two nodes: the records of one process, whatever dies meanwhile."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.arms.spec import ArmSpec, Plan
from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.experiments.run import run
from fairrec_pipeline.parameters.blocks import Ray
from fairrec_pipeline.training.divergence import DivergenceError
from tests.projects import assert_same, run_pipeline, store
from tests.scale.conftest import Bucket, SmallCluster
from tests.worlds import points, prepared_data, spec_of, specs, store_at

pytestmark = pytest.mark.usefixtures("one_thread")


def on(cluster: SmallCluster, **changes: Any) -> Ray:
    return Ray.model_validate({"address": cluster.address, "cpus": 1, "gpus": 0, "retries": 3, **changes})


def records(plan: Plan, folder: Path, version: str = "1", **how: Any) -> list[ArmRecord]:
    made = []
    for record in run(plan, prepared_data(), store_at(folder, version), **how):
        store_at(folder, version).save(record)
        made.append(record)
    return made


ROBUST = {"robust": {"arms": ["erm", "gdro-pop33", "sdro-pop33", "cvar"], "seeds": 3, "tune": True}}
"""The experiment of conf/base, with the grids and the budget of conf/test."""


def test_robust_is_what_one_process_leaves(
    cluster: SmallCluster, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """15 trainings, 12 records, the comparison, and a row of MLflow each."""
    import mlflow

    from tests.conftest import copy_project

    alone = copy_project(tmp_path_factory.mktemp("alone"))
    experiment = {"experiment": "robust", "experiments": ROBUST}
    run_pipeline(alone, "experiment", **experiment)
    run_pipeline(project, "experiment", executor="ray", ray=on(cluster).model_dump(), **experiment)
    mine, theirs = store(project).records(), store(alone).records()
    assert len(mine) == 12
    assert_same(mine, theirs)
    changing = {"started", "finished", "seconds", "version", "parts", "commit"}
    for one, other in zip(mine, theirs, strict=True):
        assert {k: v for k, v in one.card.items() if k not in changing} == {
            k: v for k, v in other.card.items() if k not in changing
        }
        assert one.card["commit"] == other.card["commit"]
    csv = "data/08_reporting/synthetic/comparison.csv"
    assert (project / csv).read_bytes() == (alone / csv).read_bytes()
    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    rows = client.search_runs([client.get_experiment_by_name("fairrec").experiment_id])
    names = [row.info.run_name for row in rows if "mlflow.parentRunId" in row.data.tags]
    assert len(names) == 12 + 6  # records, and the points of three grids
    assert {row.info.status for row in rows} == {"FINISHED"}
    # and nothing is trained again
    run_pipeline(project, "experiment", executor="ray", ray=on(cluster).model_dump(), **experiment)
    assert {each.card["version"] for each in store(project).records()} == {each.card["version"] for each in mine}


LONG = {"epochs": 40, "steps_per_epoch": 30}


def long_specs() -> list[ArmSpec]:
    """Trainings of some seconds each, that write a checkpoint every epoch."""
    return [spec_of("erm", train=LONG), spec_of("gdro-pop33", train=LONG), spec_of("cvar", train=LONG)]


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    message = "it did not happen"
    raise TimeoutError(message)


def test_a_worker_and_a_node_die_and_the_table_is_the_same(mortal_cluster: SmallCluster, tmp_path: Path) -> None:
    plan = Plan(name="p", specs=tuple(long_specs()), seeds=(0, 1))
    happened: list[str] = []

    def disturb() -> None:
        trials = tmp_path / "ray" / "trials"
        wait_for(lambda: list(trials.glob("*.safetensors")))
        victim = wait_for(lambda: mortal_cluster.tasks("erm seed 0"))[0]
        victim.kill()
        happened.append("worker killed")
        again = wait_for(lambda: [each for each in mortal_cluster.tasks("erm seed 0") if each.pid != victim.pid])[0]
        time.sleep(0.5)
        mortal_cluster.remove(mortal_cluster.node_of(again))
        happened.append("node removed")

    disturber = threading.Thread(target=disturb)
    disturber.start()
    mine = records(plan, tmp_path / "ray", ray=on(mortal_cluster))
    disturber.join()
    assert happened == ["worker killed", "node removed"]
    assert len(mine) == 6
    assert_same(
        store_at(tmp_path / "ray").records(),
        (records(plan, tmp_path / "alone"), store_at(tmp_path / "alone").records())[1],
    )
    assert not list(tmp_path.rglob("*.partial"))


def test_a_training_that_fails_stops_the_run_with_its_error(cluster: SmallCluster, tmp_path: Path) -> None:
    """What is complete stays; the others are ended."""
    endless = spec_of("cvar", train={"epochs": 10**6})
    plan = Plan(name="p", specs=(spec_of("erm"), spec_of("gdro-pop20"), endless), seeds=(0,))
    with pytest.raises(ValueError, match="no column 'pop20'") as caught:
        records(plan, tmp_path, ray=on(cluster))
    assert "ray::" not in str(caught.value)
    assert [each.label for each in store_at(tmp_path).records()] == ["erm (seed 0)"]
    wait_for(lambda: not cluster.tasks("cvar"))


def test_a_grid_that_diverges_everywhere_stops_the_run(cluster: SmallCluster, tmp_path: Path) -> None:
    grid = points("erm", "train.learning_rate", 1e12, 9e11)
    with pytest.raises(DivergenceError, match=r"no training of erm with seed 0 has a result"):
        records(Plan(name="p", specs=tuple(grid), seeds=(0,)), tmp_path, ray=on(cluster))


def test_a_store_that_the_driver_does_not_see_is_named(cluster: SmallCluster, tmp_path: Path) -> None:
    """As where every node has a disk of its own: here a file system in the memory of each process."""
    data, place = prepared_data(), "memory:///nobody"
    hidden = ArmStore(f"{place}/models", f"{place}/outputs", f"{place}/trials", "1")
    with pytest.raises(FairrecError, match=r"is not in memory:///nobody/trials.*Set data_root to what all nodes see"):
        list(run(Plan(name="p", specs=(spec_of("erm"),), seeds=(0,)), data, hidden, ray=on(cluster)))


def test_a_training_that_kills_its_worker_again_and_again_is_named(cluster: SmallCluster, tmp_path: Path) -> None:
    """As one that takes more memory than a node has."""
    from fairrec_pipeline.experiments.ray_executor import RayExecutor

    options, store = on(cluster, retries=1), store_at(tmp_path)
    with (
        pytest.raises(FairrecError, match=r"evaluate erm seed 0: its worker or node died more .* ray\.retries=1 \("),
        RayExecutor(prepared_data(), store, options, total=1, description="") as executor,
    ):
        executor.call(lambda *_: os._exit(9), spec_of("erm"))


def test_the_store_may_be_a_bucket(cluster: SmallCluster, bucket: Bucket) -> None:
    """Its credentials travel with it."""
    store = dataclasses.replace(bucket.store(), version="1")
    for record in run(Plan(name="p", specs=(spec_of("erm"),), seeds=(0,)), prepared_data(), store, ray=on(cluster)):
        store.save(record)
    (found,) = bucket.store().records()
    bucket.store().check(found)


def test_what_no_node_has_is_said(cluster: SmallCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from fairrec_pipeline.experiments.ray_executor import RayExecutor

    with RayExecutor(prepared_data(), store_at(tmp_path), on(cluster), total=1, description="") as executor:
        executor._require_a_node({"num_cpus": 1, "num_gpus": 0, "memory": 1})
        assert caplog.text == ""
        executor._require_a_node({"num_cpus": 3, "num_gpus": 0})
        assert "no node of the cluster has what a training takes: CPU 3 (the most of a node is 1)" in caplog.text


def test_the_progress_of_the_trainings_is_shown(
    cluster: SmallCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records(Plan(name="robust", specs=tuple(long_specs()[:2]), seeds=(0,)), tmp_path, ray=on(cluster))
    shown = capsys.readouterr().err
    assert "robust: 100%" in shown
    assert "2/2" in shown
    assert any(f"erm seed 0 {epoch}/40" in shown for epoch in range(1, 40))


def test_a_cluster_for_one_run(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed; make test-scale has it")
    options = Ray(address="local", cpus=1, gpus=0, retries=0)
    plan = Plan(name="p", specs=tuple(specs()), seeds=(0,))
    records(plan, tmp_path / "ray", ray=options)
    assert not ray.is_initialized()
    records(plan, tmp_path / "alone")
    assert_same(store_at(tmp_path / "ray").records(), store_at(tmp_path / "alone").records())
    too_much = options.model_copy(update={"cpus": 1000})
    with pytest.raises(FairrecError, match=r"no node of the cluster has what a training takes: CPU 1000"):
        records(plan, tmp_path / "other", ray=too_much)
    assert not ray.is_initialized()


def test_an_address_without_a_cluster_is_one_message(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed; make test-scale has it")
    options = Ray(address="127.0.0.1:9", cpus=1, gpus=0, retries=0)
    with pytest.raises(FairrecError, match=r"there is no Ray cluster at 127\.0\.0\.1:9 .*ray start --head"):
        records(Plan(name="p", specs=(spec_of("erm"),), seeds=(0,)), tmp_path, ray=options)
