"""Wiring of every pipeline that trains: one node, one way; what differs is the plan."""

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from fairrec_pipeline.pipelines import node
from fairrec_pipeline.pipelines.train.nodes import check_arms, train_arms


def create_pipeline(plan: str = "train") -> Pipeline:
    """Train the arms of a plan that are missing.

    histories, user_groups, dataset_statistics, arms, params:plans.<plan> -> train_arms -> trained_arms

    Args:
        plan: `train` (the arm of `loss` and `loss_groups`) or `tune` (the same with its grid).
    """
    return Pipeline([_train(plan, "trained_arms", name="train_arms")])


def create_checked_pipeline(plan: str, methods: Sequence[str] = ()) -> Pipeline:
    """The same for a run that compares in the end: what could not be compared stops it before anything is trained.

    arms, dataset_statistics, params:plans.<plan> -> check_arms -> checked_arms -> train_arms -> trained_arms

    Args:
        plan: `experiment`, or `default`.
        methods: give each of these a node of its own, with its part of the plan; none: one node for the whole plan.
    """
    inputs = ["arms", "dataset_statistics", f"params:plans.{plan}", "params:evaluate"]
    check = node(check_arms, inputs, "checked_arms")
    if not methods:
        return Pipeline([check, _train(plan, "trained_arms", name="train_arms", arms="checked_arms")])
    nodes = [
        _train(f"methods.{method}", f"trained_{method}", name=f"train_{method}", arms="checked_arms")
        for method in methods
    ]
    return Pipeline([check, *nodes])


def _train(plan: str, output: str, *, name: str, arms: str = "arms") -> Node:
    data = ["histories", "user_groups", "dataset_statistics"]
    inputs = [*data, arms, f"params:plans.{plan}", "params:dataset", "params:execution"]
    return node(train_arms, inputs, output, name=name, tags="training")
