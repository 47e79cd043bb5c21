"""One arm: trained, then evaluated on validation and test."""

from __future__ import annotations

import math
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pandas as pd
import torch

from fairrec_pipeline.arms.code import code_fingerprint, commit, evaluation_fingerprint
from fairrec_pipeline.arms.record import DIVERGED, ArmRecord, Card, SavedModel
from fairrec_pipeline.arms.spec import ArmSpec
from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.experiments.workers import fit_on_workers
from fairrec_pipeline.interactions.columns import USER
from fairrec_pipeline.interactions.prepared import PreparedData
from fairrec_pipeline.interactions.statistics import label_columns
from fairrec_pipeline.metrics.by_group import group_metrics
from fairrec_pipeline.metrics.item_side import ListKeeper, item_metrics
from fairrec_pipeline.metrics.ranking import rank_and_loss, user_metrics
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.objectives.rsr import cluster_table
from fairrec_pipeline.training.checkpoint import Checkpoint
from fairrec_pipeline.training.divergence import DivergenceError
from fairrec_pipeline.training.fit import Fitted, TrainingData, fit, fitting, resolve_device
from fairrec_pipeline.training.loss_groups import group_codes, population
from fairrec_pipeline.training.scoring import ModelScorer, restored
from fairrec_pipeline.training.turns import Work, finished

_ONE_AT_A_TIME = threading.RLock()
"""What draws from torch's random numbers, which belong to the process: trainings, which take turns in one thread, and
every new model."""


def environment(spec: ArmSpec) -> dict[str, str]:
    """What decides a result besides parameters and data: code, torch, kind of device."""
    return {
        "code": code_fingerprint(spec.objective.loss),
        "torch": torch.__version__,
        "device": resolve_device(spec.device).type,
    }


def key_of(spec: ArmSpec, data: PreparedData) -> str:
    """Key of a training in this environment."""
    return spec.key(data, environment(spec))


def train(spec: ArmSpec, data: PreparedData, store: ArmStore) -> tuple[Card, Fitted]:
    """Train, go on with what was interrupted, or open what is complete; returns the card, and the outcome.

    Raises:
        DivergenceError: a loss is not finite.
        OptionError: the device that is asked for does not exist, or has too little memory.
        DataError: the groups that are asked for do not exist.
    """
    return finished(training(spec, data, store))


def training(spec: ArmSpec, data: PreparedData, store: ArmStore) -> Work[tuple[Card, Fitted]]:
    """`train`, which pauses where the device has an epoch of steps to do, if the trainer of the method does.

    Raises:
        DivergenceError: a loss is not finite.
        OptionError: the device that is asked for does not exist, or has too little memory.
        DataError: the groups that are asked for do not exist.
    """
    key = key_of(spec, data)
    codes, names = group_codes(data.user_groups, spec.objective.groups, data.train.users)
    options = spec.objective.options.model_dump()
    objective = build_objective(spec.objective.loss, population(data.train, codes, names, spec.model.dim), options)
    checkpoint = Checkpoint(store.checkpoint(key), spec.identity(data, environment(spec)))
    histories = TrainingData(data.train, data.validation, codes)
    trainer, card = resolve_name(f"fairrec_pipeline.{spec.objective.method.trainer}"), store.training(key)
    if spec.train.workers > 1 and card is None:  # what is complete is opened here
        trainer = fit_on_workers
    with _ONE_AT_A_TIME, _enough_memory(spec):
        fitted: Fitted
        if trainer is fit:
            fitted = yield from fitting(spec, histories, objective, checkpoint, description=spec.label)
        else:
            fitted = trainer(spec, histories, objective, checkpoint, description=spec.label)
    if card is None:
        outcome = {name: getattr(fitted, name) for name in ("started", "finished", "seconds", "best_epoch")}
        outcome |= {"epochs": len(fitted.history), "validation_ndcg_at_20": fitted.best_ndcg}
        card = store.keep(key, _card(spec, data) | outcome | _clusters(fitted, data))
    return card, fitted


