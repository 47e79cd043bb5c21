"""The commands of the README, word for word, in a shell and a fresh clone (with the tiny world of conf/test)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from fairrec_pipeline.parameters.methods import arm_name
from fairrec_pipeline.pipeline_registry import PAPER_METHODS
from tests.conftest import ROOT, Kedro, copy_project

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def tiny_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDRO_ENV", "test")


class Compared(NamedTuple):
    """A project after `kedro run`, and what that printed."""

    project: Path
    run: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, kedro: Kedro) -> Compared:
    project = copy_project(tmp_path_factory.mktemp("compared"))
    return Compared(project, kedro(project, "run", "--env=test"))


def newest(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[-1]


def test_kedro_run_compares_the_methods_of_the_paper_with_the_baselines(compared: Compared) -> None:
    project, run = compared
    assert run.returncode == 0, run.stderr
    reports = project / "data/08_reporting/synthetic"
    comparison = pd.read_parquet(newest(reports, "comparison.parquet/*/comparison.parquet"))
    arms = {arm_name(loss, "pop33") for loss in PAPER_METHODS}
    assert set(comparison["arm"]) == arms | {"popularity", "recency", "markov", "markov_recency"}
    for name in ("comparison.csv", "relative_change.json", "trade_off.json", "learning_curves.json"):
        assert (reports / name).is_file(), f"{name} is not versioned"
    report = (reports / "report.html").read_text()
    for arm in arms:
        assert arm in run.stdout, "the table is printed at the end"
        assert arm in report
    assert run.stdout.rstrip().endswith("The report: data/08_reporting/synthetic/report.html")

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("fairrec").experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = {r.data.tags["arm"]: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    assert len(parents) == 1
    assert set(children) == arms
    cvar = children["cvar"].data
    assert children["cvar"].info.status == "FINISHED"
    assert cvar.params["loss"] == "cvar"
    assert (cvar.params["cvar.alpha"], cvar.params["model.dim"]) == ("0.3", "16")
    for name in ("overall", "pop33/niche", "seq33/long", "worst_group"):
        assert 0 <= cvar.metrics[f"test/ndcg_at_20/{name}"] <= 1
    assert len(client.get_metric_history(children["cvar"].info.run_id, "validation/ndcg_at_20")) == 2
    statistics = json.loads(newest(project, "data/05_model_input/synthetic/*/*/dataset_statistics.json").read_text())
    assert {r.data.tags["data_fingerprint"] for r in children.values()} == {statistics["fingerprint"]}


RUN_CELLS = """
import json, sys
import plotly.io
from IPython.core.interactiveshell import InteractiveShell
plotly.io.renderers.render_on_display = False  # showing a figure needs what `pip install notebook` brings
shell = InteractiveShell.instance()
shown = []
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        done = shell.run_cell("".join(cell["source"]))
        done.raise_error()
        if done.result is not None:
            shown.append((type(done.result).__name__, len(getattr(done.result, "data", done.result))))
