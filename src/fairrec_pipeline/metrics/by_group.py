"""One row per user becomes one row per group: who is served how well."""

from __future__ import annotations

import re

import pandas as pd

from fairrec_pipeline.interactions.columns import POPULARITY_RATIO, TRAIN_LENGTH, USER

RANK = "rank"
REPEAT_TARGET = "repeat_target"
LOSS = "loss"
METRICS = ("ndcg_at_10", "ndcg_at_20", "recall_at_10", "recall_at_20")
HEADLINE_METRIC = "ndcg_at_20"

SPLIT = "split"
GROUP = "group"
METRIC = "metric"
N_USERS = "n_users"
VALUE = "value"

OVERALL = "overall"
TARGET = "target"
REPEAT = "repeat"
NEW = "new"
ATOMIC = "atomic"
BY_TARGET = " by target"
"""Ends the name of a balanced split whose groups are cut by `target`: `pop33 by target`, `niche-repeat`."""
STANDARD_SPLITS = ("pop33", "seq33")
"""The balanced splits: their crossing is `atomic`, and the worst group is looked for among their groups."""

UNKNOWN_ATTRIBUTE = "unknown"
_GROUP_ORDER = ("niche", "diverse", "popular", "short", "medium", "long", REPEAT, NEW)


def membership(user_metrics: pd.DataFrame, user_groups: pd.DataFrame, *, by_target: bool = False) -> pd.DataFrame:
    """Which users form which group; every table, test and figure is about these groups.

    The splits, in this order: `overall`; those of `split_labels`; `target` (`repeat`, `new`).

    Args:
        user_metrics: one row per test user: user_id, repeat_target.
        user_groups: one row per user: user_id, train_length, popularity_ratio, then one string column per split.
        by_target: add the balanced splits with each group cut into its repeat and its new targets, if there are both.

    Returns:
        Columns user_id, split, group; the users of a group stand back to back.

    Raises:
        ValueError: see `split_labels`.
    """
    known = user_groups[user_groups[USER].isin(user_metrics[USER])]
    labels = split_labels(known)
    repeats = user_metrics[REPEAT_TARGET].map({True: REPEAT, False: NEW}).astype("string")
    everybody = pd.Series(OVERALL, index=user_metrics.index, dtype="string")
    parts = [
        _one_split(user_metrics[USER], OVERALL, everybody),
        *(_one_split(known[USER], split, groups) for split, groups in labels.items()),
        _one_split(user_metrics[USER], TARGET, repeats),
    ]
    if by_target and len(repeats.unique()) > 1:
        of_user = known[USER].map(repeats.set_axis(user_metrics[USER]))
        parts += [
            _one_split(known[USER], split + BY_TARGET, labels[split] + "-" + of_user)
            for split in STANDARD_SPLITS
            if split in labels
        ]
    return pd.concat(parts, ignore_index=True)


def split_labels(user_groups: pd.DataFrame) -> dict[str, pd.Series[str]]:
    """Group of every user in every split and attribute column of `user_groups`.

    Then in `atomic`, the crossing of pop33 and seq33 (groups `niche-short`, ...), where both are there. A user without
    a value of an attribute belongs to its group `unknown`.

    Args:
        user_groups: see `membership`.

    Returns:
        By split, with the index of `user_groups`.

    Raises:
        ValueError: a column of `user_groups` has the name of a split that is made here.
    """
    taken = {OVERALL, TARGET, ATOMIC} & set(user_groups.columns)
    if taken:
        message = f"user_groups has columns named {sorted(taken)}, which evaluation uses itself; rename the attributes"
        raise ValueError(message)
    labels = {
        column: user_groups[column].astype("string").fillna(UNKNOWN_ATTRIBUTE)
        for column in user_groups.columns
        if column not in {USER, TRAIN_LENGTH, POPULARITY_RATIO}
    }
    if all(split in labels for split in STANDARD_SPLITS):
        popularity, length = (labels[split] for split in STANDARD_SPLITS)
        labels[ATOMIC] = popularity + "-" + length
    return labels


