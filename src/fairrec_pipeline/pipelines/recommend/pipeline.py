"""recommender, interactions -> recommend -> recommendations."""

from kedro.pipeline import Pipeline

from fairrec_pipeline.pipelines import node
from fairrec_pipeline.pipelines.recommend.nodes import recommend_items


def create_pipeline() -> Pipeline:
    """Recommend with the arm that `recommend.arm` names, or else `loss` and `loss_groups`."""
    inputs = ["recommender", "interactions", "dataset_statistics", "raw_folder", "params:recommend"]
    return Pipeline([node(recommend_items, inputs, "recommendations", name="recommend")])
