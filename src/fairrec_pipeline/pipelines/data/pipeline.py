"""Wiring of the data pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from fairrec_pipeline.pipelines.data.nodes import assign_groups, filter_core, ingest, split_leave_one_out


def create_pipeline() -> Pipeline:
    """Ingest, core filter, groups, leave-one-out split."""
    return Pipeline(
        [
            Node(
                ingest,
                inputs=["raw_folder", "params:source", "params:split"],
                outputs=["events", "user_attributes", "ingested"],
                name="ingest",
            ),
            Node(
                filter_core,
                inputs=["events", "params:split"],
                outputs=["core_interactions", "held_out"],
                name="filter_core",
            ),
            Node(
                assign_groups,
                inputs=["core_interactions", "held_out", "user_attributes", "params:groups"],
                outputs="user_groups",
                name="assign_groups",
            ),
            Node(
                split_leave_one_out,
                inputs=[
                    "core_interactions",
                    "held_out",
                    "user_groups",
                    "ingested",
                    "params:dataset",
                    "params:source",
                    "params:split",
                    "params:groups",
                ],
                outputs=["interactions", "histories", "dataset_statistics"],
                name="split_leave_one_out",
            ),
        ]
    )