print(json.dumps(shown))
"""


def test_the_notebook_tells_its_story_in_tables_and_plots(compared: Compared) -> None:
    run = subprocess.run(
        [sys.executable, "-c", RUN_CELLS, str(ROOT / "notebooks/one_dataset.ipynb")],
        cwd=compared.project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    shown = json.loads(run.stdout.splitlines()[-1])
    assert [kind for kind, _ in shown] == [
        *("DataFrame", "Figure", "DataFrame", "Figure", "Figure"),
        *("Figure", "DataFrame", "DataFrame", "Figure", "Styler"),
    ]
    assert all(size > 0 for _, size in shown)


def test_processes_train_what_one_process_trains(project: Path, kedro: Kedro) -> None:
    """--runner=ParallelRunner: hooks and records live in several processes, and MLflow is written by one."""
    experiment = "experiments.small.tune=false,experiments.small.seeds=1"
    run = kedro(project, "run", "--pipeline=experiment", "--runner=ParallelRunner", "--params", experiment)
    assert run.returncode == 0, run.stderr
    assert (project / "data/08_reporting/synthetic/report.html").exists()

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("fairrec").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(run.info.run_name for run in runs) == [
        "cvar seed 0", "erm seed 0", "experiment synthetic small", "gdro-pop33 seed 0", "sdro-pop33 seed 0",
    ]  # fmt: skip


def test_one_method_prepares_what_is_missing_and_only_that(project: Path, kedro: Kedro) -> None:
    prepared = project / "data/05_model_input/synthetic/interactions.parquet"

    run = kedro(project, "run", "--pipeline=train", "--params", "loss=cvar")
    assert run.returncode == 0, run.stderr
    assert len(list(prepared.iterdir())) == 1
    metrics = pd.read_parquet(newest(project, "data/07_model_output/synthetic/cvar/seed-0/user_metrics.parquet/*/*"))
    assert list(metrics.columns) == [
        "user_id", "rank", "repeat_target", "loss", "ndcg_at_10", "ndcg_at_20", "recall_at_10", "recall_at_20",
    ]  # fmt: skip

    # again, from a folder of the project, another arm: the data are there, and there is still one tracking database
    overrides = "loss=gdro,loss_groups=seq33,gdro.eta=0.05,seed=3"
    run = kedro(project / "conf", "run", "--pipelines=train", "--params", overrides)
    assert run.returncode == 0, run.stderr
    assert len(list(prepared.iterdir())) == 1
    assert [path.relative_to(project).as_posix() for path in project.rglob("mlflow.db")] == ["mlflow.db"]
    output = project / "data/07_model_output/synthetic/gdro-seq33/seed-3"
    history = pd.read_parquet(newest(output, "training_history.parquet/*/*"))
    assert [name for name in history if name.startswith("group_weight_")] == [
        "group_weight_long", "group_weight_medium", "group_weight_short",
    ]  # fmt: skip
    assert json.loads(newest(output, "run_card.json/*/*").read_text())["parameters"]["gdro"]["eta"] == 0.05

    # other data parameters: prepared again
    run = kedro(project, "run", "--pipeline=train", "--params", "loss=cvar,split.validation_users=20")
    assert run.returncode == 0, run.stderr
    assert len(list(prepared.iterdir())) == 2

    # and now two arms were trained on different data
    run = kedro(project, "run", "--pipeline=compare", "--params", "split.validation_users=20")
    assert run.returncode == 2
    assert "gdro-seq33" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    run = kedro(project, "run", "--pipeline=compare", "--params", "split.validation_users=20,evaluate.other_data=skip")
    assert run.returncode == 0, run.stderr

    run = kedro(project, "run", "--pipeline=recommend", "--params", "loss=cvar,split.validation_users=20")
    assert run.returncode == 0, run.stderr
    recommended = pd.read_parquet(
        newest(project, "data/07_model_output/synthetic/cvar/seed-0/recommendations.parquet/*/*")
    )
    assert list(recommended.columns) == ["user_id", "rank", "item_id", "score"]
    assert (recommended.groupby("user_id")["rank"].agg(list).map(lambda ranks: ranks == list(range(1, 21)))).all()


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("los=cvar", "unknown 'los'; did you mean loss?"),
        ("loss=cvarr", "did you mean cvar?"),
        ("loss=cvar,cvar.alpha=1.5", "cvar.alpha: Input should be less than or equal to 1 (got 1.5)"),
        ("dataset=retailrocket", "events.csv"),
    ],
)
def test_bad_input_fails_before_anything_is_written(
    shared_project: Path, kedro: Kedro, parameters: str, said: str
) -> None:
    run = kedro(shared_project, "run", "--pipeline=train", "--params", parameters)
    assert run.returncode == 2
    assert said in " ".join((run.stdout + run.stderr).split())
    assert "Traceback" not in run.stdout + run.stderr
    assert [path for path in (shared_project / "data").rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_tune_keeps_the_best_point_and_goes_on_after_a_kill(project: Path, kedro: Kedro) -> None:
    """conf/test tries alpha 0.3 and 0.9. The run is killed when the first point is complete; the same command then
    trains the second only and ends as an uninterrupted run does."""
    command = [
        Path(sys.executable).with_name("kedro"), "run", "--pipeline=tune", "--params",
        "loss=cvar,train.epochs=30,train.patience=null,train.checkpoint_seconds=0",
    ]  # fmt: skip
    models = project / "data/06_models/synthetic"
    running = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(models.glob("trials/*.safetensors"))) < 2 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    running.kill()
    running.wait()
    assert len(list(models.glob("trials/*.json"))) == 1  # the first point is complete
    assert not list(models.glob("cvar/seed-0/model.safetensors/*"))
    run = kedro(project, *command[1:])
    assert run.returncode == 0, run.stderr
    output = project / "data/07_model_output/synthetic/cvar/seed-0"
    interrupted = json.loads(newest(output, "tuning_runs.json/*/*").read_text())
    assert [point["card"]["parameters"]["cvar"]["alpha"] for point in interrupted] == [0.3, 0.9]
    scores = [point["card"]["validation_ndcg_at_20"] for point in interrupted]
    card = json.loads(newest(output, "run_card.json/*/*").read_text())
    assert card["validation_ndcg_at_20"] == max(scores)
    assert len(interrupted[0]["history"]) == 30

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("fairrec").experiment_id], "status = 'FINISHED'")
    children = {r.data.params["cvar.alpha"] for r in runs if "mlflow.parentRunId" in r.data.tags}
    assert children == {"0.3", "0.9"}

    run = kedro(project, *command[1:])
    assert run.returncode == 0, run.stderr
    whole = json.loads(newest(output, "tuning_runs.json/*/*").read_text())
    assert [point["card"]["validation_ndcg_at_20"] for point in whole] == scores
