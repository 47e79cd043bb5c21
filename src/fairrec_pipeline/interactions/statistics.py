"""What the prepared data are: counts, shares of the groups, fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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
    import ibis.expr.types as ir

    from fairrec_pipeline.interactions.prepared import PreparedHistories


def dataset_statistics(interactions: ir.Table, user_groups: pd.DataFrame, fingerprint: str) -> dict[str, Any]:
    """Counts, group shares and fingerprints of the prepared data.

    Args:
        fingerprint: of the interactions (see `fingerprint`).

    Returns:
        n_users, n_items, n_interactions, n_train, n_validation, n_test; group_shares {split: {group: {users,
        interactions}}} in percent of the users and of the training interactions; fingerprint of the interactions;
        group_fingerprints {column of labels: fingerprint}.
    """
    counts = interactions.agg(
        n_users=interactions[USER].nunique(),
        n_items=interactions[ITEM].nunique(),
        n_interactions=interactions.count(),
        **{f"n_{role}": (interactions[ROLE] == role).sum() for role in (TRAIN, VALIDATION, TEST)},
    )
    return {
        **{name: int(count) for name, count in counts.to_pandas().iloc[0].items()},
        "group_shares": {split: _shares(user_groups, split) for split in label_columns(user_groups)},
        "fingerprint": fingerprint,
        "group_fingerprints": group_fingerprints(user_groups),
    }


def target_statistics(interactions: ir.Table, histories: PreparedHistories) -> dict[str, dict[str, int]]:
    """Count the held-out targets of interactions and their histories, and those whose rank says less than it seems to.

    Returns:
        For validation and test: n targets; tied (the user has another item at the same time, so that `split.ties`
        decides which of them is the target); unseen (nobody's training has the item: no trained arm can rank it);
        repeated (the user had the item before: a miss where `evaluate.filter_seen` leaves such items out).
    """
    targets = interactions.filter(interactions[ROLE] != TRAIN).select(USER, TIMESTAMP, ROLE, target=ITEM)
    at_once = targets.join(interactions.select(USER, TIMESTAMP, ITEM), [USER, TIMESTAMP])
    tied = at_once.filter(at_once[ITEM] != at_once.target).select(USER, ROLE).distinct()
    n_tied = tied[ROLE].value_counts(name="n").to_pandas().set_index(ROLE)["n"]
    return {
        role: {
            "n": part.n_users,
            "tied": int(n_tied.get(role, 0)),
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


class RowHashes:
    """SHA-256 over the content of a table that comes in parts, whatever the order of its rows: 8 bytes a row are kept.

    Args:
        columns: of the table, in the order in which they count.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)
        self._hashes: list[Any] = []

    def add(self, rows: pd.DataFrame) -> None:
        self._hashes.append(pd.util.hash_pandas_object(rows[self._columns], index=False).to_numpy())

    def hexdigest(self) -> str:
        hashes = np.concatenate(self._hashes)
        self._hashes = [hashes]  # once only
        hashes.sort()
        digest = hashlib.sha256("\0".join(self._columns).encode())
        digest.update(hashes.data)
        return digest.hexdigest()


def _content(table: pd.DataFrame) -> str:
    hashes = RowHashes(list(table.columns))
    hashes.add(table)
    return hashes.hexdigest()


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
