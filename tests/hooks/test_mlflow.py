"""Tracking: what is written to MLflow, and that nothing of it stands in the way of a result."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.hooks import tracking
from fairrec_pipeline.hooks.mlflow_database import prepared_database
from fairrec_pipeline.hooks.mlflow_pages import describe_experiment
from fairrec_pipeline.hooks.mlflow_runs import MlflowRuns
from fairrec_pipeline.metrics.by_group import group_metrics
from tests.projects import run_pipeline
from tests.worlds import metrics_of, record_of, user_groups

RUN = {
    "parameters": {"seed": 0, "loss": "cvar", "cvar": {"alpha": 0.3}},
    "started": "2026-01-01T00:00:00+00:00",
    "torch": "2",
    "dataset": "small",
    "validation_ndcg_at_20": 0.2,
}
HISTORY = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "validation_ndcg_at_20": [0.1, 0.2]})


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow, to be copied: to make one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with prepared_database(path, "fairrec", path.parent / "mlartifacts"):
        pass
    return path


@pytest.fixture
def client(tmp_path: Path, empty_database: Path) -> Any:
    from mlflow import MlflowClient

    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def runs(client: Any, tmp_path: Path) -> Callable[..., MlflowRuns]:
    experiment = client.create_experiment("fairrec", (tmp_path / "mlartifacts").as_uri())

    def make(*, one_arm: bool = True, active: str | None = None) -> MlflowRuns:
        return MlflowRuns(client, experiment, name="session", tags={"dataset": "small"}, one_arm=one_arm, active=active)

    return make


def everything(client: Any) -> dict[str, Any]:
    found = client.search_runs([client.get_experiment_by_name("fairrec").experiment_id])
    return {run.info.run_name: run for run in found}


def record(arm: str = "cvar", seed: int = 0, groups: pd.DataFrame | None = None, **parts: Any) -> Any:
    metrics = metrics_of(np.linspace(0, 1, 60))
    by_group = group_metrics(metrics, user_groups() if groups is None else groups)
    return record_of(arm, metrics, seed, card=RUN, training_history=HISTORY, group_metrics=by_group, **parts)


def test_a_session_of_one_arm_is_the_run_of_that_arm(client: Any, runs: Callable[..., MlflowRuns]) -> None:
    session = runs()
    session.log_record(record())
    session.close()
    (run,) = everything(client).values()
    assert (run.info.run_name, run.info.status) == ("cvar seed 0", "FINISHED")
    assert run.data.params["cvar.alpha"] == "0.3"
    assert run.data.tags["dataset"] == "small"
    assert run.data.metrics["test/ndcg_at_20/pop33/niche"] == pytest.approx(np.linspace(0, 1, 60)[::3].mean())
    assert [each.value for each in client.get_metric_history(run.info.run_id, "validation/ndcg_at_20")] == [0.1, 0.2]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "config.json", "group_metrics.csv", "training_history.html",
    }  # fmt: skip


def test_of_several_arms_each_is_a_child_and_so_are_the_points(client: Any, runs: Callable[..., MlflowRuns]) -> None:
    card = record().card
    point = {"point": "alpha=0.3", "card": card, "history": HISTORY.to_dict("records")}
    diverged = {"point": "alpha=0.9", "card": {**card, "diverged": "why", "epochs": 0}, "history": []}
    session = runs(one_arm=False)
    session.log_record(record(tuning_runs=[point, diverged]))
    session.log_record(record("erm", 1))
    session.close()
    found = everything(client)
    assert set(found) == {"session", "cvar seed 0", "cvar seed 0 alpha=0.3", "cvar seed 0 alpha=0.9", "erm seed 1"}
    parent = found.pop("session")
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    assert found["cvar seed 0 alpha=0.9"].info.status == "FAILED"
    assert parent.info.status == "FINISHED"


def test_a_session_that_has_nothing_to_write_leaves_no_run(client: Any, runs: Callable[..., MlflowRuns]) -> None:
    runs().close()
    runs(one_arm=False).close()
    assert everything(client) == {}


def test_an_error_is_written_into_the_run_of_the_session(client: Any, runs: Callable[..., MlflowRuns]) -> None:
    runs().close(RuntimeError("the disk is full"))
    (run,) = everything(client).values()
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "RuntimeError: the disk is full")


def test_a_mistake_alone_makes_no_run(client: Any, runs: Callable[..., MlflowRuns]) -> None:
    runs().close(FairrecError("there are no such groups"))
    assert everything(client) == {}


def test_a_session_that_a_mistake_ends_has_failed(client: Any, runs: Callable[..., MlflowRuns]) -> None:
    """Some arms are logged, then a training diverges or a process is killed."""
    session = runs(one_arm=False)
    session.log_record(record())
    session.close(FairrecError("the loss is not finite"))
    found = everything(client)
    assert found["cvar seed 0"].info.status == "FINISHED"
    run = found["session"]
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "FairrecError: the loss is not finite")


def test_groups_may_be_called_anything(client: Any, runs: Callable[..., MlflowRuns]) -> None:
    """A label of 300 characters, and two that differ in a sign which MLflow does not take in a name."""
    labels = np.array(["x" * 300, "x" * 299 + "y", "a/b", "a_b", "a*b", ""])[np.arange(60) % 6]
    runs().log_record(record(groups=user_groups(segment=labels)))
    (run,) = everything(client).values()
    table = pd.read_csv(client.download_artifacts(run.info.run_id, "group_metrics.csv"), keep_default_na=False)
    ndcg = table[table["metric"] == "ndcg_at_20"]
    assert set(ndcg.loc[ndcg["split"] == "segment", "group"]) == set(labels)


def test_the_table_of_arms_has_few_metrics(client: Any, runs: Callable[..., MlflowRuns]) -> None:
    runs().log_record(record())
    (run,) = everything(client).values()
    of_groups = [f"pop33/{name}" for name in ("niche", "diverse", "popular")]
    of_groups += [f"seq33/{name}" for name in ("short", "medium", "long")]
    tested = [
        f"test/{m}/{name}" for m in ("ndcg_at_20", "recall_at_20") for name in ("overall", "worst_group", *of_groups)
    ]
    rest = ["seconds", "epochs", "train/loss", "validation/ndcg_at_20", "validation/best_ndcg_at_20"]
    assert sorted(run.data.metrics) == sorted([*tested, *rest])
    assert run.data.metrics["validation/best_ndcg_at_20"] == 0.2


def test_the_page_of_a_run_says_what_it_is(client: Any, runs: Callable[..., MlflowRuns]) -> None:
    runs().log_record(record())
    (run,) = everything(client).values()
    ((data,),) = ([each.dataset] for each in run.inputs.dataset_inputs)
    assert (data.name, data.digest) == ("small", "f" * 12)
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("**cvar**, seed 0, on small: 30 epochs, 12 s on cpu; kept is epoch 12.")
    short = np.arange(60) // 3 % 3 == 0
    assert f"| test, worst group (short) | {np.linspace(0, 1, 60)[short].mean():.4f} |" in note
    assert "| validation | 0.2000 |" in note


def test_the_experiment_has_a_view_of_its_arms(client: Any, runs: Callable[..., MlflowRuns]) -> None:
    """Every column of the view is a metric that a run has; a description that somebody wrote is not changed."""
    session = runs()
    session.log_record(record())
    experiment = client.get_experiment_by_name("fairrec").experiment_id
    describe_experiment(client, experiment)
    tags = client.get_experiment(experiment).tags
    view = json.loads(tags["mlflow.sharedViewState.arms"])
    metrics = [name.split("`")[1] for name in view["selectedColumns"] if name.startswith("metrics.")]
    (run,) = everything(client).values()
    assert len(metrics) == 3
    assert set(metrics) <= set(run.data.metrics)
    assert f"#/experiments/{experiment}/runs?viewStateShareKey=arms" in tags["mlflow.note.content"]
    client.set_experiment_tag(experiment, "mlflow.note.content", "of mine")
    describe_experiment(client, experiment)
    assert client.get_experiment(experiment).tags["mlflow.note.content"] == "of mine"


def test_runs_inside_of_an_active_run_are_its_children(client: Any, runs: Callable[..., MlflowRuns]) -> None:
    """Two sessions, which would write the same parameters with other values into one run."""
    outer = client.create_run(client.get_experiment_by_name("fairrec").experiment_id, run_name="outer")
    for arm in ("cvar", "erm"):
        session = runs(one_arm=False, active=outer.info.run_id)
        session.log_record(record(arm))
        session.close()
    found = everything(client)
    assert set(found) == {"outer", "cvar seed 0", "erm seed 0"}
    assert found["outer"].info.status == "RUNNING", "it belongs to whoever started it"


def test_what_a_killed_process_has_left_running_is_closed(client: Any, runs: Callable[..., MlflowRuns]) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    experiment = runs().experiment
    here = socket.gethostname()
    owners = {"dead": f"{here}:{dead.pid}", "alive": f"{here}:{os.getpid()}", "elsewhere": f"another:{dead.pid}"}
    for name, owner in owners.items():
        client.create_run(experiment, run_name=name, tags={"fairrec.process": owner})
    runs().close_killed()
    assert {name: run.info.status for name, run in everything(client).items()} == {
        "dead": "KILLED", "alive": "RUNNING", "elsewhere": "RUNNING",
    }  # fmt: skip


# --- the database


def test_a_database_moves_with_its_project(tmp_path: Path, empty_database: Path) -> None:
    from mlflow import MlflowClient

    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    shutil.copy(empty_database, original / "mlflow.db")
    client = MlflowClient(f"sqlite:///{original / 'mlflow.db'}")
    experiment = client.create_experiment("fairrec", (original / "mlartifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "text", "note.txt")
    shutil.copytree(original, copy)
    shutil.rmtree(original / "mlartifacts")
    with prepared_database(copy / "mlflow.db", "fairrec", copy / "mlartifacts"):
        pass
    client = MlflowClient(f"sqlite:///{copy / 'mlflow.db'}")
    assert client.get_experiment_by_name("fairrec").artifact_location == (copy / "mlartifacts").as_uri()
    assert [file.path for file in client.list_artifacts(run)] == ["note.txt"]
    client.log_text(client.create_run(experiment).info.run_id, "text", "note.txt")
    assert len(list((copy / "mlartifacts").rglob("note.txt"))) == 2
    assert not (original / "mlartifacts").exists()


def _prepare(path: str) -> None:
    with prepared_database(Path(path), "fairrec", Path(path).parent / "mlartifacts"):
        pass


def test_killed_while_it_is_made_the_next_run_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    process = multiprocessing.get_context("spawn").Process(target=_prepare, args=(str(path),))
    process.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".mlflow.db.*.partial")) and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -9
    assert not path.exists()
    _prepare(str(path))
    assert path.exists()
    assert not list(tmp_path.glob(".mlflow.db.*.partial*"))


def test_two_first_runs_at_once_are_both_right(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_prepare, args=(str(tmp_path / "mlflow.db"),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


@pytest.mark.parametrize("kind", ["folder", "text", "truncated", "empty"])
def test_what_is_no_database_is_named_at_once(kind: str, tmp_path: Path, empty_database: Path) -> None:
    path = tmp_path / "mlflow.db"
    if kind == "folder":
        path.mkdir()
    else:
        content = {"text": b"no database", "truncated": empty_database.read_bytes()[:5000], "empty": b""}[kind]
        path.write_bytes(content)
    begun = time.monotonic()
    with pytest.raises(FairrecError, match=rf"{path} cannot be opened as the database of MLflow: .*move it away"):
        _prepare(str(path))
    assert time.monotonic() - begun < 10


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o444, 0o000, None], ids=["read only", "unreadable", "not there"])
def test_another_user_is_told_at_once(mode: int | None, empty_database: Path) -> None:
    """A folder that only root may write, with a database of root or without one."""
    code = (
        "import os, sys; from pathlib import Path\n"
        "from fairrec_pipeline.hooks.mlflow_database import prepared_database\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "with prepared_database(Path(sys.argv[1]), 'fairrec', Path('/x')): pass"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is of root alone
        Path(folder).chmod(0o755)
        path = Path(folder, "mlflow.db")
        if mode is not None:
            shutil.copy(empty_database, path)
            path.chmod(mode)
            path.with_name(".mlflow.db.lock").touch(0o666)
            path.with_name(".mlflow.db.lock").chmod(0o666)
        run = subprocess.run([sys.executable, "-c", code, path], cwd="/", capture_output=True, text=True, check=False)
    assert f"FairrecError: {path} cannot be opened as the database of MLflow" in run.stderr
    assert "make the file readable and writable, or move it away" in run.stderr


# --- the hook


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What tracking warns of; Kedro's configuration of logging leaves nothing to caplog."""
    said: list[str] = []
    monkeypatch.setattr(tracking.logger, "warning", lambda message, *values: said.append(message % values))
    return said


