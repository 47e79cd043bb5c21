"""What is measured on: histories with the lengths of the two datasets of the paper, and its backbone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import TEST, USER, VALIDATION
from fairrec_pipeline.interactions.histories import Histories, evaluation_histories, training_histories

PUBLISHED = {
    "dim": 256,
    "feed_forward": 256,
    "blocks": 3,
    "heads": 1,
    "dropout": 0.2,
    "max_length": 200,
    "init_std": 1.0,
}
TOY = {"dim": 16, "feed_forward": 16, "blocks": 1, "heads": 1, "dropout": 0.2, "max_length": 20, "init_std": 0.02}
TRAIN: dict[str, Any] = {
    "steps_per_epoch": 128, "learning_rate": 1e-3, "weight_decay": 0.0, "warm_up_steps": 0, "schedule": "constant",
    "warm_start_steps": 0, "patience": None, "precision": "auto", "cuda_graphs": True, "compile": False,
    "item_chunk": None, "checkpoint_seconds": 0.0, "workers": 1,
}  # fmt: skip
"""What the budgets of the benchmarks share; a checkpoint after every epoch."""
GROUP_SPLITS = {name: (1 / 3, 1 / 3, 1 / 3) for name in ("pop33", "seq33")}
RETAILROCKET_FOLDERS = (Path("data/01_raw/retailrocket"), Path("../shared/data/retailrocket"))

_SIZES = {"retailrocket": (22_178, 17_803), "movielens-1m": (6_040, 3_416)}
"""Users and items."""
# Quantiles of the number of training interactions of a user, where a dataset itself is not at hand.
_SHARES = {
    "retailrocket": (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1),
    "movielens-1m": (0, 0.25, 0.5, 0.75, 0.9, 0.99, 1),
}
_LENGTHS = {
    "retailrocket": (3, 3, 4, 5, 8, 13, 23, 35, 108, 926, 5055),
    "movielens-1m": (18, 42, 94, 206, 398, 900, 2312),
}


@dataclass(frozen=True)
class Workload:
    """One dataset and the published configuration for it.

    Attributes:
        source: where the histories come from, for the record.
        validation: histories with held-out items.
        groups: (n_users,) three groups of the users of `train`, by length.
    """

    name: str
    source: str
    train: Histories
    validation: Histories
    groups: np.ndarray
    backbone: dict[str, Any]
    batch_size: int
    filter_seen: bool


def workload(name: str) -> Workload:
    """A workload by name: retailrocket (real if its log is there), movielens-1m (generated) or toy.

    Paths are relative to the root of the repository, from where the benchmarks are run.
    """
    match name:
        case "retailrocket":
            folder = next((path for path in RETAILROCKET_FOLDERS if any(path.glob("events.csv*"))), None)
            if folder:
                train, validation = real_retailrocket(folder)[:2]
                source = "real"
            else:
                train, validation = generated_like(name)
                source = "generated with the quantiles of the lengths"
            return _workload(name, source, train, validation, PUBLISHED, 128, filter_seen=False)
        case "movielens-1m":
            train, validation = generated_like(name)
            source = "generated with the quantiles of the lengths"
            return _workload(name, source, train, validation, PUBLISHED | {"dropout": 0.5}, 256, filter_seen=True)
        case "toy":
            train, validation = generated(60, 50, *_quantiles("retailrocket"))
            return _workload(name, "generated", train, validation, TOY, 8, filter_seen=False)
    message = f"unknown workload {name!r}"
    raise ValueError(message)


def with_catalogue(base: Workload, n_items: int) -> Workload:
    """The same lengths over a catalogue of another size, items drawn anew."""
    items = np.random.default_rng(n_items).integers(0, n_items, size=len(base.train.items))
    train = replace(base.train, catalogue=np.arange(n_items), items=items)
    return replace(base, name=f"{base.name} lengths, {n_items:,} items", train=train)


@cache
def real_retailrocket(folder: Path) -> tuple[Histories, Histories, Histories]:
    """Training, validation and test histories of the published split (METHODS: data protocol)."""
    train, validation, test, _ = prepare({"adapter": "retailrocket"}, folder, 10_000)
    return train, validation, test


def prepare(
    source: dict[str, Any], folder: Path, validation_users: int | float, n_users: int | None = None
) -> tuple[Histories, Histories, Histories, pd.DataFrame]:
    """Training, validation and test histories by the published protocol, and user_id with `GROUP_SPLITS`.

    Args:
        source: the dataset's block of parameters.
        folder: of its raw files.
        validation_users: count (int) or share (float) of the users.
        n_users: that the log of this name has; None for any.

    Raises:
        DataError: the raw files are not there (says where they belong), cannot be used, or have other users.
    """
    # what these need is wanted here only, not where a prepared job is trained
    import ibis

    from fairrec_pipeline.interactions.core_filter import core_filter
    from fairrec_pipeline.interactions.groups import assign_groups
    from fairrec_pipeline.interactions.leave_one_out import hold_out, split_roles, training_interactions
    from fairrec_pipeline.interactions.sources import read_source
    from fairrec_pipeline.parameters.datasets import Source

    raw = read_source(folder, Source.model_validate(source))
    users = None if n_users is None else int(raw.events[USER].nunique().execute())
    if users != n_users:
        message = (
            f"the log in {folder} has {users:,} users, but {source['adapter']} has {n_users:,}; put the real one "
            "there, or time generated histories of its lengths with --generated"
        )
        raise DataError(message)
    interactions = core_filter(raw.events, 5)
    held_out = ibis.memtable(hold_out(interactions, validation_users, 42))
    training = training_interactions(interactions, held_out)
    groups = assign_groups(training, raw.user_attributes, 0.8, GROUP_SPLITS).to_pandas()
    rows = split_roles(interactions, held_out).to_pandas()
    train = training_histories(rows)
    validation, test = (evaluation_histories(rows, train.catalogue, role) for role in (VALIDATION, TEST))
    return train, validation, test, groups[[USER, *GROUP_SPLITS]]


def first_users(histories: Histories, n_users: int) -> Histories:
    """Evaluation histories of the first users, at most so many."""
    assert histories.targets is not None
    assert histories.repeats is not None
    n_users = min(n_users, histories.n_users)
    return replace(
        histories,
        users=histories.users[:n_users],
        items=histories.items[: histories.offsets[n_users]],
        offsets=histories.offsets[: n_users + 1],
        targets=np.ascontiguousarray(histories.targets[:n_users]),
        repeats=histories.repeats[:n_users],
    )


def generated_like(name: str) -> tuple[Histories, Histories]:
    """Training and validation histories of a dataset's size and lengths."""
    return generated(*_SIZES[name], *_quantiles(name))


def generated(n_users: int, n_items: int, shares: np.ndarray, lengths: np.ndarray) -> tuple[Histories, Histories]:
    """Training and validation histories with those quantiles of the length, and items by Zipf's law.

    Args:
        n_users, n_items: size of the dataset.
        shares: ascending from 0 to 1.
        lengths: number of training interactions at those shares; in between it grows geometrically.
    """
    rng = np.random.default_rng(0)
    at = (np.arange(n_users) + 0.5) / n_users
    counts = np.rint(np.exp(np.interp(at, shares, np.log(lengths)))).astype(np.int64)
    rng.shuffle(counts)
    popularity = 1 / np.arange(1, n_items + 1)
    popularity /= popularity.sum()
    items = rng.choice(n_items, size=counts.sum(), p=popularity).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    train = Histories(np.arange(n_users), np.arange(n_items), items, offsets)
    targets = rng.choice(n_items, size=n_users, p=popularity).astype(np.int64)
    return train, replace(train, targets=targets, repeats=np.zeros(n_users, dtype=bool))


def _quantiles(name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.array(_SHARES[name]), np.array(_LENGTHS[name])


def _workload(
    name: str,
    source: str,
    train: Histories,
    validation: Histories,
    backbone: dict[str, Any],
    batch_size: int,
    *,
    filter_seen: bool,
) -> Workload:
    by_length = np.argsort(np.argsort(train.lengths, kind="stable"), kind="stable")
    groups = (3 * by_length // train.n_users).astype(np.int64)
    return Workload(name, source, train, validation, groups, backbone, batch_size, filter_seen)
