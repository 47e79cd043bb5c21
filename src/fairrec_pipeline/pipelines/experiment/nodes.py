"""Node of the experiment pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ibis

from fairrec_pipeline.parameters.blocks import Evaluate, Model, Plan, Train
from fairrec_pipeline.experiments.train_arm import Training, Trials, arm_data
from fairrec_pipeline.experiments.run import ArmOfExperiment, ArmResult, SavedArm, run_experiment


def train_experiment(
    interactions: ibis.Table,
    user_groups: ibis.Table,
    statistics: dict[str, Any],
    trials: Trials,
    saved_arms: dict[tuple[str, int], SavedArm],
    plan: Plan,
    dataset: str,
    model: Model,
    train: Train,
    evaluate: Evaluate,
    device: str,
    trials_at_once: int,
) -> Iterator[ArmResult]:
    """Train and evaluate the arms and seeds of the plan that are missing; yields each when it is complete."""
    data = arm_data(interactions.to_pandas(), user_groups.to_pandas(), statistics, dataset)
    arms = [
        ArmOfExperiment(Training.of(arm.objective.root, model, train, evaluate, plan.seeds[0], device), arm.grid)
        for arm in plan.arms
    ]
    yield from run_experiment(
        arms, plan.seeds, data, trials, saved_arms, at_once=trials_at_once, description=f"experiment {plan.name}"
    )
