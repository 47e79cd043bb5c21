"""What cannot be trained is refused before anything else happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog

from fairrec_pipeline.arms.spec import Plan

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline


class PlanCheck:
    """Refuses a run whose plan has problems; the plans of other pipelines may have some."""

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        for plan in plans_of(pipeline, catalog):
            plan.require_runnable()


def plans_of(pipeline: Pipeline, catalog: DataCatalog) -> list[Plan]:
    """The plans that the nodes of a pipeline are given, typed by Kedro or not."""
    names = [name for name in sorted(pipeline.inputs()) if name.startswith("params:plans.")]
    return [Plan.model_validate(catalog.load(name)) for name in names]
