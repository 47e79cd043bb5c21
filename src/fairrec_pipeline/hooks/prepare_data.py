"""Data that a pipeline needs and that are not there, or were made from something else, are prepared first."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner

from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.parameters.blocks import Groups, Split
from fairrec_pipeline.parameters.datasets import Source

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline

logger = logging.getLogger(__name__)


class DataPreparation:
    """Runs the data pipeline before a pipeline that reads prepared data, where that is needed."""

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        if "dataset_statistics" not in pipeline.inputs():
            return
        from fairrec_pipeline.interactions.preparation import prepared_with, why_prepare

        # typed here too: Kedro types the parameters of the pipeline that was asked for only
        source = Source.model_validate(catalog.load("params:source"))
        split = Split.model_validate(catalog.load("params:split"))
        groups = Groups.model_validate(catalog.load("params:groups"))
        dataset = catalog.load("params:dataset")
        statistics = catalog.load("dataset_statistics") if catalog.exists("dataset_statistics") else None
        described = None if statistics is None else statistics.get("prepared_with", {})
        wanted = prepared_with(dataset, source, split, groups)
        reason = why_prepare(described, wanted, catalog.load("raw_folder"))
        if reason is None:
            return
        if run_params.get("load_versions"):
            message = (
                f"the pinned data of {dataset} {reason}. Leave out --load-versions to prepare them anew, or give the "
                "parameters that they were prepared with"
            )
            raise FairrecError(message)
        logger.info("The data of %s %s: running the data pipeline first", dataset, reason)
        catalog["params:source"], catalog["params:split"], catalog["params:groups"] = source, split, groups
        SequentialRunner().run(pipelines["data"], catalog)
