"""One row per user becomes one row per group: who is served how well."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import (
    ATOMIC,
    LENGTH_GROUPS,
    POPULARITY_GROUPS,
    STANDARD_SPLITS,
    UNKNOWN_LABEL,
    USER,
)
from fairrec_pipeline.interactions.statistics import label_columns

REPEAT_TARGET = "repeat_target"
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
BY_TARGET = " by target"
"""Ends the name of a balanced split whose groups are cut by `target`: `pop33 by target`, `niche-repeat`."""

_QUANTILE_GROUPS = {"pop": POPULARITY_GROUPS, "seq": LENGTH_GROUPS}
_GROUP_ORDER = (*POPULARITY_GROUPS, *LENGTH_GROUPS, REPEAT, NEW)

# What MLflow allows in the name of a metric, and how long the name may be.
_FORBIDDEN = re.compile(r"[^\w.: -]")
_LONGEST_NAME = 250
_HASHED = re.compile(r":[0-9a-f]{8}$")


class Extremes(NamedTuple):
    """Lowest mean of a group of the balanced splits, its name, and by split the highest minus the lowest mean."""

    worst: float
    worst_group: str
    gaps: dict[str, float]


def membership(user_metrics: pd.DataFrame, user_groups: pd.DataFrame, *, by_target: bool = False) -> pd.DataFrame:
    """Which users form which group. Every table, test and figure is about these groups.

    The splits, in this order: `overall`; those of `split_labels`; `target` (`repeat`, `new`).

    Args:
        user_metrics: one row per test user: user_id, repeat_target.
        user_groups: one row per user: user_id, train_length, popularity_ratio, then one string column per split.
        by_target: add the balanced splits with each group cut into its repeat and its new targets, if there are both.

    Returns:
        Columns user_id, split, group; the users of a group stand back to back.

    Raises:
        DataError: see `split_labels`.
    """
    targets = user_metrics.set_index(USER)[REPEAT_TARGET].map({True: REPEAT, False: NEW}).astype("string")
    labels = split_labels(user_groups[user_groups[USER].isin(targets.index)].set_index(USER))
    splits = {OVERALL: pd.Series(OVERALL, targets.index, dtype="string"), **labels, TARGET: targets}
    if by_target and len(targets.unique()) > 1:
        balanced = [split for split in STANDARD_SPLITS if split in labels]
        splits |= {split + BY_TARGET: labels[split] + "-" + targets.loc[labels[split].index] for split in balanced}
    return pd.concat([_one_split(split, groups) for split, groups in splits.items()], ignore_index=True)


def split_labels(user_groups: pd.DataFrame) -> dict[str, pd.Series[str]]:
    """Group of every user by split and attribute of `user_groups` (see `membership`), with its index.

    Where there are pop33 and seq33, their crossing `atomic` follows (groups `niche-short`, ...). A user without a value
    of an attribute belongs to its group `unknown`.

    Raises:
        DataError: a column of `user_groups` has the name of a split that is made here.
    """
    clashes = {OVERALL, TARGET, ATOMIC} & set(user_groups.columns)
    if clashes:
        names = sorted(clashes)
        raise DataError(f"user_groups has columns named {names}, which evaluation uses itself; rename the attributes")
    columns = label_columns(user_groups)
    labels = {column: user_groups[column].astype("string").fillna(UNKNOWN_LABEL) for column in columns}
    if all(split in labels for split in STANDARD_SPLITS):
        popularity, length = (labels[split] for split in STANDARD_SPLITS)
        labels[ATOMIC] = popularity + "-" + length
    return labels


def is_quantile_split(split: str, groups: Iterable[str]) -> bool:
    """Whether a split with these groups is one by popularity (niche, diverse, popular) or length (short, ...)."""
    return set(groups) <= set(_QUANTILE_GROUPS.get(split[:3], ()))


def attribute_names(user_groups: pd.DataFrame) -> list[str]:
    """Columns of `user_groups` that are attributes of the users and no quantile splits."""
    return [name for name in label_columns(user_groups) if not is_quantile_split(name, user_groups[name])]


def group_metrics(user_metrics: pd.DataFrame, user_groups: pd.DataFrame) -> pd.DataFrame:
    """Mean of every metric in `user_metrics` over the users of every group (see `membership`).

    Returns:
        Columns split, group, metric, n_users, value (in [0, 1]).
    """
    rows = membership(user_metrics, user_groups).merge(user_metrics[[USER, *METRICS]], on=USER)
    grouped = rows.groupby([SPLIT, GROUP], sort=False)
    means = grouped[list(METRICS)].mean()
    means.insert(0, N_USERS, grouped.size())
    tidy = means.reset_index().melt([SPLIT, GROUP, N_USERS], var_name=METRIC, value_name=VALUE)
    return tidy[[SPLIT, GROUP, METRIC, N_USERS, VALUE]]


def group_means(table: pd.DataFrame, metric: str = HEADLINE_METRIC) -> dict[tuple[str, str], float]:
    """Values of one metric by (split, group), from a table of one arm with the columns split, group, metric, value."""
    rows = table.loc[table[METRIC] == metric, [SPLIT, GROUP, VALUE]]
    return {(split, group): float(value) for split, group, value in rows.itertuples(index=False)}


def extremes(means: Mapping[tuple[str, str], float]) -> Extremes | None:
    """The worst group of the balanced splits and their gaps; None if there are no such splits.

    The groups of pop33 and seq33 alone count, whatever groups the loss was given, so that it means the same for every
    arm. The unbalanced splits are left out: the 20 long users of seq1080 on RetailRocket would decide it by chance.
    """
    balanced = {group: mean for group, mean in means.items() if group[0] in STANDARD_SPLITS}
    if not balanced:
        return None
    worst = min(balanced, key=lambda group: balanced[group])
    of_splits = {name: [mean for (split, _), mean in balanced.items() if split == name] for name in STANDARD_SPLITS}
    gaps = {split: max(values) - min(values) for split, values in of_splits.items() if values}
    return Extremes(balanced[worst], worst[1], gaps)


def metric_names(table: pd.DataFrame) -> dict[str, float]:
    """Flat names for a tracker: test/ndcg_at_20/overall, test/ndcg_at_20/pop33/niche, test/ndcg_at_20/worst_group.

    Different groups have different names that MLflow accepts: at most 250 letters, digits and `_ - . : /` or spaces. A
    name that had to be changed or cut ends in `:` and eight digits of a hash of what it stands for. The worst group is
    that of `extremes`; without pop33 and seq33 it has no name. The table is that of `group_metrics`.
    """
    names = {}
    for metric in dict.fromkeys(table[METRIC]):
        means = group_means(table, metric)
        for (split, group), mean in means.items():
            names[_tracker_name("test", metric, *((split,) if split == OVERALL else (split, group)))] = mean
        if (extreme := extremes(means)) is not None:
            names[_tracker_name("test", metric, "worst_group")] = extreme.worst
    return names


def ordered_groups(groups: pd.Series[str]) -> list[str]:
    """Names of the groups of one split: low to high for quantile groups and their crossings, others alphabetical."""
    order = {name: f"{index}" for index, name in enumerate(_GROUP_ORDER)}
    return sorted(groups.unique(), key=lambda name: ("-".join(order.get(part, part) for part in name.split("-")), name))


def _one_split(split: str, groups: pd.Series[str]) -> pd.DataFrame:
    part = pd.DataFrame({USER: groups.index, SPLIT: split, GROUP: groups.array})
    place = pd.Categorical(groups, ordered_groups(groups)).codes
    return part.assign(_place=place).sort_values(["_place", USER]).drop(columns="_place")


def _tracker_name(*parts: str) -> str:
    # MLflow reads a name as a path, in which a part of dots alone has another meaning.
    name = "/".join(_FORBIDDEN.sub("_", part) if part.strip(".") else "_" for part in parts)
    if name == "/".join(parts) and len(name) <= _LONGEST_NAME and not _HASHED.search(name):
        return name
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9]}:{digest}"
