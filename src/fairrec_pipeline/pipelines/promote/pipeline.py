"""Wiring of the promote pipeline: what could not be registered is not announced."""

from kedro.pipeline import Pipeline

from fairrec_pipeline.pipelines import node
from fairrec_pipeline.pipelines.promote.nodes import announce_champion, choose_champion


def create_pipeline() -> Pipeline:
    """Choose the champion on validation, register it in MLflow, write champion.json and the model card."""
    return Pipeline(
        [
            node(
                choose_champion,
                ["arms", "user_groups", "dataset_statistics", "params:evaluate", "params:promote"],
                ["promotion", "registered_champion"],
            ),
            node(announce_champion, ["promotion", "registered_champion"], ["champion", "model_card"]),
        ]
    )
