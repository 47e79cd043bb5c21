"""What the GPU job trains on: a prepared dataset with the published configuration, also as one file of plain arrays."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.workloads import GROUP_SPLITS, PUBLISHED, TOY, TRAIN, first_users, generated_like, prepare
from fairrec_pipeline.interactions.columns import USER
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.objectives import make_objective
from fairrec_pipeline.objectives.base import Objective
from fairrec_pipeline.training.fit import TrainingData
from fairrec_pipeline.training.loss_groups import group_codes, population

LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "erm": ("erm:Erm", {}),
    "cb": ("class_balanced:class_balanced", {"log": False}),
    "cb_log": ("class_balanced:class_balanced", {"log": True}),
    "ipw": ("inverse_propensity:InversePropensity", {"count": "interactions", "log": False}),
    "ipw_log": ("inverse_propensity:InversePropensity", {"count": "interactions", "log": True}),
    "gdro": ("group_dro:GroupDro", {"eta": 0.01, "absent_groups": "decay"}),
    "sdro": ("group_dro:GroupDro", {"eta": 0.01, "beta": 0.1, "absent_groups": "decay"}),
    "cvar": ("cvar:CVaR", {"alpha": 0.3}),
    "erm_positions": ("erm:ErmPositions", {}),
}
"""Objective and options of the paper's methods, and of one to beat; the table of methods would need pydantic."""
BY_GROUP = ("ipw", "ipw_log", "gdro", "sdro")
USERS_OF_MOVIELENS_1M = 6_040
_HISTORIES = ("train", "validation", "test")


@dataclass(frozen=True)
class Arm:
    """What is trained: a loss, on our model (`padding` None) or on the padded one, with a seed, somewhere."""

    loss: str
    loss_groups: str
    padding: str | None
    seed: int
    device: torch.device

    @property
    def name(self) -> str:
        groups = [self.loss_groups] if self.loss in BY_GROUP else []
        return "-".join([self.loss, *groups, *([self.padding] if self.padding else [])])


@dataclass(frozen=True)
class Job:
    """A dataset, prepared, and the published configuration for it.

    Attributes:
        user_groups: user_id and the columns of `GROUP_SPLITS`.
        backbone: the `model` block.
        budget: the `train` block.
    """

    dataset: str
    train: Histories
    validation: Histories
    test: Histories
    user_groups: pd.DataFrame
    backbone: dict[str, Any]
    budget: dict[str, Any]
    filter_seen: bool

    def spec(self, arm: Arm) -> Any:
        """What `fit` reads of an `ArmSpec`, without pydantic."""
        options = SimpleNamespace(**LOSSES[arm.loss][1])
        return SimpleNamespace(
            objective=SimpleNamespace(loss=arm.loss, options=options),
            model=SimpleNamespace(**self.backbone),
            train=SimpleNamespace(**TRAIN | self.budget),  # a file of an earlier version lacks later options
            seed=arm.seed,
            device=arm.device.type,
            filter_seen=self.filter_seen,
        )

    def data(self, arm: Arm) -> TrainingData:
        """The histories, and the group of each training user if the loss wants to know."""
        return TrainingData(self.train, self.validation, self._groups(arm)[0])

    def objective(self, arm: Arm) -> Objective:
        path, options = LOSSES[arm.loss]
        return make_objective(path, population(self.train, *self._groups(arm), self.backbone["dim"]), options)

    def _groups(self, arm: Arm) -> tuple[np.ndarray | None, list[str]]:
        by = arm.loss_groups if arm.loss in BY_GROUP else None
        return group_codes(self.user_groups, by, self.train.users)


def published_job(dataset: str, raw: Path | None, *, generated: bool = False) -> Job:
    """A dataset of the paper with the published backbone and budget (conf/paper).

    Args:
        dataset: its name.
        raw: folder of its raw files.
        generated: random histories of the dataset's size and lengths instead: they say how long, not how well.

    Raises:
        DataError: the raw files are not there (says where they belong), or are those of another dataset.
    """
    folder = raw or Path("data/01_raw") / dataset
    validation_users: int | float
    if dataset == "retailrocket":
        budget = TRAIN | {"epochs": 1000, "batch_size": 128}
        backbone, validation_users, filter_seen = PUBLISHED, 10_000, False
    else:
        budget = TRAIN | {"epochs": 700, "batch_size": 256}
        backbone, validation_users, filter_seen = PUBLISHED | {"dropout": 0.5}, 1.0, True
    if generated:
        histories = _generated(dataset, validation_users)
        return Job(f"{dataset}-generated", *histories, backbone, budget, filter_seen)
    n_users = USERS_OF_MOVIELENS_1M if dataset == "movielens-1m" else None
    histories = prepare({"adapter": dataset}, folder, validation_users, n_users)
    return Job(dataset, *histories, backbone, budget, filter_seen)


def toy_job() -> Job:
    """A small generated world, a small model, four epochs."""
    budget = TRAIN | {"epochs": 4, "steps_per_epoch": 4, "batch_size": 16, "learning_rate": 5e-3}
    world = {"adapter": "synthetic", "n_users": 200, "n_items": 60, "seed": 0}
    return Job("synthetic", *prepare(world, Path(), 0.5), TOY, budget, filter_seen=False)


def _generated(dataset: str, validation_users: int | float) -> tuple[Histories, Histories, Histories, pd.DataFrame]:
    train, test = generated_like(dataset)
    validation = test if validation_users == 1 else first_users(test, int(validation_users))
    popularity = np.add.reduceat(train.item_counts[train.items], train.offsets[:-1]) / train.lengths
    labels = {"pop33": ("niche", "diverse", "popular"), "seq33": ("short", "medium", "long")}
    ranks = {"pop33": np.argsort(np.argsort(popularity)), "seq33": np.argsort(np.argsort(train.lengths))}
    groups = {name: np.array(labels[name])[3 * ranks[name] // train.n_users] for name in GROUP_SPLITS}
    return train, validation, test, pd.DataFrame({USER: train.users, **groups})


def write_job(job: Job, path: Path) -> None:
    """Write all that a job needs as plain arrays (.npz)."""
    arrays = {
        f"{name}/{part}": value for name in _HISTORIES for part, value in vars(getattr(job, name)).items()
        if value is not None
    } | {f"user_groups/{column}": values.to_numpy() for column, values in job.user_groups.items()}  # fmt: skip
    # texts have a type of their own in a table, and a Python object each would need pickle
    arrays = {name: array.astype(str) if array.dtype.kind in "OT" else array for name, array in arrays.items()}
    rest = {name: getattr(job, name) for name in ("dataset", "backbone", "budget", "filter_seen")}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # a path would get another ending
        np.savez_compressed(file, rest=np.array(json.dumps(rest)), **arrays)


def read_job(path: Path) -> Job:
    """Read what `write_job` wrote."""
    with np.load(path, allow_pickle=False) as file:
        rest = json.loads(str(file["rest"]))
        parts: dict[str, dict[str, np.ndarray]] = {name: {} for name in (*_HISTORIES, "user_groups")}
        for name in file.files:
            if "/" in name:
                whole, part = name.split("/")
                parts[whole][part] = file[name]
    histories = {name: Histories(**parts[name]) for name in _HISTORIES}
    return Job(**histories, user_groups=pd.DataFrame(parts["user_groups"]), **rest)
