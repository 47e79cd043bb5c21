"""When something is written to MLflow: after it is saved, and never in the way of a result."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog

from fairrec_pipeline.arms.code import commit
from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.hooks.check_plan import plans_of
from fairrec_pipeline.hooks.mlflow_database import prepared_database

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.pipeline import Pipeline

    from fairrec_pipeline.hooks.mlflow_runs import MlflowRuns

logger = logging.getLogger(__name__)

_ARTIFACTS = {
    "dataset_statistics": "dataset_statistics.json",
    "report_html": "report.html",
    "report_markdown": "report.md",
    "comparison_csv": "comparison.csv",
}
_SQLITE = "sqlite:///"
# MLflow's client would wait minutes for a server that is away
_IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


class Tracking:
    """Writes every saved record, and the report of a session, to MLflow.

    kedro-mlflow reads mlflow.yml and finds the experiment. Its own logging of node parameters is not used: it would put
    the parameters of all arms into one run. A tracking server that is away costs a warning.
    """

    def __init__(self) -> None:
        self._config: Any = None
        self._runs: MlflowRuns | None = None
        self._process = os.getpid()
        self._logged: set[tuple[str, int | None] | str] = set()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._config = None
        _ = context.config_loader["parameters"]  # a mistyped parameter fails here, before the slow import
        for name, value in _IMPATIENT.items():
            os.environ.setdefault(name, value)
        loader: Any = context.config_loader
        loader.config_patterns.setdefault("mlflow", ["mlflow*", "mlflow*/**", "**/mlflow*"])
        settings = loader["mlflow"]
        project, server = Path(context.project_path), settings["server"]
        uri = _uri_of_the_user() or server.get("mlflow_tracking_uri") or f"{_SQLITE}mlflow.db"
        experiment = settings["tracking"]["experiment"]
        preparing: Any = nullcontext()
        if uri.startswith(_SQLITE):
            database = project / uri.removeprefix(_SQLITE)  # relative to the project, whatever the current directory
            uri = f"{_SQLITE}{database}"
            location = (experiment.get("create_experiment_kwargs") or {}).get("artifact_location") or "mlartifacts"
            artifacts = project / location
            experiment["create_experiment_kwargs"] = {"artifact_location": artifacts.as_uri()}
            preparing = prepared_database(database, experiment["name"], artifacts)
        else:  # a server knows where its artifacts are
            experiment.pop("create_experiment_kwargs", None)
        server["mlflow_tracking_uri"] = uri
        loader["mlflow"] = settings
        _set_here.add(uri)
        try:
            with preparing:
                from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook

                MlflowHook().after_context_created(context)
            self._config = context.mlflow  # type: ignore[attr-defined]
        except FairrecError:
            raise
        except Exception as error:
            if uri.startswith(_SQLITE):
                raise
            self._give_up(error)

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        self._runs, self._process, self._logged = None, os.getpid(), set()
        names = run_params.get("pipeline_names") or ["__default__"]
        if self._config is None or set(names) & set(self._config.tracking.disable_tracking.pipelines):
            return
        self._try(lambda: self._open(run_params, pipeline, catalog, names))

    def _open(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog, names: list[str]) -> None:
        import mlflow

        from fairrec_pipeline.hooks.mlflow_pages import describe_experiment
        from fairrec_pipeline.hooks.mlflow_runs import MlflowRuns

        client, dataset = mlflow.MlflowClient(), str(catalog.load("params:dataset"))
        experiment = self._config.tracking.experiment._experiment.experiment_id
        describe_experiment(client, experiment)
        plans = plans_of(pipeline, catalog)
        active = mlflow.active_run()
        trains_experiment = "params:plans.experiment" in pipeline.inputs()
        tags = _code_version() | {"dataset": dataset}
        self._runs = MlflowRuns(
            client,
            experiment,
            name=" ".join([*names, dataset, *(plan.name.rpartition(" ")[2] for plan in plans if trains_experiment)]),
            tags=tags | ({"experiment": str(catalog.load("params:experiment"))} if trains_experiment else {}),
            one_arm=active is None and sum(len(plan.arms) * len(plan.seeds) for plan in plans) == 1,
            active=active.info.run_id if active else None,
        )
        self._runs.close_killed()

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        self._log_records_of_others(pipeline, catalog)
        self._try(lambda: self._log_artifacts_of_others(pipeline, catalog))
        self._try(lambda: self._runs.close() if self._runs else None)

    @hook_impl
    def on_pipeline_error(self, error: Exception, pipeline: Pipeline, catalog: DataCatalog) -> None:
        self._log_records_of_others(pipeline, catalog)  # a report that lies there may be that of an earlier session
        self._try(lambda: self._runs.close(error) if self._runs else None)

    def _log_records_of_others(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """With --runner=ParallelRunner datasets are saved in other processes, whose hooks know no session."""
        if self._runs is None or not any(name.startswith("trained_") for name in pipeline.all_outputs()):
            return
        store = catalog.load("arms")
        for record in self._try(store.records) or []:
            if record.card.get("version") == store.version:
                self.after_dataset_saved("trained_arms", record)

    def _log_artifacts_of_others(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        for name in (_ARTIFACTS.keys() & pipeline.all_outputs()) - self._logged:
            if self._runs is not None and catalog.exists(name):
                self.after_dataset_saved(name, catalog.load(name))

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        runs = self._runs
        if runs is None or self._process != os.getpid():  # a forked worker of ParallelRunner leaves it to its parent
            return
        if isinstance(data, ArmRecord):
            if (data.arm, data.seed) not in self._logged:
                self._logged.add((data.arm, data.seed))
                self._try(lambda: runs.log_record(data))
        elif dataset_name in _ARTIFACTS:
            self._logged.add(dataset_name)
            self._try(lambda: runs.log_text(*_as_text(dataset_name, data)))

    def _try(self, call: Callable[[], Any]) -> Any:
        """Whatever goes wrong in tracking is said once; the run goes on without."""
        try:
            return call()
        except Exception as error:
            self._give_up(error)
            return None

    def _give_up(self, error: Exception) -> None:
        self._runs = None
        logger.warning(
            "Nothing more of this run is written to MLflow: %s: %s. Results are saved all the same",
            *(type(error).__name__, str(error).strip().partition("\n")[0][:300]),
        )


_set_here: set[str] = set()


def _uri_of_the_user() -> str | None:
    """MLFLOW_TRACKING_URI, unless MLflow has set it in an earlier session of this process."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return None if uri in _set_here else uri


def _as_text(name: str, data: Any) -> tuple[str, str, dict[str, str]]:
    """Text, file and tags of an artifact."""
    if name == "dataset_statistics":
        return json.dumps(data, indent=2), _ARTIFACTS[name], {"data_fingerprint": data["fingerprint"]}
    return data if isinstance(data, str) else data.to_csv(index=False), _ARTIFACTS[name], {}


def _code_version() -> dict[str, str]:
    """Commit of the project and whether the tree differs from it; empty outside of a repository."""
    version = commit()
    clean = version.removesuffix("-dirty")
    tags = {"git_commit": clean, "git_dirty": str(version != clean), "mlflow.source.git.commit": clean}
    return tags if version else {}
