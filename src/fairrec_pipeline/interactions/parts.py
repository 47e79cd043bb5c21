"""Histories of a table that comes in parts, because it would not fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import POSITION, TEST, USER, VALIDATION
from fairrec_pipeline.interactions.histories import Histories, evaluation_histories, training_histories


def whole_users(tables: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """The same rows in other parts, so that no user is in two of them.

    Args:
        tables: with the columns user_id and position, ordered by them from the first part to the last; none is empty.

    Raises:
        DataError: they are not in that order.
    """
    rest: pd.DataFrame | None = None
    for table in tables:
        rows = table if rest is None else pd.concat([rest, table], ignore_index=True)
        users, positions = rows[USER].to_numpy(), rows[POSITION].to_numpy()
        is_same, is_later = users[1:] == users[:-1], positions[1:] > positions[:-1]
        if not np.where(is_same, is_later, users[1:] > users[:-1]).all():
            raise DataError(
                "the interactions are not in the order of users and positions. Prepare them again: "
                "kedro run --pipeline=data"
            )
        begin = int((users == users[-1]).argmax())
        if begin:
            yield rows.iloc[:begin]
        rest = rows.iloc[begin:]
    if rest is not None:
        yield rest


def histories_of(interactions: pd.DataFrame, catalogue: np.ndarray) -> tuple[Histories, Histories, Histories]:
    """For training, validation and test, of some users with all their interactions.

    Args:
        catalogue: ascending ids of the items that all users' training has.
    """
    train = training_histories(interactions)
    codes = np.searchsorted(catalogue, train.catalogue)
    train = replace(train, catalogue=catalogue, items=codes[train.items])
    validation, test = (evaluation_histories(interactions, catalogue, role) for role in (VALIDATION, TEST))
    return train, validation, test


def concatenated(parts: Sequence[Histories]) -> Histories:
    """One of many, whose users ascend from part to part."""
    arrays: dict[str, Any] = {}
    for name in ("users", "items", "targets", "repeats"):
        of_parts = [getattr(part, name) for part in parts]
        arrays[name] = None if of_parts[0] is None else np.concatenate(of_parts)
    lengths = np.concatenate([part.lengths for part in parts])
    return Histories(catalogue=parts[0].catalogue, offsets=np.append(0, np.cumsum(lengths)), **arrays)