@contextmanager
def _enough_memory(spec: ArmSpec) -> Iterator[None]:
    """Raise an OptionError where a GPU has not: what its kernels take is not worked out before (see `memory`)."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        raise OptionError(
            f"{spec.label} does not fit into the memory of the GPU ({reason}). Lower train.batch_size, "
            "train.item_chunk, model.max_length, model.dim or trials_at_once, or end what else runs there. What is "
            "complete is kept"
        ) from error


def train_or_diverge(spec: ArmSpec, data: PreparedData, store: ArmStore) -> Card:
    """Train and return the card; a training that diverges has a card without a result."""
    return finished(training_or_divergence(spec, data, store))


def training_or_divergence(spec: ArmSpec, data: PreparedData, store: ArmStore) -> Work[Card]:
    """`train_or_diverge`, which pauses as `training` does."""
    started = datetime.now(UTC)
    try:
        card, _ = yield from training(spec, data, store)
        return card
    except DivergenceError as error:
        finished = datetime.now(UTC)
        return _card(spec, data) | {
            "started": started.isoformat(),
            "finished": finished.isoformat(),
            "seconds": (finished - started).total_seconds(),
            "epochs": 0,
            "best_epoch": 0,
            "validation_ndcg_at_20": math.nan,
            DIVERGED: str(error),
        }


def record_of(
    spec: ArmSpec, data: PreparedData, store: ArmStore, tuning_runs: list[dict[str, Any]] | None = None
) -> ArmRecord:
    """What the arm leaves behind; it is trained if it is not complete.

    Args:
        tuning_runs: points of the grid that the arm was chosen from (see `ArmRecord`); None if it was not tuned.
    """
    card, fitted = train(spec, data, store)
    model = SavedModel(fitted.weights, _config(spec, data))
    with _enough_memory(spec):
        evaluated = evaluate(model, spec, data)
    users = fitted.user_weights.copy()
    users.insert(0, USER, data.train.users[users.pop("user")])
    return ArmRecord.of(
        # a training with the same values may have been made under another name
        {**card, "arm": spec.name, "backbone": spec.backbone, "evaluation_code": evaluation_fingerprint()},
        model=model,
        training_history=fitted.history,
        user_weights=users,
        **evaluated,
        tuning_runs=tuning_runs,
    )


def evaluate(model: SavedModel, spec: ArmSpec, data: PreparedData) -> dict[str, pd.DataFrame]:
    """Rank every held-out target: user_metrics, validation_user_metrics, group_metrics, item_metrics of a record."""
    device = resolve_device(spec.device)
    with _ONE_AT_A_TIME:
        trained = restored(model.weights, device, **model.config["backbone"])
    options: dict[str, Any] = {"filter_seen": spec.filter_seen, "device": device.type}
    lists = ListKeeper(ModelScorer(trained, data.test), data.test, **options)
    tested = user_metrics(data.test, *rank_and_loss(lists, data.test, **options))
    scorer = ModelScorer(trained, data.validation)
    validated = user_metrics(data.validation, *rank_and_loss(scorer, data.validation, **options))
    return {
        "user_metrics": tested,
        "validation_user_metrics": validated,
        "group_metrics": group_metrics(tested, data.user_groups),
        "item_metrics": item_metrics(lists.lists, data.train, data.test, tested, data.user_groups),
    }


def _card(spec: ArmSpec, data: PreparedData) -> Card:
    """What a card says before there is a result."""
    device = resolve_device(spec.device)
    on_gpu = device.type == "cuda"
    return {
        "arm": spec.name,
        "backbone": spec.backbone,
        "loss": spec.objective.loss,
        "loss_groups": spec.objective.groups,
        "seed": spec.seed,
        "dataset": data.dataset,
        "data_fingerprint": data.fingerprint,
        "groups_fingerprint": data.groups_fingerprint(spec.objective.groups),
        "training": key_of(spec, data),
        "parameters": spec.parameters(data),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"cpu x{torch.get_num_threads()}",
        "workers": spec.train.workers,
        "torch": torch.__version__,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
    }


def _clusters(fitted: Fitted, data: PreparedData) -> Card:
    """For a method that clusters users: the share of every group in each cluster, by split and attribute."""
    if "clusters" not in fitted.objective_state:
        return {}
    tables = {}
    for split in sorted(label_columns(data.user_groups)):
        codes, names = group_codes(data.user_groups, split, data.train.users)
        assert codes is not None  # the split is one of the columns
        tables[split] = cluster_table(fitted.objective_state, codes, names)
    return {"clusters": tables}


def _config(spec: ArmSpec, data: PreparedData) -> dict[str, Any]:
    """All that is needed to rebuild and to serve the model, beside its weights."""
    return {
        "format": 2,
        "architecture": "SASRec",
        "arm": spec.name,
        "seed": spec.seed,
        "dataset": data.dataset,
        "data_fingerprint": data.fingerprint,
        "filter_seen": spec.filter_seen,
        "backbone": {"n_items": data.train.n_items, **spec.model.model_dump()},
        "catalogue": data.train.catalogue.tolist(),
    }
