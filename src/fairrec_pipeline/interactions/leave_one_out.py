"""The split: a user's last interaction for the test, the one before for validation, the rest for training.

Leave-one-out holds out the last interaction of everybody. The temporal split has one moment for the whole log: a user's
first interaction after it is the target, and what the user did later is left out. So no training interaction is later
than a target of the test.
"""

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
    users[N_HELD_OUT] = 1 + _draw(len(users), validation_users, seed, "after the core filter")
    short = users[users[N_INTERACTIONS] <= users[N_HELD_OUT]]
    if len(short):
        examples = ", ".join(f"{user} ({n} of {held_out + 1})" for user, n, held_out in short.head(3).to_numpy())
        raise DataError(
            f"{len(short)} of {len(users)} users have too few interactions to be split: {examples}. A user needs 2 "
            f"(one to train on, one for the test), a validation user 3. Raise split.core to at least 3, or lower "
            f"split.validation_users={validation_users}"
        )
    return ibis.memtable(users)


def hold_out_later(interactions: ir.Table, train_share: float, validation_users: int | float, seed: int) -> ir.Table:
    """Decide what is held out by time: at most a user's first interaction after the cut.

    The cut is the earliest time that has at least `train_share` of the interactions up to it. What happened at that
    very time is before the cut, so that no target of the test is as early as a training interaction. The target of a
    validation user is the last interaction before the cut. They are drawn as by `hold_out`, among the users with a test
    target and two interactions before the cut. Users without an interaction before the cut have nothing to train on and
    are left out; users without one after it have no target.

    Args:
        interactions: one row per interaction, with columns user_id, timestamp.
        train_share: share of the interactions up to the cut, in (0, 1).
        validation_users: a count (int), or a share (float in (0, 1]) of the users who can be drawn.
        seed: of the draw.

    Returns:
        As `hold_out`: n_interactions counts those that are kept; n_held_out is 0, 1 or 2.

    Raises:
        DataError: nothing is after the cut, or too few users can be drawn.
    """
    times = interactions.group_by(TIMESTAMP).agg(n=ibis._.count()).order_by(TIMESTAMP).to_pandas()
    up_to = times["n"].cumsum()
    cut = int(times[TIMESTAMP].iloc[int(np.searchsorted(up_to, train_share * up_to.iloc[-1] * (1 - 1e-12)))])
    before = interactions[TIMESTAMP] <= cut
    counts = interactions.group_by(USER).agg(before=before.sum(), after=(~before).sum()).order_by(USER).to_pandas()
    users = counts[counts["before"] > 0].reset_index(drop=True)
    tested = users["after"] > 0
    if not tested.any():
        raise DataError(
            f"nobody has interactions on both sides of the temporal cut: {train_share:g} of the interactions are not "
            f"later than time {cut}, the last is at {times[TIMESTAMP].iloc[-1]}. Lower split.train_share, or take "
            f"split.kind=leave_one_out"
        )
    can_validate = tested & (users["before"] > 1)
    drawn = np.zeros(len(users), dtype=np.int64)
    who = "with a target after the cut and two interactions before it"
    drawn[can_validate] = _draw(int(can_validate.sum()), validation_users, seed, who)
    kept = {N_INTERACTIONS: users["before"] + tested, N_HELD_OUT: tested + drawn}
    return ibis.memtable(pd.DataFrame({USER: users[USER], **kept}).astype(dict.fromkeys(kept, "int64")))


def training_interactions(core_interactions: ir.Table, held_out: ir.Table) -> ir.Table:
    """The interactions (user_id, item_id, position) that are not held out (see `hold_out`): user_id, item_id."""
    both = core_interactions.join(held_out, USER)
    return both.filter(both[POSITION] < both[N_INTERACTIONS] - both[N_HELD_OUT]).select(USER, ITEM)


def split_roles(core_interactions: ir.Table, held_out: ir.Table) -> ir.Table:
    """Give every interaction its role.

    Of the interactions that are kept, a user's last one is the test target if one is held out, the one before the
    validation target if two are. Everything else is training.

    Returns:
        Columns user_id, item_id, timestamp, position, role (train, validation, test), ordered by (user, position).
    """
    both = core_interactions.join(held_out, USER)
    both = both.filter(both[POSITION] < both[N_INTERACTIONS])
    from_end = both[N_INTERACTIONS] - 1 - both[POSITION]
    is_held_out = from_end < both[N_HELD_OUT]
    role = ibis.cases((is_held_out & (from_end == 0), TEST), (is_held_out, VALIDATION), else_=TRAIN)
    return both.select(USER, ITEM, TIMESTAMP, POSITION, **{ROLE: role}).order_by(USER, POSITION).cache()


def _draw(n_users: int, validation_users: int | float, seed: int, who: str) -> np.ndarray:
    """(n_users,) int64, 1 for a validation user, else 0."""
    count = round(validation_users * n_users) if isinstance(validation_users, float) else validation_users
    if not 1 <= count <= n_users:
        raise DataError(
            f"split.validation_users={validation_users} asks for {count} validation users, but there are {n_users} "
            f"users {who}. Allowed: a count from 1 to {n_users}, or a share (written with a point, "
            f"such as 0.5) of at least one user and at most 1.0"
        )
    drawn = np.zeros(n_users, dtype=np.int64)
    drawn[np.random.default_rng(seed).choice(n_users, count, replace=False)] = 1
    return drawn
