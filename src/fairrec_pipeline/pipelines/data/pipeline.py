"""Wiring of the data pipeline."""

from kedro.pipeline import Pipeline

from fairrec_pipeline.pipelines import node
from fairrec_pipeline.pipelines.data.nodes import assign_groups, filter_core, ingest, split_leave_one_out


def create_pipeline() -> Pipeline:
    """Ingest, core filter, groups, leave-one-out split."""
    return Pipeline(
        [
            node(
                ingest,
                ["raw_folder", "params:source", "params:split"],
                ["events", "user_attributes", "ingested"],
            ),
            node(filter_core, ["events", "params:split"], ["core_interactions", "held_out"]),
            node(assign_groups, ["core_interactions", "held_out", "user_attributes", "params:groups"], "user_groups"),
            node(
                split_leave_one_out,
                [
                    *("core_interactions", "held_out", "user_groups", "ingested"),
                    *("params:dataset", "params:source", "params:split", "params:groups"),
                ],
                ["interactions", "histories", "dataset_statistics"],
            ),
        ]
    )
