"""Wiring of the table1 pipeline."""

from kedro.pipeline import Node, Pipeline

from fairrec_pipeline.pipelines.table1.nodes import make_table1


def create_pipeline() -> Pipeline:
    """dataset_statistics -> make_table1 -> table1_csv, table1_markdown"""
    return Pipeline(
        [
            Node(
                make_table1,
                inputs=["dataset_statistics", "params:dataset"],
                outputs=["table1_csv", "table1_markdown"],
                name="make_table1",
            )
        ]
    )
