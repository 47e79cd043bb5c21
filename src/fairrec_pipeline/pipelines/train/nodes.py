"""Nodes of the training template: tables in, arrays to the training loop, tables out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import ibis
import pandas as pd
import torch

from fairrec_pipeline.config import arm_name
from fairrec_pipeline.evaluation.group_metrics import group_metrics
from fairrec_pipeline.evaluation.ranking import rank_and_loss, user_metrics
from fairrec_pipeline.interactions.columns import TEST, VALIDATION
from fairrec_pipeline.interactions.sequences import evaluation_sequences, training_sequences
from fairrec_pipeline.interactions.statistics import check_fingerprint
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.parameters import AnyObjective, Evaluate, Model, Train
from fairrec_pipeline.training.checkpoint import CheckpointStore, Snapshot
from fairrec_pipeline.training.fit import Budget, fit, resolve_device
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
) -> tuple[Snapshot, pd.DataFrame, dict[str, Any]]:
    """Train one arm; returns its weights with their configuration, its history and its run card."""
    events, groups_of_users = interactions.to_pandas(), user_groups.to_pandas()
    check_fingerprint(statistics, dataset, events, groups_of_users)
    options = objective.root.model_dump(exclude={"loss", "groups"})
    loss, loss_groups = objective.root.loss, objective.root.groups
    run_on = resolve_device(device)
    parameters = {
        "dataset": dataset,
        "loss": loss,
        "loss_groups": loss_groups,
        "seed": seed,
        loss: options,
        "model": model.model_dump(),
        "train": train.model_dump(),
        "evaluate": {"filter_seen": evaluate.filter_seen},
    }
    sequences = training_sequences(events)
    validation = evaluation_sequences(events, sequences.catalogue, VALIDATION)
    codes, names = group_codes(groups_of_users, loss_groups, sequences.users)
    started = datetime.now(UTC)
    fitted = fit(
        sequences,
        validation,
        build_objective(loss, population(sequences, codes, names), options),
        groups=codes,
        group_names=names,
        backbone=model.model_dump(),
        budget=Budget(**train.model_dump()),
        seed=seed,
        device=run_on,
        filter_seen=evaluate.filter_seen,
        store=checkpoint,
        identity={"parameters": parameters, "data": statistics["fingerprint"], "device": run_on.type},
        description=arm_name(loss, loss_groups),
    )
    card = {
        "arm": arm_name(loss, loss_groups),
        "loss": loss,
        "loss_groups": loss_groups,
        "seed": seed,
        "dataset": dataset,
        "data_fingerprint": statistics["fingerprint"],
        "parameters": parameters,
        "device": torch.cuda.get_device_name(run_on) if run_on.type == "cuda" else f"cpu x{torch.get_num_threads()}",
        "torch": torch.__version__,
        "started": started.isoformat(),
        "finished": datetime.now(UTC).isoformat(),
        "seconds": fitted.seconds,
        "epochs": len(fitted.history),
        "best_epoch": fitted.best_epoch,
        "validation_ndcg_at_20": fitted.best_ndcg,
    }
    config = {"architecture": "SASRec", "n_items": sequences.n_items, **model.model_dump()}
    weights = Snapshot(fitted.weights, {**config, "catalogue": sequences.catalogue.tolist()})
    return weights, fitted.history, card


def evaluate_arm(
    model: Snapshot,
    interactions: ibis.Table,
    user_groups: ibis.Table,
    checkpoint: CheckpointStore,
    evaluate: Evaluate,
    device: str,
    training_history: pd.DataFrame,
    run_card: dict[str, Any],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rank every test target; returns one row per user, and the metrics of every group."""
    trained = restore_model(model, resolve_device(device))
    test = evaluation_sequences(interactions.to_pandas(), trained.catalogue, TEST)
    ranks, losses = rank_and_loss(
        model_scorer(trained.model, test), test, filter_seen=evaluate.filter_seen, device=trained.device
    )
    metrics = user_metrics(test, ranks, losses)
    checkpoint.clear()  # the weights are saved: what is left to do does not need it
    return metrics, group_metrics(metrics, user_groups.to_pandas())
