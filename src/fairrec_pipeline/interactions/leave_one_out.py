"""Leave-one-out split: last item for the test, the one before for validation, the rest for training."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir
import numpy as np
import pandas as pd

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import (
    ITEM,
    N_HELD_OUT,
    N_INTERACTIONS,
    POSITION,
    ROLE,
    TEST,
    TIMESTAMP,
    TRAIN,
    USER,
    VALIDATION,
)


def hold_out(interactions: ir.Table, validation_users: int | float, seed: int) -> ir.Table:
    """Decide how many of a user's last interactions are held out: 2 for the drawn validation users, else 1.

    The draw is `numpy.random.default_rng(seed).choice` over the ascending user ids (METHODS: data protocol), so it
    depends on the set of users and the seed alone.

    Args:
        validation_users: a count (int), or a share of the users (float in (0, 1]).

    Returns:
        One row per user, ordered by user_id: user_id, n_interactions, n_held_out.

    Raises:
        DataError: more validation users than users, none at all, or a history too short to be split.
    """
    users: pd.DataFrame = interactions.group_by(USER).agg(**{N_INTERACTIONS: ibis._.count()}).order_by(USER).to_pandas()
    users[N_HELD_OUT] = 1 + _draw(len(users), validation_users, seed)
    short = users[users[N_INTERACTIONS] <= users[N_HELD_OUT]]
    if len(short):
        examples = ", ".join(f"{user} ({n} of {held_out + 1})" for user, n, held_out in short.head(3).to_numpy())
        message = (
            f"{len(short)} of {len(users)} users have too few interactions to be split: {examples}. A user needs 2 "
            f"(one to train on, one for the test), a validation user 3. Raise split.core to at least 3, or lower "
            f"split.validation_users={validation_users}"
        )
        raise DataError(message)
    return ibis.memtable(users)


def training_interactions(core_interactions: ir.Table, held_out: ir.Table) -> ir.Table:
    """The interactions (user_id, item_id, position) that are not held out (see `hold_out`): user_id, item_id."""
    both = core_interactions.join(held_out, USER)
    return both.filter(both[POSITION] < both[N_INTERACTIONS] - both[N_HELD_OUT]).select(USER, ITEM)


def split_roles(core_interactions: ir.Table, held_out: ir.Table) -> ir.Table:
    """Give every interaction its role.

    A user's last interaction is the test target, the one before the validation target if two are held out. Everything
    else is training.

    Returns:
        Columns user_id, item_id, timestamp, position, role (train, validation, test), ordered by (user, position).
    """
    both = core_interactions.join(held_out, USER)
    from_end = both[N_INTERACTIONS] - 1 - both[POSITION]
    role = ibis.cases((from_end == 0, TEST), (from_end < both[N_HELD_OUT], VALIDATION), else_=TRAIN)
    return both.select(USER, ITEM, TIMESTAMP, POSITION, **{ROLE: role}).cache().order_by(USER, POSITION)


def _draw(n_users: int, validation_users: int | float, seed: int) -> np.ndarray:
    """(n_users,) int64, 1 for a validation user, else 0."""
    count = round(validation_users * n_users) if isinstance(validation_users, float) else validation_users
    if not 1 <= count <= n_users:
        message = (
            f"split.validation_users={validation_users} asks for {count} validation users, but there are {n_users} "
            f"users after the core filter. Allowed: a count from 1 to {n_users}, or a share (written with a point, "
            f"such as 0.5) of at least one user and at most 1.0"
        )
        raise DataError(message)
    drawn = np.zeros(n_users, dtype=np.int64)
    drawn[np.random.default_rng(seed).choice(n_users, count, replace=False)] = 1
    return drawn
