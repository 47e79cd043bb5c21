"""recommender, interactions -> recommend -> recommendations."""

from kedro.pipeline import Node, Pipeline

from fairrec_pipeline.pipelines.recommend.nodes import recommend_items


def create_pipeline() -> Pipeline:
    """Recommend with the arm that `recommend.arm` names, or else `loss` and `loss_groups`."""
    return Pipeline(
        [
            Node(
                recommend_items,
                inputs=["recommender", "interactions", "dataset_statistics", "raw_folder", "params:recommend"],
                outputs="recommendations",
                name="recommend",
            )
        ]
    )
