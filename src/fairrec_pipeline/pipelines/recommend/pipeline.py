"""interactions, model -> recommend -> recommendations."""

from kedro.pipeline import Node, Pipeline

from fairrec_pipeline.pipelines.recommend.nodes import recommend


def create_pipeline() -> Pipeline:
    """Recommend with the newest model of the arm that `loss` and `loss_groups` name."""
    return Pipeline(
        [
            Node(
                recommend,
                inputs=["model", "interactions", "dataset_statistics", "params:evaluate", "params:device"],
                outputs="recommendations",
                name="recommend",
            )
        ]
    )
