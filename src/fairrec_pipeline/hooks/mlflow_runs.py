"""What of an arm is written to its MLflow run: flat parameters, metrics, tags, small artifacts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fairrec_pipeline.experiments.run import ArmResult


def log_arm(
    client: MlflowClient,
    run_id: str,
    tags: Mapping[str, str],
    card: Mapping[str, Any],
    history: pd.DataFrame,
    group_metrics: pd.DataFrame | None,
    point: str = "",
) -> None:
    """Write an arm to its run, or one point of its grid (without test metrics); names the run after them."""
    from mlflow.entities import Metric, Param, RunTag

    # here, for a run without an arm does without plotly, scipy and torch
    from fairrec_pipeline.comparison.comparison import flat
    from fairrec_pipeline.report.figures.over_training import training_history
    from fairrec_pipeline.metrics.by_group import metric_names

    now = int(time.time() * 1000)
    params = [Param(name, str(value)) for name, value in flat(card["parameters"]).items()]
    run_tags = [
        *(RunTag(name, value) for name, value in tags.items()),
        *(RunTag(name, str(card[name])) for name in ("arm", "seed", "data_fingerprint", "device", "torch")),
        RunTag("mlflow.runName", f"{card['arm']} seed {card['seed']} {point}".strip()),
    ]
    tested = {} if group_metrics is None else metric_names(group_metrics)
    test = [Metric(name, value, now, 0) for name, value in tested.items()]
    test += [Metric(name, float(card[name]), now, 0) for name in ("seconds", "best_epoch", "epochs")]
    epochs = [
        Metric(metric, float(row[column]), now, int(row["epoch"]))
        for row in history.to_dict("records")
        for column, metric in _EPOCH_METRICS.items()
    ]
    client.log_batch(run_id, params=params, tags=run_tags)
    for metrics in (test, epochs):
        for start in range(0, len(metrics), 1000):  # MLflow's limit of a batch
            client.log_batch(run_id, metrics=metrics[start : start + 1000])
    client.log_text(run_id, json.dumps(card, indent=2), "config.json")
    if group_metrics is not None:
        client.log_text(run_id, group_metrics.to_csv(index=False), "group_metrics.csv")
    if len(history):  # a training that diverged has none
        figure = training_history(history, card["arm"])
        client.log_text(run_id, figure.to_html(include_plotlyjs=True), "training_history.html")


_EPOCH_METRICS = {"validation_ndcg_at_20": "validation/ndcg_at_20", "loss": "train/loss"}


def log_points(
    client: MlflowClient,
    child_run: Callable[[str, float], str],
    tags: Mapping[str, str],
    tuning_runs: list[dict[str, Any]],
) -> None:
    """Write every point of a grid to a run of its own, below that of the session.

    Args:
        child_run: makes such a run from its name and its start in seconds since 1970; returns its id.
        tuning_runs: point, card and history of every training.
    """
    from fairrec_pipeline.experiments.grid import DIVERGED

    for run in tuning_runs:
        started, finished = (datetime.fromisoformat(run["card"][name]).timestamp() for name in ("started", "finished"))
        run_id = child_run(run["point"], started)
        log_arm(client, run_id, tags, run["card"], pd.DataFrame(run["history"]), None, run["point"])
        client.set_terminated(run_id, "FAILED" if DIVERGED in run["card"] else None, int(finished * 1000))


def log_result(
    client: MlflowClient, child_run: Callable[[str, float], str], tags: Mapping[str, str], result: ArmResult
) -> None:
    """Write an arm and seed of an experiment, and the points of its grid, to runs below that of the session."""
    card = result.run_card
    started, finished = (datetime.fromisoformat(card[name]).timestamp() for name in ("started", "finished"))
    run_id = child_run(card["arm"], started)
    log_arm(client, run_id, tags, card, result.training_history, result.group_metrics)
    client.set_terminated(run_id, end_time=int(finished * 1000))
    log_points(client, child_run, tags, result.tuning_runs or [])


_TEXTS = {"report_html": "report.html", "report_markdown": "report.md", "comparison_csv": "comparison.csv"}


def log_artifacts(client: MlflowClient, run_id: str, outputs: Mapping[str, Any]) -> None:
    """Write the data statistics or the report of a session to its run."""
    for name, value in outputs.items():
        if name == "dataset_statistics":
            client.log_text(run_id, json.dumps(value, indent=2), "dataset_statistics.json")
            client.set_tag(run_id, "data_fingerprint", value["fingerprint"])
        elif name in _TEXTS:
            text = value if isinstance(value, str) else value.to_csv(index=False)
            client.log_text(run_id, text, _TEXTS[name])
