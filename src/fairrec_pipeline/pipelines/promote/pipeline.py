"""Wiring of the promote pipeline: what could not be registered is not announced."""

from kedro.pipeline import Node, Pipeline

from fairrec_pipeline.pipelines.promote.nodes import announce_champion, choose_champion


def create_pipeline() -> Pipeline:
    """Choose the champion on validation, register it in MLflow, write champion.json and the model card."""
    return Pipeline(
        [
            Node(
                choose_champion,
                inputs=["arms", "user_groups", "dataset_statistics", "params:evaluate", "params:promote"],
                outputs=["promotion", "registered_champion"],
                name="choose_champion",
            ),
            Node(
                announce_champion,
                inputs=["promotion", "registered_champion"],
                outputs=["champion", "model_card"],
                name="announce_champion",
            ),
        ]
    )
