"""Nodes of the training template: tables in, one training or the search of a grid, tables out."""

from __future__ import annotations

from typing import Any

import ibis
import numpy as np
import pandas as pd

from fairrec_pipeline.interactions.columns import TEST
from fairrec_pipeline.interactions.histories import evaluation_histories
from fairrec_pipeline.parameters.blocks import AnyObjective, Evaluate, Model, Train
from fairrec_pipeline.experiments.train_arm import Training, Trials, arm_data, evaluate_model, train_arm
from fairrec_pipeline.training.checkpoint import Snapshot
from fairrec_pipeline.experiments.run import ArmOfExperiment, run_experiment


def fit_arm(
    interactions: ibis.Table,
    user_groups: ibis.Table,
    statistics: dict[str, Any],
    trials: Trials,
    objective: AnyObjective,
    dataset: str,
    model: Model,
    train: Train,
    evaluate: Evaluate,
    seed: int,
    device: str,
) -> tuple[Snapshot, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Train one arm; returns its weights with their configuration, its history, its users' weights and its run card."""
    data = arm_data(interactions.to_pandas(), user_groups.to_pandas(), statistics, dataset)
    trained = train_arm(Training.of(objective.root, model, train, evaluate, seed, device), data, trials)
    return trained.snapshot, trained.fitted.history, trained.user_weights, trained.card


def tune_arm(
    interactions: ibis.Table,
    user_groups: ibis.Table,
    statistics: dict[str, Any],
    trials: Trials,
    objective: AnyObjective,
    dataset: str,
    model: Model,
    train: Train,
    evaluate: Evaluate,
    seed: int,
    device: str,
    grids: dict[str, dict[str, list[Any]]],
    trials_at_once: int,
) -> tuple[Snapshot, pd.DataFrame, pd.DataFrame, dict[str, Any], pd.DataFrame, pd.DataFrame, list[dict[str, Any]]]:
    """Train every point of the arm's grid, keep the best on validation and evaluate it.

    Returns:
        Weights, history, users' weights, run card, user and group metrics of the best point, and all points.
    """
    data = arm_data(interactions.to_pandas(), user_groups.to_pandas(), statistics, dataset)
    training = Training.of(objective.root, model, train, evaluate, seed, device)
    arm = ArmOfExperiment(training, grids.get(objective.root.loss, {}))
    (result,) = run_experiment(
        [arm], [seed], data, trials, saved={}, at_once=trials_at_once, description=f"tune {training.arm}"
    )
    return (
        result.model,
        result.training_history,
        result.user_weights,
        result.run_card,
        result.user_metrics,
        result.group_metrics,
        result.tuning_runs or [],
    )


def evaluate_arm(
    model: Snapshot,
    interactions: ibis.Table,
    user_groups: ibis.Table,
    statistics: dict[str, Any],
    evaluate: Evaluate,
    device: str,
    training_history: pd.DataFrame,
    run_card: dict[str, Any],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rank every test target; returns one row per user, and the metrics of every group.

    Raises:
        ValueError: the model was trained on other data.
    """
    if run_card["data_fingerprint"] != statistics["fingerprint"]:
        message = f"{run_card['arm']} was trained on other data than the present ones; train it again"
        raise ValueError(message)
    test = evaluation_histories(interactions.to_pandas(), np.asarray(model.description["catalogue"]), TEST)
    return evaluate_model(model, test, user_groups.to_pandas(), filter_seen=evaluate.filter_seen, device=device)
