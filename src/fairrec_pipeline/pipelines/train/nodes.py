"""Nodes of the training template: tables in, arrays to the training loop, tables out."""

from __future__ import annotations

import itertools
from typing import Any

import ibis
import pandas as pd
import torch

from fairrec_pipeline.config import arm_name
from fairrec_pipeline.evaluation.group_metrics import group_metrics
from fairrec_pipeline.evaluation.ranking import rank_and_loss, user_metrics
from fairrec_pipeline.interactions.columns import TEST, USER, VALIDATION
from fairrec_pipeline.interactions.sequences import evaluation_sequences, training_sequences
from fairrec_pipeline.interactions.statistics import check_fingerprint
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.parameters import AnyObjective, Evaluate, Model, Train
from fairrec_pipeline.training.checkpoint import CheckpointStore, Snapshot, code_fingerprint
from fairrec_pipeline.training.fit import Budget, Fitted, fit, resolve_device
from fairrec_pipeline.training.loss_groups import group_codes, population
from fairrec_pipeline.training.scoring import model_scorer, restore_model


def fit_arm(
    interactions: ibis.Table,
    user_groups: ibis.Table,
    statistics: dict[str, Any],
    checkpoint: CheckpointStore,
    objective: AnyObjective,
    dataset: str,
    model: Model,
    train: Train,
    evaluate: Evaluate,
    seed: int,
    device: str,
) -> tuple[Snapshot, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Train one arm; returns its weights with their configuration, its history, its users' weights and its run card."""
    arm = _ArmTraining(interactions, user_groups, statistics, objective, dataset, model, train, evaluate, seed, device)
    fitted, card = arm.fit(arm.options, checkpoint)
    return arm.weights(fitted), fitted.history, arm.user_weights(fitted), card


def tune_arm(
    interactions: ibis.Table,
    user_groups: ibis.Table,
    statistics: dict[str, Any],
    checkpoint: CheckpointStore,
    objective: AnyObjective,
    dataset: str,
    model: Model,
    train: Train,
    evaluate: Evaluate,
    seed: int,
    device: str,
    grids: dict[str, dict[str, list[Any]]],
) -> tuple[Snapshot, pd.DataFrame, pd.DataFrame, dict[str, Any], list[dict[str, Any]]]:
    """Train every point of the arm's grid and keep the best on validation.

    A point that is complete keeps its result as its checkpoint, so the same command goes on after an interruption and
    trains no point twice.

    Returns:
        Weights, history, users' weights and run card of the winner as `fit_arm` does, and point, card and history of all points.
    """
    arm = _ArmTraining(interactions, user_groups, statistics, objective, dataset, model, train, evaluate, seed, device)
    points = grid_points(grids.get(objective.root.loss, {}))
    runs = [
        arm.fit({**arm.options, **point}, checkpoint.of_point(point_name(point)), point_name(point)) for point in points
    ]
    winner, card = max(runs, key=lambda run: run[0].best_ndcg)
    tuning_runs = [
        {"point": point_name(point), "card": card, "history": fitted.history.to_dict("records")}
        for point, (fitted, card) in zip(points, runs, strict=True)
    ]
    return arm.weights(winner), winner.history, arm.user_weights(winner), card, tuning_runs


def grid_points(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values; one empty point without values."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def point_name(point: dict[str, Any]) -> str:
    """`alpha=0.3`, or `-` separated."""
    return "-".join(f"{option}={value}" for option, value in point.items()) or "only"


class _ArmTraining:
    """The tables and parameters of an arm, made ready once for all its trainings."""

    def __init__(
        self,
        interactions: ibis.Table,
        user_groups: ibis.Table,
        statistics: dict[str, Any],
        objective: AnyObjective,
        dataset: str,
        model: Model,
        train: Train,
        evaluate: Evaluate,
        seed: int,
        device: str,
    ) -> None:
        events, groups_of_users = interactions.to_pandas(), user_groups.to_pandas()
        check_fingerprint(statistics, dataset, events, groups_of_users)
        self.loss, self.loss_groups = objective.root.loss, objective.root.groups
        self.options = objective.root.model_dump(exclude={"loss", "groups"})
        self.dataset, self.fingerprint = dataset, statistics["fingerprint"]
        self.split = statistics["prepared_with"]["split"]
        self.model, self.train, self.evaluate = model, train, evaluate
        self.seed, self.device = seed, resolve_device(device)
        self.sequences = training_sequences(events)
        self.validation = evaluation_sequences(events, self.sequences.catalogue, VALIDATION)
        self.codes, self.names = group_codes(groups_of_users, self.loss_groups, self.sequences.users)

    def fit(
        self, options: dict[str, Any], checkpoint: CheckpointStore, point: str = ""
    ) -> tuple[Fitted, dict[str, Any]]:
        """One training with these options of the loss, and its run card."""
        arm = arm_name(self.loss, self.loss_groups)
        parameters = {
            "dataset": self.dataset,
            "loss": self.loss,
            "loss_groups": self.loss_groups,
            "seed": self.seed,
            self.loss: options,
            "model": self.model.model_dump(),
            "train": self.train.model_dump(exclude={"checkpoint_seconds"}),  # does not change the result
            "evaluate": {"filter_seen": self.evaluate.filter_seen},
            "split": self.split,
        }
        frequencies = population(self.sequences, self.codes, self.names, self.model.dim)
        fitted = fit(
            self.sequences,
            self.validation,
            build_objective(self.loss, frequencies, options),
            groups=self.codes,
            backbone=self.model.model_dump(),
            budget=Budget(**self.train.model_dump()),
            seed=self.seed,
            device=self.device,
            filter_seen=self.evaluate.filter_seen,
            store=checkpoint,
            identity={
                "parameters": parameters,
                "data": self.fingerprint,
                "code": code_fingerprint(),
                "torch": torch.__version__,
                "device": self.device.type,
            },
            description=f"{arm} {point}".strip(),
        )
        on_gpu = self.device.type == "cuda"
        return fitted, {
            "arm": arm,
            "loss": self.loss,
            "loss_groups": self.loss_groups,
            "seed": self.seed,
            "dataset": self.dataset,
            "data_fingerprint": self.fingerprint,
            "parameters": parameters,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else f"cpu x{torch.get_num_threads()}",
            "torch": torch.__version__,
            "started": fitted.started,
            "finished": fitted.finished,
            "seconds": fitted.seconds,
            "epochs": len(fitted.history),
            "best_epoch": fitted.best_epoch,
            "validation_ndcg_at_20": fitted.best_ndcg,
        }

    def user_weights(self, fitted: Fitted) -> pd.DataFrame:
        """Whom the arm trained on: user_id, window, drawn, weight."""
        frame = fitted.user_weights
        frame.insert(0, USER, self.sequences.users[frame.pop("user")])
        return frame

    def weights(self, fitted: Fitted) -> Snapshot:
        """The weights, with all that is needed to rebuild the model."""
        config = {
            "architecture": "SASRec",
            "dataset": self.dataset,
            "data_fingerprint": self.fingerprint,
            "backbone": {"n_items": self.sequences.n_items, **self.model.model_dump()},
            "catalogue": self.sequences.catalogue.tolist(),
        }
        return Snapshot(fitted.weights, config)


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
    trained = restore_model(model, resolve_device(device))
    test = evaluation_sequences(interactions.to_pandas(), trained.catalogue, TEST)
    ranks, losses = rank_and_loss(
        model_scorer(trained.model, test), test, filter_seen=evaluate.filter_seen, device=trained.device
    )
    metrics = user_metrics(test, ranks, losses)
    return metrics, group_metrics(metrics, user_groups.to_pandas())
