"""Histories as flat arrays: what training and evaluation read instead of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fairrec_pipeline.interactions.columns import ITEM, POSITION, ROLE, TEST, TRAIN, USER, VALIDATION

if TYPE_CHECKING:
    import pandas as pd  # a server has no table: 70 MB less in each of its workers

UNKNOWN = -1


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
    train = interactions[interactions[ROLE] == TRAIN].sort_values([USER, POSITION])
    catalogue, items = np.unique(train[ITEM].to_numpy(), return_inverse=True)
    users, counts = np.unique(train[USER].to_numpy(), return_counts=True)
    return Histories(users, catalogue, items.astype(np.int64), _offsets(counts))


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
    users, targets = held_out[USER].to_numpy(), held_out[ITEM].to_numpy()
    is_known = interactions[ROLE].isin(known_roles) & interactions[USER].isin(users)
    history = interactions[is_known].sort_values([USER, POSITION])
    user_codes = np.searchsorted(users, history[USER].to_numpy())
    repeats = np.zeros(len(users), dtype=bool)
    repeats[user_codes[history[ITEM].to_numpy() == targets[user_codes]]] = True
    items, offsets = _known_items(history, user_codes, len(users), catalogue)
    return Histories(users, catalogue, items, offsets, _codes(targets, catalogue), repeats)


def complete_histories(interactions: pd.DataFrame, catalogue: np.ndarray) -> Histories:
    """Everything that is known of every user, to recommend what comes next of a catalogue; targets are `UNKNOWN`."""
    history = interactions.sort_values([USER, POSITION])
    users, user_codes = np.unique(history[USER].to_numpy(), return_inverse=True)
    items, offsets = _known_items(history, user_codes, len(users), catalogue)
    unknown = np.full(len(users), UNKNOWN, dtype=np.int64)
    return Histories(users, catalogue, items, offsets, unknown, np.zeros(len(users), dtype=bool))


def _known_items(
    history: pd.DataFrame, user_codes: np.ndarray, n_users: int, catalogue: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the items of the catalogue, and the offsets of the users in them."""
    codes = _codes(history[ITEM].to_numpy(), catalogue)
    known = codes != UNKNOWN
    return codes[known], _offsets(np.bincount(user_codes[known], minlength=n_users))


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.append(0, np.cumsum(counts)).astype(np.int64)


def _codes(items: np.ndarray, catalogue: np.ndarray) -> np.ndarray:
    places = np.minimum(np.searchsorted(catalogue, items), len(catalogue) - 1)
    return np.where(catalogue[places] == items, places, UNKNOWN).astype(np.int64)
