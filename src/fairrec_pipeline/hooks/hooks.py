"""What happens around a run: missing data are prepared, and every arm becomes a run of MLflow."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner

from fairrec_pipeline.parameters.blocks import Groups, Source, Split

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

logger = logging.getLogger(__name__)


class DataPreparation:
    """Prepares the data that a pipeline needs and that are not there, or were made with other parameters."""

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        if "dataset_statistics" not in pipeline.inputs():
            return
        from fairrec_pipeline.interactions.statistics import prepared_with

        # typed here too: Kedro types the parameters of the pipeline that was asked for only
        source = Source.model_validate(catalog.load("params:source"))
        split = Split.model_validate(catalog.load("params:split"))
        groups = Groups.model_validate(catalog.load("params:groups"))
        dataset = catalog.load("params:dataset")
        wanted = prepared_with(dataset, source, split, groups)
        found = catalog.load("dataset_statistics")["prepared_with"] if catalog.exists("dataset_statistics") else None
        if found == wanted:
            return
        if run_params.get("load_versions"):
            message = f"the pinned data of {dataset} were prepared with other parameters than the present ones"
            raise ValueError(message)
        reason = "are not prepared yet" if found is None else "were prepared with other parameters"
        logger.info("The data of %s %s: running the data pipeline first", dataset, reason)
        catalog["params:source"], catalog["params:split"], catalog["params:groups"] = source, split, groups
        SequentialRunner().run(pipelines["data"], catalog)


class TerminalTable:
    """Prints the headline table when a comparison is done."""

    @hook_impl
    def after_node_run(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        if "comparison" in inputs and "report_html" in outputs:
            import click

            from fairrec_pipeline.report.page import comparison_table

            click.echo(comparison_table(inputs["comparison"], inputs["params:evaluate"].significance))


class Tracking:
    """One MLflow run per arm and seed.

    A session with one arm is that arm's run. In a session with several arms, each is a child of the session's run.
    kedro-mlflow reads mlflow.yml and opens and closes the session's run; its own logging of node parameters is not
    used, since it would put the parameters of all arms into one run.
    """

    def __init__(self) -> None:
        self._children: dict[str, str] = {}

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        _ = context.config_loader["parameters"]  # a mistyped parameter fails here, before the slow import
        from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook

        loader: Any = context.config_loader
        loader.config_patterns.setdefault("mlflow", ["mlflow*", "mlflow*/**", "**/mlflow*"])
        settings = loader["mlflow"]
        uri = settings["server"]["mlflow_tracking_uri"]
        if uri and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
            # relative to the project, whatever the current directory
            database = Path(context.project_path) / uri.removeprefix("sqlite:///")
            settings["server"]["mlflow_tracking_uri"] = f"sqlite:///{database}"
        loader["mlflow"] = settings
        self._session = MlflowHook()
        self._session.after_context_created(context)

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        import mlflow

        self._session.before_pipeline_run(run_params, pipeline, catalog)
        self._children = {}
        self._active = mlflow.active_run()
        if self._active is None:  # switched off for this pipeline in mlflow.yml
            return
        self._client = mlflow.MlflowClient()
        # opens the UI on the table of runs, not on what MLflow has for language models
        experiment = self._active.info.experiment_id
        self._client.set_experiment_tag(experiment, "mlflow.experimentKind", "custom_model_development")
        self._tags = _code_version(Path(run_params["project_path"])) | {"dataset": str(catalog.load("params:dataset"))}
        self._client.set_tag(self._active.info.run_id, "dataset", self._tags["dataset"])
        if "experiment_arms" in pipeline.all_outputs():
            self._client.set_tag(self._active.info.run_id, "experiment", catalog.load("params:experiment"))

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        if self._active is not None and "arm" in node.tags and node.namespace and node.namespace not in self._children:
            self._children[node.namespace] = self._child_run(node.namespace, time.time())

    @hook_impl
    def after_node_run(self, node: Node, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        if self._active is None:
            return
        from fairrec_pipeline.hooks.mlflow_runs import log_arm, log_artifacts, log_points

        seen = {name.rpartition(".")[2]: value for name, value in (inputs | outputs).items() if "params:" not in name}
        if {"group_metrics", "run_card"} <= set(seen):
            run_id = self._children.get(node.namespace or "", self._active.info.run_id)
            log_arm(self._client, run_id, self._tags, seen["run_card"], seen["training_history"], seen["group_metrics"])
            if self._children.pop(node.namespace or "", None):
                self._client.set_terminated(run_id)
        if "tuning_runs" in seen:
            log_points(self._client, self._child_run, self._tags, seen["tuning_runs"])
        log_artifacts(self._client, self._active.info.run_id, outputs)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        if self._active is None or dataset_name != "experiment_arms":
            return
        from fairrec_pipeline.hooks.mlflow_runs import log_result

        log_result(self._client, self._child_run, self._tags, data)

    def _child_run(self, name: str, started: float) -> str:
        """Id of a new run below the session's run; `started` in seconds since 1970."""
        assert self._active is not None
        child = self._client.create_run(
            self._active.info.experiment_id,
            start_time=int(started * 1000),
            tags={"mlflow.parentRunId": self._active.info.run_id},
            run_name=name,
        )
        return str(child.info.run_id)

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        self._session.after_pipeline_run(run_params, pipeline, catalog)

    @hook_impl
    def on_pipeline_error(
        self, error: Exception, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        for run_id in self._children.values():
            self._client.set_terminated(run_id, "FAILED")
        self._session.on_pipeline_error(error, run_params, pipeline, catalog)


def _code_version(project: Path) -> dict[str, str]:
    """Commit of the project and whether the tree differs from it; empty outside of a repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=project, capture_output=True, text=True, check=True).stdout

    try:
        return {"git_commit": git("rev-parse", "HEAD").strip(), "git_dirty": str(bool(git("status", "--porcelain")))}
    except (OSError, subprocess.CalledProcessError):
        return {}
