"""What is written to MLflow: a run per arm and seed, from its saved record; small artifacts of a session."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from fairrec_pipeline.arms.record import DIVERGED, ArmRecord, Card, flat
from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.hooks.mlflow_pages import NOTE, describe_run, headline_metrics
from fairrec_pipeline.storage import is_alive

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 1000  # MLflow's limit
_LONGEST_VALUE = 6000  # of a parameter
_DIGEST = 12  # characters of a fingerprint, as in messages; MLflow takes 36
_SOURCE = {"catalog entries": ["interactions", "user_groups"]}
_EPOCH_METRICS = {"validation_ndcg_at_20": "validation/ndcg_at_20", "loss": "train/loss"}
_PROCESS = "fairrec.process"
_PARENT = "mlflow.parentRunId"


@dataclass
class MlflowRuns:
    """The runs of one session.

    A session with one arm is that arm's run. In a session with several, each is a child of the session's run, which is
    made when there is something to write into it.

    Attributes:
        client: of MLflow.
        experiment: id of the experiment.
        name: of the session's run.
        tags: of every run.
        one_arm: the session trains one arm with one seed.
        active: id of a run that is already active around the session; its runs become children of that one.
    """

    client: MlflowClient
    experiment: str
    name: str
    tags: Mapping[str, str]
    one_arm: bool
    active: str | None

    def __post_init__(self) -> None:
        self._session, self._started = self.active, datetime.now().astimezone().isoformat()

    def close_killed(self) -> None:
        """End, as KILLED, the runs of processes of this machine that are no more."""
        host = socket.gethostname()
        running = self.client.search_runs(
            [self.experiment], f"attributes.status = 'RUNNING' AND tags.`{_PROCESS}` != ''"
        )
        for run in running:
            owner, _, process = run.data.tags[_PROCESS].rpartition(":")
            if owner == host and process.isdecimal() and not is_alive(int(process)):
                self.client.set_terminated(run.info.run_id, "KILLED")

    def log_record(self, record: ArmRecord) -> None:
        """Write a saved arm, and the points of its grid below it."""
        parent = None if self.one_arm else self._session_run()
        run = self._log(record.card, record.training_history, record.group_metrics, parent)
        for point in record.tuning_runs or []:
            self._log(point["card"], pd.DataFrame(point["history"]), None, parent or run, point=point["point"])

    def log_text(self, text: str, file: str, tags: Mapping[str, str] | None = None) -> None:
        """Write an artifact of the session, and tags."""
        run = self._session_run()
        self.client.log_text(run, text, file)
        for name, value in (tags or {}).items():
            self.client.set_tag(run, name, value)

    def close(self, error: Exception | None = None) -> None:
        """End the session's run; an error is written into it. For a mistake of the user alone no run is made."""
        if error is not None and not (self._session is None and isinstance(error, FairrecError)):
            self.client.set_tag(self._session_run(), "error", f"{type(error).__name__}: {error}"[:1000])
        if self._session is not None and self._session != self.active:
            self.client.set_terminated(self._session, "FAILED" if error else "FINISHED")

    def _session_run(self) -> str:
        if self._session is None:
            self._session = self._new_run(self.name, self._started, None)
        return self._session

    def _new_run(self, name: str, started: str, parent: str | None) -> str:
        tags = {**self.tags, _PROCESS: f"{socket.gethostname()}:{os.getpid()}"} | ({_PARENT: parent} if parent else {})
        run = self.client.create_run(self.experiment, start_time=_ms(started), tags=tags, run_name=name)
        return str(run.info.run_id)

    def _log(
        self,
        card: Card,
        history: pd.DataFrame | None,
        by_group: pd.DataFrame | None,
        parent: str | None,
        *,
        point: str = "",
    ) -> str:
        """The run of a training, from its start to its end; returns its id."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        from fairrec_pipeline.report.figures.over_training import training_history

        run = self._new_run(f"{card['arm']} seed {card['seed']} {point}".rstrip(), card["started"], parent)
        now = int(time.time() * 1000)
        rows: Sequence[Mapping[Any, Any]] = [] if history is None else history.to_dict("records")
        values = headline_metrics(card, by_group)
        metrics = [Metric(name, value, now, 0) for name, value in values.items()]
        metrics += [
            Metric(metric, float(row[column]), now, int(row["epoch"]))
            for row in rows
            for column, metric in _EPOCH_METRICS.items()
        ]
        params = [Param(name, str(value)[:_LONGEST_VALUE]) for name, value in flat(card["parameters"]).items()]
        named = ("arm", "seed", "data_fingerprint", "device", "torch")
        tags = {name: str(card[name]) for name in named} | {NOTE: describe_run(card, by_group)}
        self.client.log_batch(run, params=params, tags=[RunTag(name, value) for name, value in tags.items()])
        data = Dataset(str(card["dataset"]), card["data_fingerprint"][:_DIGEST], "catalog", json.dumps(_SOURCE))
        self.client.log_inputs(run, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(run, metrics=metrics[start : start + _BATCH])
        self.client.log_text(run, json.dumps(card, indent=2), "config.json")
        if by_group is not None:
            self.client.log_text(run, by_group.to_csv(index=False), "group_metrics.csv")
        if rows and history is not None:  # a training that diverged has none
            figure = training_history(history, card["arm"])
            self.client.log_text(run, figure.to_html(include_plotlyjs=True), "training_history.html")
        self.client.set_terminated(run, "FAILED" if DIVERGED in card else "FINISHED", _ms(card["finished"]))
        return run


def _ms(time: str) -> int:
    """Milliseconds since 1970 of an ISO time."""
    return int(datetime.fromisoformat(time).timestamp() * 1000)
