"""Users whom an arm serves badly, found without labels on half of the users and confirmed on the other half."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.comparison import REFERENCE
from fairrec_pipeline.comparison.selection import by_arm
from fairrec_pipeline.comparison.user_weights import fitted_leaves, tree_options, user_features
from fairrec_pipeline.interactions.columns import ROLE, TIMESTAMP, TRAIN, USER
from fairrec_pipeline.metrics.by_group import HEADLINE_METRIC, N_USERS
from fairrec_pipeline.metrics.significance import adjust

_SLICES = 3
_TYPES = {
    **dict.fromkeys(("arm", "rule"), "string"),
    N_USERS: "int64",
    **dict.fromkeys(("found_value", "value", "elsewhere", "difference", "erm", "p_value", "p_adjusted"), "float64"),
}


def activity(interactions: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    """When users were active, in shares of the time from the first to the last training interaction of the log.

    Args:
        interactions: columns user_id, timestamp (any unit), role.

    Returns:
        By user_id, each in [0, 1]: `active`, from the user's first to the last training interaction; `idle`, from the
        user's last one to the end.
    """
    train = interactions[interactions[ROLE] == TRAIN].astype({TIMESTAMP: np.float64})
    first, last = (train.groupby(USER)[TIMESTAMP].agg(end) for end in ("min", "max"))
    whole = max(last.max() - first.min(), 1e-12)
    return ((last - first) / whole).rename("active"), ((last.max() - last) / whole).rename("idle")


def bad_slices(
    records: Iterable[ArmRecord], user_groups: pd.DataFrame, *features: pd.Series[float], seed: int = 0
) -> pd.DataFrame:
    """The slices of users that each arm serves worst, and whether other users say the same.

    On a random half of the users a regression tree (depth 3, leaves of at least 1 % of them) explains NDCG@20 by
    training length, popularity ratio, attributes and the given features. The three leaves with the lowest means below
    that of the half are the slices. On the other half, a one-sided t-test asks whether the users of a slice have a
    lower mean than all others. Its variance is pooled: a slice that is not bad is a draw of users like any other. (A
    small slice of misses has no variance of its own: Welch's test had .125 false alarms at a level of .05.) Holm's
    correction is over all slices of all arms, so that the chance of a single falsely confirmed slice in the table is at
    most the level. The halves are the same for every arm.

    Args:
        records: compared arms; the seeds of an arm are averaged per user.
        user_groups: see `by_group.membership`.
        features: further ones that the trees see (see `user_weights.user_features`).
        seed: draws the halves.

    Returns:
        One row per slice: arm, rule, found_value (mean of the half it was found on: too low, by selection); then on the
        other half n_users, value, elsewhere (mean of all other users), difference, erm (erm's mean in the slice; null
        without erm), p_value, p_adjusted (null where a slice has fewer than two users there).
    """
    from sklearn.tree import DecisionTreeRegressor

    values = {
        arm: pd.concat([record.user_metrics.set_index(USER)[HEADLINE_METRIC] for record in seeds], axis=1).mean(axis=1)
        for arm, seeds in by_arm(records).items()
    }
    rows: list[dict[str, Any]] = []
    for arm, of_users in values.items():
        users = user_groups[user_groups[USER].isin(of_users.index)].sort_values(USER, ignore_index=True)
        table = user_features(users, *features)
        served = pd.DataFrame({"value": of_users, "erm": values.get(REFERENCE, np.nan * of_users)}).loc[users[USER]]
        ndcg = served["value"].to_numpy(np.float64)
        finding = np.random.default_rng(seed).permutation(len(users)) < len(users) // 2
        tree = DecisionTreeRegressor(**tree_options(int(finding.sum())))
        leaves = fitted_leaves(tree, table, ndcg, finding)
        means = {rule: ndcg[finding & inside].mean() for rule, inside in leaves.items()}
        for rule in sorted(leaves, key=means.__getitem__)[:_SLICES]:
            if means[rule] < ndcg[finding].mean():
                inside, outside = ~finding & leaves[rule], ~finding & ~leaves[rule]
                rows.append(
                    {"arm": arm, "rule": rule, "found_value": means[rule], N_USERS: inside.sum()}
                    | {**served[inside].mean(), "elsewhere": served["value"][outside].mean()}
                    | {"p_value": _p_value(ndcg[inside], ndcg[outside])}
                )
    slices = pd.DataFrame(rows, columns=[name for name in _TYPES if name not in ("difference", "p_adjusted")])
    slices["difference"] = slices["value"] - slices["elsewhere"]
    slices["p_adjusted"] = adjust(slices["p_value"].to_numpy(np.float64), "holm")
    return slices[list(_TYPES)].astype(_TYPES)


def _p_value(inside: np.ndarray, outside: np.ndarray) -> float:
    from scipy import stats

    if min(len(inside), len(outside)) < 2:
        return float("nan")
    if np.ptp(inside) == 0 and np.ptp(outside) == 0:
        return float(inside[0] >= outside[0])
    return float(stats.ttest_ind(inside, outside, alternative="less").pvalue)