def saved(project: Path) -> list[Path]:
    return list((project / "data/07_model_output/synthetic").glob("*/seed-*/run_card.json/*/run_card.json"))


def test_a_server_that_is_away_costs_a_warning(
    project: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    begun = time.monotonic()
    run_pipeline(project, "train", loss="cvar")
    assert len(saved(project)) == 1
    assert len(warnings) == 1
    assert "Nothing more of this run is written to MLflow" in warnings[0]
    assert time.monotonic() - begun < 60


def test_a_server_that_goes_away_costs_no_result(
    project: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        message = "the server went away"
        raise ConnectionError(message)

    monkeypatch.setattr(MlflowRuns, "log_record", fail)
    run_pipeline(project, "experiment", experiments={"small": {"arms": ["erm", "cvar"], "seeds": 1, "tune": False}})
    assert len(saved(project)) == 2
    assert (project / "data/08_reporting/synthetic/report.html").exists()
    assert len(warnings) == 1
    assert "ConnectionError: the server went away. Results are saved all the same" in warnings[0]


def test_a_run_that_fails_has_no_report_of_an_earlier_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    from fairrec_pipeline.pipelines.compare import nodes

    report = project / "data/08_reporting/synthetic/report.html"
    report.parent.mkdir(parents=True)
    report.write_text("of yesterday")

    def fail(*_: Any, **__: Any) -> None:
        message = "a bug"
        raise RuntimeError(message)

    monkeypatch.setattr(nodes, "rank_targets", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run_pipeline(project, "compare")
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    (run,) = everything(client).values()
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "RuntimeError: a bug")
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == []
