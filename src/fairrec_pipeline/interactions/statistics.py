"""What the prepared data are: counts, shares of the groups, a fingerprint, and the parameters they came from."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from fairrec_pipeline.interactions.columns import (
    ITEM,
    POPULARITY_RATIO,
    ROLE,
    TEST,
    TRAIN,
    TRAIN_LENGTH,
    USER,
    VALIDATION,
)
from fairrec_pipeline.interactions.groups import LENGTH_GROUPS, POPULARITY_GROUPS
from fairrec_pipeline.parameters.blocks import Groups, Source, Split


def dataset_statistics(interactions: pd.DataFrame, user_groups: pd.DataFrame) -> dict[str, Any]:
    """Counts, group shares and fingerprint of the prepared data.

    Args:
        interactions: columns user_id, item_id, role.
        user_groups: one row per user: train_length and one column of labels per split and attribute.

    Returns:
        n_users, n_items, n_interactions, n_train, n_validation, n_test; group_shares {split: {group: {users,
        interactions}}} in percent of the users and of the training interactions; fingerprint.
    """
    roles = interactions[ROLE].value_counts()
    splits = [name for name in user_groups.columns if name not in (USER, TRAIN_LENGTH, POPULARITY_RATIO)]
    return {
        "n_users": int(interactions[USER].nunique()),
        "n_items": int(interactions[ITEM].nunique()),
        "n_interactions": len(interactions),
        "n_train": int(roles.get(TRAIN, 0)),
        "n_validation": int(roles.get(VALIDATION, 0)),
        "n_test": int(roles.get(TEST, 0)),
        "group_shares": {split: _shares(user_groups, split) for split in splits},
        "fingerprint": fingerprint(interactions, user_groups),
    }


def prepared_with(dataset: str, source: Source, split: Split, groups: Groups) -> dict[str, Any]:
    """The parameters that the prepared data depend on, as JSON values; equal if and only if the data need no change.

    The `parameters` of a dataset's block are left out: those that matter here are already in `split` and `groups`.
    """
    return {
        "dataset": dataset,
        "source": source.root.model_dump(mode="json", exclude={"parameters"}),
        "split": split.model_dump(mode="json"),
        "groups": groups.model_dump(mode="json"),
    }


def fingerprint(*tables: pd.DataFrame) -> str:
    """SHA-256 over the content of the tables, whatever the order of their rows and columns."""
    digest = hashlib.sha256()
    for table in tables:
        columns = sorted(table.columns)
        rows = pd.util.hash_pandas_object(table[columns], index=False).to_numpy()
        digest.update("\0".join(columns).encode())
        digest.update(np.sort(rows).tobytes())
    return digest.hexdigest()


def check_fingerprint(
    statistics: dict[str, Any], dataset: str, interactions: pd.DataFrame, user_groups: pd.DataFrame
) -> None:
    """Make sure that the tables are those that the statistics describe, and of the dataset that is asked for.

    Raises:
        ValueError: they belong to another dataset or preparation.
    """
    found = fingerprint(interactions, user_groups)
    if statistics["dataset"] != dataset or statistics["fingerprint"] != found:
        message = (
            f"interactions and user_groups are not the prepared data of {dataset}: dataset_statistics describes "
            f"{statistics['dataset']} with fingerprint {statistics['fingerprint'][:12]}, the tables have {found[:12]}; "
            f"run: kedro run --pipelines=data --params dataset={dataset}"
        )
        raise ValueError(message)


def _shares(user_groups: pd.DataFrame, split: str) -> dict[str, dict[str, float]]:
    counts = user_groups.groupby(split)[TRAIN_LENGTH].agg(["size", "sum"])
    percent = 100 * counts / counts.sum()
    low_to_high = (*POPULARITY_GROUPS, *LENGTH_GROUPS)
    names = sorted(percent.index, key=lambda name: (low_to_high.index(name) if name in low_to_high else -1, name))
    return {
        str(name): {"users": float(percent["size"][name]), "interactions": float(percent["sum"][name])}
        for name in names
    }
