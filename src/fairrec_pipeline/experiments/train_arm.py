"""One training of an arm: what decides its result, where that is kept, and its run card.

`train`, `tune` and `experiment` all train here. A training is found again by its identity, so that what one of them has
trained is not trained again by another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fairrec_pipeline.metrics import by_group as group_metrics
from fairrec_pipeline.metrics import ranking
from fairrec_pipeline.interactions.columns import POPULARITY_RATIO, TEST, TRAIN_LENGTH, USER, VALIDATION
from fairrec_pipeline.interactions.histories import Histories, evaluation_histories, training_histories
from fairrec_pipeline.interactions.statistics import check_fingerprint
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.objectives.rsr import cluster_table
from fairrec_pipeline.parameters.blocks import Evaluate, Model, Objective, Train, arm_name
from fairrec_pipeline.training.checkpoint import CheckpointStore, Snapshot, code_fingerprint
from fairrec_pipeline.training.distillation.causald import trainer
from fairrec_pipeline.training.fit import Budget, Fitted, resolve_device
from fairrec_pipeline.training.loss_groups import group_codes, population
from fairrec_pipeline.training.scoring import ModelScorer, restore_model

Card = dict[str, Any]
"""JSON-able description of a training: its parameters, data, device, times and validation NDCG@20."""


@dataclass(frozen=True)
class ArmData:
    """A prepared dataset, made ready once for all its trainings; it may be sent to another process.

    Attributes:
        dataset, fingerprint, split: name, content and split parameters of the prepared data.
        train, validation, test: histories and targets.
        user_groups: one row per user.
    """

    dataset: str
    fingerprint: str
    split: dict[str, Any]
    train: Histories
    validation: Histories
    test: Histories
    user_groups: pd.DataFrame


def arm_data(
    interactions: pd.DataFrame, user_groups: pd.DataFrame, statistics: Mapping[str, Any], dataset: str
) -> ArmData:
    """The tables of a dataset as arrays.

    Raises:
        ValueError: the tables are not those that the statistics describe.
    """
    check_fingerprint(dict(statistics), dataset, interactions, user_groups)
    train = training_histories(interactions)
    return ArmData(
        dataset=dataset,
        fingerprint=statistics["fingerprint"],
        split=statistics["prepared_with"]["split"],
        train=train,
        validation=evaluation_histories(interactions, train.catalogue, VALIDATION),
        test=evaluation_histories(interactions, train.catalogue, TEST),
        user_groups=user_groups,
    )


@dataclass(frozen=True)
class Training:
    """What a training is asked to do.

    Attributes:
        loss, loss_groups: the method and its groups (None for a group-agnostic method).
        options: of the loss, such as `alpha`.
        model, train: the blocks of these names.
        filter_seen: as in the evaluation.
        seed: of initialisation, order of users and dropout.
        device: auto, cpu or cuda.
    """

    loss: str
    loss_groups: str | None
    options: dict[str, Any]
    model: dict[str, Any]
    train: dict[str, Any]
    filter_seen: bool
    seed: int
    device: str

    @classmethod
    def of(
        cls, objective: Objective, model: Model, train: Train, evaluate: Evaluate, seed: int, device: str
    ) -> Training:
        """The training that the parameters describe."""
        return cls(
            loss=objective.loss,
            loss_groups=objective.groups,
            options=objective.model_dump(exclude={"loss", "groups"}),
            model=model.model_dump(),
            train=train.model_dump(),
            filter_seen=evaluate.filter_seen,
            seed=seed,
            device=device,
        )

    @property
    def arm(self) -> str:
        return arm_name(self.loss, self.loss_groups)

    def at(self, point: Mapping[str, Any]) -> Training:
        """The same training at a point of a grid: options of the loss, `model.<name>` and `train.<name>`."""
        blocks = {"": dict(self.options), "model": dict(self.model), "train": dict(self.train)}
        for name, value in point.items():
            block, _, field = name.rpartition(".")
            blocks[block][field] = value
        return replace(self, options=blocks[""], model=blocks["model"], train=blocks["train"])

    def with_seed(self, seed: int) -> Training:
        return replace(self, seed=seed)

    def parameters(self, data: ArmData) -> dict[str, Any]:
        """Every parameter that decides the result, by block."""
        return {
            "dataset": data.dataset,
            "loss": self.loss,
            "loss_groups": self.loss_groups,
            "seed": self.seed,
            self.loss: self.options,
            "model": self.model,
            "train": {name: value for name, value in self.train.items() if name != "checkpoint_seconds"},
            "evaluate": {"filter_seen": self.filter_seen},
            "split": data.split,
        }

    def identity(self, data: ArmData) -> dict[str, Any]:
        """Everything that decides the result, as JSON values: parameters, data, code, torch, kind of device."""
        return {
            "parameters": self.parameters(data),
            "data": data.fingerprint,
            "code": code_fingerprint(),
            "torch": torch.__version__,
            "device": resolve_device(self.device).type,
        }

    def name(self, data: ArmData) -> str:
        """`<arm>-seed-<n>-<hash of the identity>`: the same name if and only if the result is the same."""
        digest = hashlib.sha256(json.dumps(self.identity(data), sort_keys=True).encode()).hexdigest()
        return f"{self.arm}-seed-{self.seed}-{digest[:16]}"

    def card(self, data: ArmData) -> Card:
        """What a run card says before there is a result."""
        device = resolve_device(self.device)
        on_gpu = device.type == "cuda"
        return {
            "arm": self.arm,
            "loss": self.loss,
            "loss_groups": self.loss_groups,
            "seed": self.seed,
            "dataset": data.dataset,
            "data_fingerprint": data.fingerprint,
            "training": self.name(data),
            "parameters": self.parameters(data),
            "device": torch.cuda.get_device_name(device) if on_gpu else f"cpu x{torch.get_num_threads()}",
            "torch": torch.__version__,
        }


@dataclass(frozen=True)
class Trials:
    """All trainings of a dataset by their names: a checkpoint each, and the run card of those that are complete."""

    folder: Path

    def checkpoint(self, name: str) -> CheckpointStore:
        return CheckpointStore(self.folder / f"{name}.safetensors")

    def card(self, name: str) -> Card | None:
        """Run card of a complete training; None if it is not there or not complete."""
        path = self._card_path(name)
        if not (path.exists() and self.checkpoint(name).path.exists()):
            return None
        card: Card = json.loads(path.read_text(encoding="utf-8"))
        return card

    def keep(self, name: str, card: Card) -> Card:
        """Write the run card of a training whose checkpoint is complete."""
        path = self._card_path(name)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(card, indent=2), encoding="utf-8")
        partial.replace(path)
        return card

    def _card_path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


@dataclass(frozen=True)
class Trained:
    """A complete training.

    Attributes:
        fitted: what the training loop returned.
        card: see `Card`.
        data, backbone: what it was trained on, and the `model` block.
    """

    fitted: Fitted
    card: Card
    data: ArmData
    backbone: dict[str, Any]

    @property
    def snapshot(self) -> Snapshot:
        """The weights, with all that is needed to rebuild the model."""
        config = {
            "architecture": "SASRec",
            "dataset": self.data.dataset,
            "data_fingerprint": self.data.fingerprint,
            "backbone": {"n_items": self.data.train.n_items, **self.backbone},
            "catalogue": self.data.train.catalogue.tolist(),
        }
        return Snapshot(self.fitted.weights, config)

    @property
    def user_weights(self) -> pd.DataFrame:
        """Whom the arm trained on: user_id, window, drawn, weight."""
        frame = self.fitted.user_weights.copy()
        frame.insert(0, USER, self.data.train.users[frame.pop("user")])
        return frame


def train_arm(training: Training, data: ArmData, trials: Trials, description: str = "") -> Trained:
    """Train, go on with what was interrupted, or find what is complete.

    Raises:
        DivergenceError: a loss is not finite.
        ValueError: the groups or the device that are asked for do not exist.
    """
    name = training.name(data)
    device = resolve_device(training.device)
    codes, names = group_codes(data.user_groups, training.loss_groups, data.train.users)
    frequencies = population(data.train, codes, names, training.model["dim"])
    found = trials.card(name)
    fitted = trainer(training.loss, training.options)(
        data.train,
        data.validation,
        build_objective(training.loss, frequencies, training.options),
        groups=codes,
        backbone=training.model,
        budget=Budget(**training.train),
        seed=training.seed,
        device=device,
        filter_seen=training.filter_seen,
        store=trials.checkpoint(name),
        identity=training.identity(data),
        description=description or training.arm,
    )
    card = found or trials.keep(name, _run_card(training, data, fitted))
    return Trained(fitted, {**card, "evaluation_code": evaluation_fingerprint()}, data, training.model)


def _run_card(training: Training, data: ArmData, fitted: Fitted) -> Card:
    return {
        **training.card(data),
        "started": fitted.started,
        "finished": fitted.finished,
        "seconds": fitted.seconds,
        "epochs": len(fitted.history),
        "best_epoch": fitted.best_epoch,
        "validation_ndcg_at_20": fitted.best_ndcg,
        **_clusters(fitted, data),
    }


def _clusters(fitted: Fitted, data: ArmData) -> Card:
    """For a method that clusters users: the share of every group in each cluster, by split and attribute."""
    if "clusters" not in fitted.objective_state:
        return {}
    tables = {}
    for split in data.user_groups.columns.difference([USER, TRAIN_LENGTH, POPULARITY_RATIO]):
        codes, names = group_codes(data.user_groups, split, data.train.users)
        assert codes is not None  # the split is one of the columns
        tables[split] = cluster_table(fitted.objective_state, codes, names)
    return {"clusters": tables}


def evaluate_model(
    model: Snapshot, test: Histories, user_groups: pd.DataFrame, *, filter_seen: bool, device: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rank every test target; returns one row per user, and the metrics of every group."""
    trained = restore_model(model, resolve_device(device))
    scorer = ModelScorer(trained.model, test)
    ranks, losses = ranking.rank_and_loss(scorer, test, filter_seen=filter_seen, device=trained.device)
    metrics = ranking.user_metrics(test, ranks, losses)
    return metrics, group_metrics.group_metrics(metrics, user_groups)


@cache
def evaluation_fingerprint() -> str:
    """SHA-256 over the code that turns a model into metrics: metrics of other code are made again."""
    files = [Path(str(module.__file__)) for module in (ranking, group_metrics)]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
