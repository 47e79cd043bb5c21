"""Leave-one-out split: last item for the test, the one before for validation, the rest for training."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir
import numpy as np
import pandas as pd

from fairrec_pipeline.interactions.columns import ITEM, POSITION, ROLE, TEST, TIMESTAMP, TRAIN, USER, VALIDATION
from fairrec_pipeline.interactions.errors import DataError

_LENGTH = "history_length"


def split_roles(core_interactions: ir.Table, validation_users: int | float, seed: int) -> ir.Table:
    """Give every interaction its role.

    A user's last interaction is the test target; for the drawn validation users the one before is the validation
    target; everything else is training. The draw is `numpy.random.default_rng(seed).choice` over the ascending user
    ids (METHODS: data protocol), so it depends on the set of users and the seed alone.

    Args:
        core_interactions: columns user_id, item_id, timestamp, position.
        validation_users: a count (int), or a share of the users (float in (0, 1]).
        seed: of the draw.

    Returns:
        Columns user_id, item_id, timestamp, position, role (train, validation, test), ordered by (user, position).

    Raises:
        DataError: more validation users than users, none at all, or a history too short to be split.
    """
    lengths = core_interactions.group_by(USER).agg(**{_LENGTH: ibis._.count()}).order_by(USER).to_pandas()
    drawn = _draw(lengths[USER], validation_users, seed)
    needed = np.where(drawn, 3, 2)
    short = lengths[_LENGTH].to_numpy() < needed
    if short.any():
        examples = ", ".join(
            f"{row.user} ({row.length} of {row.needed})"
            for row in pd.DataFrame({"user": lengths[USER], "length": lengths[_LENGTH], "needed": needed})[short]
            .head(3)
            .itertuples()
        )
        message = (
            f"{short.sum()} of {len(lengths)} users have too few interactions to be split: {examples}. A user needs 2 "
            f"(one to train on, one for the test), a validation user 3. Raise split.core to at least 3, or lower "
            f"split.validation_users={validation_users}"
        )
        raise DataError(message)
    chosen = ibis.memtable(pd.DataFrame({USER: lengths[USER], "drawn": drawn}))
    from_end = ibis._.count().over(group_by=USER) - 1 - ibis._[POSITION]
    role = ibis.cases(
        (ibis._.from_end == 0, TEST),
        ((ibis._.from_end == 1) & ibis._.drawn, VALIDATION),
        else_=TRAIN,
    )
    return (
        core_interactions.mutate(from_end=from_end)
        .join(chosen, USER)
        .mutate(**{ROLE: role})
        .select(USER, ITEM, TIMESTAMP, POSITION, ROLE)
        .cache()
        .order_by(USER, POSITION)
    )


def _draw(users: pd.Series, validation_users: int | float, seed: int) -> np.ndarray:
    """(n_users,) bool, the user is a validation user; `users` ascending."""
    n_users = len(users)
    count = round(validation_users * n_users) if isinstance(validation_users, float) else validation_users
    if not 1 <= count <= n_users:
        message = (
            f"split.validation_users={validation_users} asks for {count} validation users, but there are {n_users} "
            f"users after the core filter. Allowed: a count from 1 to {n_users}, or a share (written with a point, "
            f"such as 0.5) of at least one user and at most 1.0"
        )
        raise DataError(message)
    drawn = np.zeros(n_users, dtype=bool)
    drawn[np.random.default_rng(seed).choice(n_users, count, replace=False)] = True
    return drawn
