"""Histories as flat arrays: what training and evaluation read instead of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import ITEM, POSITION, ROLE, TEST, TRAIN, USER, VALIDATION

if TYPE_CHECKING:  # a server has no table: 70 MB less in each of its workers
    import ibis.expr.types as ir
    import pandas as pd

UNKNOWN = -1
_ROWS_AT_ONCE = 2**17


@dataclass(frozen=True)
class Histories:
    """Histories of users, back to back, oldest item first.

    Attributes:
        users: (n_users,) user ids, ascending.
        catalogue: (n_items,) item ids seen in training, ascending; an item's code is its place in it.
        items: (n_events,) int64 item codes.
        offsets: (n_users + 1,) int64; the history of user u is `items[offsets[u]:offsets[u + 1]]`.
        targets: (n_users,) int64 code of the held-out item, `UNKNOWN` where training never saw it;
            None for training sequences, whose every item is a target.
        repeats: (n_users,) bool, the target is in the user's history; None for training sequences.
    """

    users: np.ndarray
    catalogue: np.ndarray
    items: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray | None = None
    repeats: np.ndarray | None = None

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.catalogue)

    @property
    def lengths(self) -> np.ndarray:
        """(n_users,) number of items in each history."""
        return np.diff(self.offsets)

    @property
    def item_counts(self) -> np.ndarray:
        """(n_items,) how often each item occurs in the histories."""
        return np.bincount(self.items, minlength=self.n_items)

    @property
    def event_users(self) -> np.ndarray:
        """(n_events,) the user (its place in `users`) of every event."""
        return np.repeat(np.arange(self.n_users), self.lengths)


def training_histories(interactions: pd.DataFrame) -> Histories:
    """Histories of the training interactions in a table as `PreparedHistories.of` takes; they define the catalogue."""
    train = interactions[interactions[ROLE] == TRAIN]
    users, catalogue = (np.unique(train[column].to_numpy()) for column in (USER, ITEM))
    return _histories(train, users, catalogue)


def evaluation_histories(interactions: pd.DataFrame, catalogue: np.ndarray, role: str) -> Histories:
    """Histories with a held-out target.

    For `validation` the history is the training part; for `test` the validation item belongs to it (METHODS: data
    protocol). Items outside the catalogue have no embedding and are left out of the history.

    Args:
        catalogue: ascending item ids of the training sequences.
        role: `validation` or `test`; users without an interaction of that role are left out.
    """
    known_roles = {VALIDATION: (TRAIN,), TEST: (TRAIN, VALIDATION)}[role]
    held_out = interactions[interactions[ROLE] == role].sort_values(USER)
    users = held_out[USER].to_numpy()
    history = interactions[interactions[ROLE].isin(known_roles) & interactions[USER].isin(users)]
    return _histories(history, users, catalogue, held_out[ITEM].to_numpy())


def stream_histories(table: ir.Table) -> Iterator[tuple[Any, list[Any]]]:
    """Every user with the items of the history, oldest first, from a table that need not fit into memory.

    Args:
        table: columns user_id and item_id; the rows of a user stand back to back in the order of time, and the users
            ascend. A row without an item adds nothing: it is there for a user without a history.

    Raises:
        DataError: the users do not ascend.
    """
    previous = None
    batches = table.select(USER, ITEM).to_pyarrow_batches(chunk_size=_ROWS_AT_ONCE)
    rows = (row for batch in batches for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    for user, history in groupby(rows, key=itemgetter(0)):
        if previous is not None and not previous < user:
            raise DataError(
                f"the interactions are not in the order of their users: {user} follows {previous}. Prepare them again: "
                "kedro run --pipeline=data"
            )
        yield user, [item for _, item in history if item is not None]
        previous = user


def _histories(
    interactions: pd.DataFrame, users: np.ndarray, catalogue: np.ndarray, targets: np.ndarray | None = None
) -> Histories:
    """Histories of the users (ascending ids) of the interactions; targets are item ids, one a user."""
    interactions = interactions.sort_values([USER, POSITION])
    items = interactions[ITEM].to_numpy()
    codes, user_codes = _codes(items, catalogue), np.searchsorted(users, interactions[USER].to_numpy())
    known = codes != UNKNOWN
    counts = np.bincount(user_codes[known], minlength=len(users))
    offsets = np.append(0, np.cumsum(counts)).astype(np.int64)
    histories = Histories(users, catalogue, codes[known], offsets)
    if targets is None:
        return histories
    repeats = np.zeros(len(users), dtype=bool)
    repeats[user_codes[items == targets[user_codes]]] = True
    return replace(histories, targets=_codes(targets, catalogue), repeats=repeats)


def _codes(items: np.ndarray, catalogue: np.ndarray) -> np.ndarray:
    places = np.minimum(np.searchsorted(catalogue, items), len(catalogue) - 1)
    return np.where(catalogue[places] == items, places, UNKNOWN).astype(np.int64)
