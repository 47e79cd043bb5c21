"""Groups as a group-dependent loss sees them: one code per user, and how frequent each group is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import ATOMIC, STANDARD_SPLITS, USER
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.objectives.base import Population


def group_codes(
    user_groups: pd.DataFrame, loss_groups: str | None, users: np.ndarray
) -> tuple[np.ndarray | None, list[str]]:
    """The group of every user.

    Args:
        user_groups: user_id and one column of labels per split or attribute.
        loss_groups: such a column; `atomic` for the intersections of pop33 and seq33 (paper, section 3.3); None.
        users: (n_users,) ids to look up.

    Returns:
        codes (n_users,) int64 into the names, in alphabetical order; None and no names without `loss_groups`.

    Raises:
        DataError: there is no such column, or a user without a row.
    """
    if loss_groups is None:
        return None, []
    columns = list(STANDARD_SPLITS) if loss_groups == ATOMIC else [loss_groups]
    missing = [column for column in columns if column not in user_groups.columns]
    if missing:
        raise DataError(
            f"user_groups has no column {missing[0]!r} for loss_groups={loss_groups}; it has: "
            + ", ".join(column for column in user_groups.columns if column != USER)
        )
    parts = [user_groups.set_index(USER)[column].astype(str) for column in columns]
    labels = sum(("-" + part for part in parts[1:]), parts[0]).reindex(users)
    if labels.isna().any():
        message = f"{int(labels.isna().sum())} training users have no row in user_groups; run --pipeline=data again"
        raise DataError(message)
    names, codes = np.unique(labels.to_numpy(dtype=str), return_inverse=True)
    return codes.astype(np.int64), names.tolist()


def population(sequences: Histories, codes: np.ndarray | None, names: list[str], state_dim: int) -> Population:
    """Sizes, and frequencies of items and groups in the training data."""
    item_counts, groups = torch.from_numpy(sequences.item_counts), {}
    if codes is not None:
        users, events = (np.bincount(codes, weights, len(names)) for weights in (None, sequences.lengths))
        groups = {"group_users": torch.from_numpy(users), "group_interactions": torch.from_numpy(events)}
    return Population(item_counts, group_names=names, n_users=sequences.n_users, state_dim=state_dim, **groups)