def attribute_names(user_groups: pd.DataFrame) -> list[str]:
    """Columns of `user_groups` that the users brought: their groups are not those of a quantile split."""
    quantile_groups = [set(_GROUP_ORDER[:3]), set(_GROUP_ORDER[3:6])]
    columns = user_groups.columns.difference([USER, TRAIN_LENGTH, POPULARITY_RATIO], sort=False)
    return [name for name in columns if not any(set(user_groups[name]) <= groups for groups in quantile_groups)]


def group_metrics(user_metrics: pd.DataFrame, user_groups: pd.DataFrame) -> pd.DataFrame:
    """Mean of every metric over the users of every group.

    Args:
        user_metrics: one row per test user: user_id, repeat_target and the metrics.
        user_groups: see `membership`.

    Returns:
        Columns split, group, metric, n_users, value (in [0, 1]).
    """
    rows = membership(user_metrics, user_groups).merge(user_metrics[[USER, *METRICS]], on=USER)
    grouped = rows.groupby([SPLIT, GROUP], sort=False)
    means = grouped[list(METRICS)].mean()
    means.insert(0, N_USERS, grouped.size())
    return means.reset_index().melt([SPLIT, GROUP, N_USERS], var_name=METRIC, value_name=VALUE)[
        [SPLIT, GROUP, METRIC, N_USERS, VALUE]
    ]


def worst_groups(table: pd.DataFrame) -> pd.DataFrame:
    """The group with the lowest value of each split.

    Args:
        table: columns split, group, metric, value, of one arm.

    Returns:
        One row of `table` per split and metric.
    """
    return table.loc[table.groupby([SPLIT, METRIC], sort=False)[VALUE].idxmin()].reset_index(drop=True)


def gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Highest minus lowest group value of each split.

    Args:
        table: columns split, group, metric, value, of one arm.

    Returns:
        Columns split, metric, gap.
    """
    values = table.groupby([SPLIT, METRIC], sort=False)[VALUE]
    return (values.max() - values.min()).rename("gap").reset_index()


def metric_names(table: pd.DataFrame, role: str = "test") -> dict[str, float]:
    """Flat names for a tracker: test/ndcg_at_20/overall, test/ndcg_at_20/pop33/niche, test/ndcg_at_20/worst_group.

    The worst group is looked for among the groups of pop33 and seq33, whatever groups the loss was given, so that it
    means the same for every arm. The unbalanced splits are left out of it: the 20 long users of seq1080 on
    RetailRocket would decide it by chance. Without these two splits there is no such name.

    Args:
        table: from `group_metrics`.
        role: first part of every name.
    """
    names = {}
    for split, group, metric, value in table[[SPLIT, GROUP, METRIC, VALUE]].to_numpy().tolist():
        place = (split,) if split == OVERALL else (split, group)
        names[_tracker_name(role, metric, *place)] = float(value)
    worst = table[table[SPLIT].isin(STANDARD_SPLITS)].groupby(METRIC)[VALUE].min()
    return names | {_tracker_name(role, str(metric), "worst_group"): float(value) for metric, value in worst.items()}


def _one_split(users: pd.Series[int], split: str, groups: pd.Series[str]) -> pd.DataFrame:
    part = pd.DataFrame({USER: users, SPLIT: split, GROUP: groups})
    # by name too: the users of a group stand back to back also where two names have the same place in the order
    return part.assign(_key=_sort_key(groups)).sort_values(["_key", GROUP, USER]).drop(columns="_key")


def ordered_groups(groups: pd.Series[str]) -> list[str]:
    """The names of the groups of one split, in the order of every table."""
    names = pd.Series(sorted(groups.unique()), dtype="string")
    return names.loc[_sort_key(names).sort_values(kind="stable").index].tolist()


def _sort_key(groups: pd.Series[str]) -> pd.Series[str]:
    """Low to high for quantile groups and their crossings, alphabetical for everything else."""
    places = {name: f"{place}" for place, name in enumerate(_GROUP_ORDER)}
    return groups.map(
        {group: "-".join(places.get(part, part) for part in group.split("-")) for group in groups.unique()}
    )


def _tracker_name(*parts: str) -> str:
    # MLflow refuses every other character in the name of a metric.
    return "/".join(re.sub(r"[^\w.: -]", "_", part) for part in parts)
