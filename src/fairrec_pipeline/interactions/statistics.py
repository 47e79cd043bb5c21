"""What the prepared data are: counts, shares of the groups, fingerprints."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fairrec_pipeline.interactions.columns import (
    ITEM,
    LENGTH_GROUPS,
    POPULARITY_GROUPS,
    POPULARITY_RATIO,
    POSITION,
    ROLE,
    TEST,
    TIMESTAMP,
    TRAIN,
    TRAIN_LENGTH,
    USER,
    VALIDATION,
)
from fairrec_pipeline.interactions.histories import UNKNOWN

if TYPE_CHECKING:
    from fairrec_pipeline.interactions.prepared import PreparedHistories


def dataset_statistics(interactions: pd.DataFrame, user_groups: pd.DataFrame) -> dict[str, Any]:
    """Counts, group shares and fingerprints of the prepared data.

    Returns:
        n_users, n_items, n_interactions, n_train, n_validation, n_test; group_shares {split: {group: {users,
        interactions}}} in percent of the users and of the training interactions; fingerprint of the interactions;
        group_fingerprints {column of labels: fingerprint}.
    """
    roles = interactions[ROLE].value_counts()
    return {
        "n_users": int(interactions[USER].nunique()),
        "n_items": int(interactions[ITEM].nunique()),
        "n_interactions": len(interactions),
        **{f"n_{role}": int(roles.get(role, 0)) for role in (TRAIN, VALIDATION, TEST)},
        "group_shares": {split: _shares(user_groups, split) for split in label_columns(user_groups)},
        "fingerprint": fingerprint(interactions),
        "group_fingerprints": group_fingerprints(user_groups),
    }


def target_statistics(interactions: pd.DataFrame, histories: PreparedHistories) -> dict[str, dict[str, int]]:
    """Count the held-out targets of interactions and their histories, and those whose rank says less than it seems to.

    Returns:
        For validation and test: n targets; tied (the user has another item at the same time, so that `split.ties`
        decides which of them is the target); unseen (nobody's training has the item: no trained arm can rank it);
        repeated (the user had the item before: a miss where `evaluate.filter_seen` leaves such items out).
    """
    instants = interactions[[USER, TIMESTAMP, ITEM]].drop_duplicates()
    tied = instants[instants.duplicated([USER, TIMESTAMP], keep=False)]
    held_out = interactions[interactions[ROLE] != TRAIN].merge(tied, on=[USER, TIMESTAMP, ITEM])[ROLE].value_counts()
    return {
        role: {
            "n": part.n_users,
            "tied": int(held_out.get(role, 0)),
            "unseen": int(np.sum(part.targets == UNKNOWN)),
            "repeated": int(np.asarray(part.repeats).sum()),
        }
        for role, part in ((VALIDATION, histories.validation), (TEST, histories.test))
    }


def fingerprint(interactions: pd.DataFrame) -> str:
    """SHA-256 of what decides a training and its targets: user, item, position and role of every interaction."""
    return _content(interactions[[USER, ITEM, POSITION, ROLE]])


def group_fingerprints(user_groups: pd.DataFrame) -> dict[str, str]:
    """SHA-256 of (user, label), for every column of labels."""
    return {name: _content(user_groups[[USER, name]]) for name in label_columns(user_groups)}


def _content(table: pd.DataFrame) -> str:
    """SHA-256 over the content of a table, whatever the order of its rows."""
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy()
    digest = hashlib.sha256("\0".join(table.columns).encode())
    digest.update(np.sort(rows).tobytes())
    return digest.hexdigest()


def label_columns(user_groups: pd.DataFrame) -> list[str]:
    """The splits and the attributes among the columns of `user_groups`."""
    return [name for name in user_groups.columns if name not in (USER, TRAIN_LENGTH, POPULARITY_RATIO)]


def _shares(user_groups: pd.DataFrame, split: str) -> dict[str, dict[str, float]]:
    lengths = user_groups.groupby(split)[TRAIN_LENGTH]
    counts = pd.DataFrame({"users": lengths.size(), "interactions": lengths.sum()})
    low_to_high = (*POPULARITY_GROUPS, *LENGTH_GROUPS)
    names = sorted(counts.index, key=lambda name: (low_to_high.index(name) if name in low_to_high else -1, name))
    percent = (100 * counts / counts.sum()).loc[names]
    return {str(name): {str(of): float(share) for of, share in row.items()} for name, row in percent.iterrows()}
