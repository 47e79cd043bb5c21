"""What of an arm is written to its MLflow run: flat parameters, metrics, tags, small artifacts."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fairrec_pipeline.evaluation.comparison import flat
from fairrec_pipeline.evaluation.figures import training_history
from fairrec_pipeline.evaluation.group_metrics import metric_names

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient


def log_arm(
    client: MlflowClient,
    run_id: str,
    tags: Mapping[str, str],
    card: Mapping[str, Any],
    history: pd.DataFrame,
    group_metrics: pd.DataFrame,
) -> None:
    """Write an arm to its run; the run's name becomes `<arm> seed <n>`."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    params = [Param(name, str(value)) for name, value in flat(card["parameters"]).items()]
    run_tags = [
        *(RunTag(name, value) for name, value in tags.items()),
        *(RunTag(name, str(card[name])) for name in ("arm", "seed", "data_fingerprint", "device", "torch")),
        RunTag("mlflow.runName", f"{card['arm']} seed {card['seed']}"),
    ]
    test = [Metric(name, value, now, 0) for name, value in metric_names(group_metrics).items()]
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
    client.log_text(run_id, group_metrics.to_csv(index=False), "group_metrics.csv")
    figure = training_history(history, card["arm"])
    client.log_text(run_id, figure.to_html(include_plotlyjs="cdn"), "training_history.html")


_EPOCH_METRICS = {"validation_ndcg_at_20": "validation/ndcg_at_20", "loss": "train/loss"}

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
