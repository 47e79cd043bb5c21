"""Quantile groups of users, from training interactions only (METHODS: groups)."""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import (
    ITEM,
    LENGTH_GROUPS,
    POPULARITY_GROUPS,
    POPULARITY_RATIO,
    TRAIN_LENGTH,
    UNKNOWN_LABEL,
    USER,
)
from fairrec_pipeline.parameters.datasets import RESERVED_NAMES

# Shares such as 1/3 have no exact float; far below one interaction for any log that fits on a machine.
_ROUNDING = 1e-12


def assign_groups(
    training: ir.Table,
    user_attributes: ir.Table,
    popular_quantile: float,
    splits: Mapping[str, tuple[float, float, float]],
) -> ir.Table:
    """Put every user into one group of every split.

    An item is popular if its number of distinct training users lies strictly above the `popular_quantile` of that
    number over the items (linear interpolation). A user's popularity ratio is the share of popular items among the
    training interactions, repeats counted. A split's shares are shares of the training interactions: users are sorted
    by (statistic, user id), and the running count of interactions, the user's own included, is cut at the shares; a
    user up to the first cut is in the first group, beyond the second cut in the last. With that rule, and with thirds
    for the 33 splits, the published user shares of RetailRocket come out within 0.013 points (0.33/0.34/0.33: 0.7).

    Args:
        training: columns user_id, item_id; a row per training interaction, nothing that is held out.
        user_attributes: user_id and one string column per attribute; users may be absent.
        splits: name -> shares of the interactions, low to high; a name starts with `pop` (by popularity ratio:
            niche, diverse, popular) or `seq` (by number of training interactions: short, medium, long).

    Returns:
        One row per user, ordered by user_id: user_id, train_length, popularity_ratio, one column per split, one per
        attribute ("unknown" for users without a row of attributes).

    Raises:
        DataError: an attribute bears a reserved name.
    """
    attributes = [name for name in user_attributes.columns if name != USER]
    reserved = {name.casefold() for name in (*RESERVED_NAMES, *splits)}
    clashes = [name for name in attributes if name.casefold() in reserved]
    if clashes:
        raise DataError(
            f"the user attribute {', '.join(clashes)} bears a reserved name; reserved are "
            f"{', '.join(sorted(reserved))}. Rename the column in the users' file"
        )
    users = _statistics(training, popular_quantile)
    groups = users.mutate(**{name: _group(name, shares) for name, shares in splits.items()})
    if attributes:
        groups = groups.left_join(user_attributes, USER).select(
            *groups.columns, **{name: user_attributes[name].fill_null(UNKNOWN_LABEL) for name in attributes}
        )
    return groups.cache().order_by(USER)


def _statistics(training: ir.Table, popular_quantile: float) -> ir.Table:
    """user_id, train_length, popularity_ratio."""
    # not nunique(): that would keep a set of users for every item in memory
    items = training.select(USER, ITEM).distinct().group_by(ITEM).agg(n_users=ibis._.count())
    popular = items.select(ITEM, popular=ibis._.n_users > items.n_users.cast("float64").quantile(popular_quantile))
    return (
        training.join(popular, ITEM)
        .group_by(USER)
        .agg(**{TRAIN_LENGTH: ibis._.count(), POPULARITY_RATIO: ibis._.popular.cast("int64").mean()})
    )


def _group(split: str, shares: tuple[float, float, float]) -> ir.Value:
    by_popularity = split.startswith("pop")
    statistic = POPULARITY_RATIO if by_popularity else TRAIN_LENGTH
    low, middle, high = POPULARITY_GROUPS if by_popularity else LENGTH_GROUPS
    running = ibis._[TRAIN_LENGTH].sum().over(ibis.cumulative_window(order_by=[statistic, USER]))
    share = running / ibis._[TRAIN_LENGTH].sum().over(ibis.window())
    first, second = shares[0] + _ROUNDING, shares[0] + shares[1] + _ROUNDING
    return ibis.cases((share <= first, low), (share <= second, middle), else_=high)
