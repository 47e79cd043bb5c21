"""Wiring of the data pipeline."""

from kedro.pipeline import Pipeline

from fairrec_pipeline.pipelines import node
from fairrec_pipeline.pipelines.data.nodes import assign_groups, filter_core, ingest, make_arrays, split_leave_one_out


def create_pipeline() -> Pipeline:
    """Ingest, core filter, groups, leave-one-out split, arrays."""
    return Pipeline(
        [
            node(
                ingest,
                ["raw_folder", "engine", "params:source", "params:split"],
                ["events", "user_attributes", "core_users", "core_items", "held_out", "ingested"],
            ),
            node(filter_core, ["events", "core_users", "core_items", "ingested", "params:split"], "core_interactions"),
            node(assign_groups, ["core_interactions", "held_out", "user_attributes", "params:groups"], "user_groups"),
            node(split_leave_one_out, ["core_interactions", "held_out"], "interactions"),
            node(
                make_arrays,
                [
                    *("interactions", "user_groups", "ingested"),
                    *("params:dataset", "params:source", "params:split", "params:groups"),
                ],
                ["histories", "dataset_statistics"],
            ),
        ]
    )
