"""Wiring of the experiment pipeline."""

from kedro.pipeline import Node, Pipeline

from fairrec_pipeline.pipelines import compare
from fairrec_pipeline.pipelines.experiment.nodes import train_experiment


def create_pipeline() -> Pipeline:
    """Train what an experiment names and is not there yet; then compare every arm of the dataset.

    interactions, user_groups, dataset_statistics, trials, saved_arms
        -> train_experiment -> experiment_arms (the files of the train pipeline, by arm and seed)
        -> compare
    """
    train = Node(
        train_experiment,
        inputs={
            "interactions": "interactions",
            "user_groups": "user_groups",
            "statistics": "dataset_statistics",
            "trials": "trials",
            "saved_arms": "saved_arms",
            "plan": "params:plan",
            "dataset": "params:dataset",
            "model": "params:model",
            "train": "params:train",
            "evaluate": "params:evaluate",
            "device": "params:device",
            "trials_at_once": "params:trials_at_once",
        },
        outputs="experiment_arms",
        name="train_experiment",
    )
    return Pipeline([train]) + compare.create_pipeline(after=["experiment_arms"])
