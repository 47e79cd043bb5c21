"""The one training template, and its copies under a namespace for runs of several arms."""

from kedro.pipeline import Node, Pipeline

from fairrec_pipeline.parameters.blocks import GROUP_DEPENDENT_LOSSES
from fairrec_pipeline.pipelines.train.nodes import evaluate_arm, fit_arm, tune_arm

DATA = {"interactions", "user_groups", "dataset_statistics", "trials"}
SHARED_PARAMETERS = {f"params:{name}" for name in ("dataset", "seed", "device", "model", "train", "evaluate")}
TRAINING_INPUTS = {
    "interactions": "interactions",
    "user_groups": "user_groups",
    "statistics": "dataset_statistics",
    "trials": "trials",
    "objective": "params:objective",
    "dataset": "params:dataset",
    "model": "params:model",
    "train": "params:train",
    "evaluate": "params:evaluate",
    "seed": "params:seed",
    "device": "params:device",
}
TRAINED = ["model", "training_history", "user_weights", "run_card"]
EVALUATED = ["user_metrics", "group_metrics"]


def create_pipeline() -> Pipeline:
    """Train and evaluate the arm that `loss` and `loss_groups` name.

    interactions, user_groups, dataset_statistics
        -> fit_arm -> model, training_history, user_weights, run_card
        -> evaluate_arm -> user_metrics, group_metrics
    """
    return Pipeline([Node(fit_arm, inputs=TRAINING_INPUTS, outputs=TRAINED, name="fit_arm", tags="arm"), _evaluation()])


def create_tune_pipeline() -> Pipeline:
    """The same with a grid: the best point on validation becomes the arm.

    interactions, user_groups, dataset_statistics
        -> tune_arm -> model, training_history, user_weights, run_card, user_metrics, group_metrics, tuning_runs
    """
    inputs = {**TRAINING_INPUTS, "grids": "params:grids", "trials_at_once": "params:trials_at_once"}
    outputs = [*TRAINED, *EVALUATED, "tuning_runs"]
    return Pipeline([Node(tune_arm, inputs=inputs, outputs=outputs, name="tune_arm", tags="arm")])


def _evaluation() -> Node:
    return Node(
        evaluate_arm,
        inputs={
            "model": "model",
            "interactions": "interactions",
            "user_groups": "user_groups",
            "statistics": "dataset_statistics",
            "evaluate": "params:evaluate",
            "device": "params:device",
            # logged beside the metrics by the tracking hook, which sees what a node sees
            "training_history": "training_history",
            "run_card": "run_card",
        },
        outputs=EVALUATED,
        name="evaluate_arm",
        tags="arm",
    )


def arm_namespace(loss: str) -> str:
    """Namespace of a loss; `_by_group` tells the catalog that the paths of this arm name the groups."""
    return f"{loss}_by_group" if loss in GROUP_DEPENDENT_LOSSES else loss


def create_arm_pipeline(loss: str) -> Pipeline:
    """The template for one loss, under a namespace of its own: a collapsible block in kedro viz."""
    return Pipeline(
        create_pipeline(),
        namespace=arm_namespace(loss),
        inputs=DATA,
        parameters={"params:objective": f"params:{loss}"} | {name: name for name in SHARED_PARAMETERS},
    )
