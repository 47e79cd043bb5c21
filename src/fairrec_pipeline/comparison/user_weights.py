"""Whom a method trained on: who gets the weight of a loss that was told no groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fairrec_pipeline.comparison.comparison import TrainedArm
from fairrec_pipeline.metrics.by_group import (
    GROUP,
    N_USERS,
    SPLIT,
    attribute_names,
    ordered_groups,
    split_labels,
)
from fairrec_pipeline.interactions.columns import ITEM, POPULARITY_RATIO, ROLE, TRAIN, TRAIN_LENGTH, USER

if TYPE_CHECKING:
    from sklearn.tree import DecisionTreeClassifier

REPEAT_SHARE = "repeat_share"
_WINDOWS = 10
_DEPTH = 3
_SHARE_COLUMNS = {
    **dict.fromkeys(("arm", SPLIT, GROUP), "string"),
    "window": "Int64",
    N_USERS: "int64",
    **dict.fromkeys(("draw_share", "weight_share", "lift"), "float64"),
}
_RULE_COLUMNS = {
    **dict.fromkeys(("arm", "rule"), "string"),
    N_USERS: "int64",
    **dict.fromkeys(("above_erm", "draw_share", "weight_share", "lift", "above_erm_overall", "accuracy"), "float64"),
}


def repeat_share(interactions: pd.DataFrame) -> pd.Series[float]:
    """Share of a user's training interactions with an item that the user had before.

    Args:
        interactions: columns user_id, item_id, role.

    Returns:
        By user_id, in [0, 1).
    """
    items = interactions[interactions[ROLE] == TRAIN].groupby(USER)[ITEM]
    return (1 - items.nunique() / items.size()).rename(REPEAT_SHARE)


def weight_shares(runs: Mapping[str, Iterable[TrainedArm]], user_groups: pd.DataFrame) -> pd.DataFrame:
    """Share of the training weight that went to each group, beside its share of the draws.

    A user's weight counts as often as the user was drawn; the seeds of an arm are added up. In erm both shares are the
    same: who is drawn is drawn with weight 1.

    Args:
        runs: compared runs by arm; those without user_weights are left out.
        user_groups: see `group_metrics.membership`. Every split, the nine intersections and every attribute count.

    Returns:
        Columns arm, split, group, window (0 to 9, a tenth of the budget each; null: the whole training), n_users,
        draw_share, weight_share (in [0, 1]), lift (their ratio; null without draws).
    """
    parts = []
    labels = split_labels(user_groups)
    for arm, own in _kept(runs).items():
        drawn, mass = _sums(own, user_groups)
        for split, groups in labels.items():
            names = ordered_groups(groups)
            of_group = np.stack([(groups == name).to_numpy(np.float64) for name in names])
            sums = [of_group @ each for each in (drawn, mass)]
            totals = [np.hstack([each, each.sum(axis=1, keepdims=True)]) for each in sums]
            with np.errstate(invalid="ignore", divide="ignore"):
                draw_share, weight_share = (each / each.sum(axis=0) for each in totals)
                lift = weight_share / draw_share
            windows = pd.array([*range(_WINDOWS), None], dtype="Int64")
            part = pd.DataFrame(
                {
                    GROUP: np.repeat(np.array(names, dtype=object), _WINDOWS + 1),
                    "window": pd.concat([pd.Series(windows)] * len(names), ignore_index=True),
                    N_USERS: np.repeat(of_group.sum(axis=1), _WINDOWS + 1),
                    "draw_share": draw_share.ravel(),
                    "weight_share": weight_share.ravel(),
                    "lift": lift.ravel(),
                }
            )
            # an arm that stopped early has windows without draws
            parts.append(part.dropna(subset="draw_share").assign(arm=arm, split=split))
    shares = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return shares.reindex(columns=list(_SHARE_COLUMNS)).astype(_SHARE_COLUMNS)


def found_users(
    runs: Mapping[str, Iterable[TrainedArm]], user_groups: pd.DataFrame, repeats: pd.Series[float] | None = None
) -> pd.DataFrame:
    """Rules that say which users got more than erm's weight: a decision tree of depth 3 per arm.

    Erm's weight is the arm's mean: 1 where the weights of a batch sum to one, as most methods' do.

    Args:
        runs: compared runs by arm; those without user_weights, and those in which no user is above erm, are left out.
        user_groups: see `group_metrics.membership`. The tree sees train_length, popularity_ratio and the attributes.
        repeats: from `repeat_share`; None: the tree does not see it.

    Returns:
        One row per leaf of an arm's tree, highest lift first: arm, rule (text), n_users, above_erm (share of its users
        whose mean weight is above erm's), draw_share, weight_share, lift; above_erm_overall and accuracy (balanced, on
        the same users: 0.5 says that the tree tells nothing) are those of the arm.
    """
    features = _features(user_groups, repeats)
    parts = []
    for arm, own in _kept(runs).items():
        drawn, mass = (each.sum(axis=1) for each in _sums(own, user_groups))
        seen = drawn > 0
        # not every method's weights sum to one: above its mean, which is erm's where they do
        above = mass[seen] / drawn[seen] > (1 + 1e-5) * mass.sum() / drawn.sum()
        if above.all() or not above.any():
            continue
        part = _leaves(features[seen], above, drawn[seen], mass[seen])
        parts.append(part.sort_values("lift", ascending=False).assign(arm=arm, above_erm_overall=above.mean()))
    rules = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return rules.reindex(columns=list(_RULE_COLUMNS)).astype(_RULE_COLUMNS)


def _kept(runs: Mapping[str, Iterable[TrainedArm]]) -> dict[str, list[pd.DataFrame]]:
    weights = {arm: [run.user_weights for run in own if run.user_weights is not None] for arm, own in runs.items()}
    return {arm: own for arm, own in weights.items() if own}


def _sums(weights: list[pd.DataFrame], user_groups: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Draws, and weight times draws, (n_users, windows) each, over the seeds."""
    every = pd.concat(weights, ignore_index=True)
    place = pd.Index(user_groups[USER]).get_indexer(pd.Index(every[USER]))
    every, place = every[place >= 0], place[place >= 0]
    at = place * _WINDOWS + every["window"].to_numpy()
    drawn = every["drawn"].to_numpy(np.float64)
    # weights are means of 32-bit numbers; what differs from 1 by their rounding is 1
    weight = every["weight"].to_numpy(np.float64).round(5)
    size, shape = len(user_groups) * _WINDOWS, (len(user_groups), _WINDOWS)
    return (
        np.bincount(at, weights=drawn, minlength=size).reshape(shape),
        np.bincount(at, weights=drawn * weight, minlength=size).reshape(shape),
    )


def _features(user_groups: pd.DataFrame, repeats: pd.Series[float] | None) -> pd.DataFrame:
    features = user_groups[[TRAIN_LENGTH, POPULARITY_RATIO]].astype(np.float64)
    if repeats is not None:
        features[REPEAT_SHARE] = user_groups[USER].map(repeats).fillna(0.0)
    labels = split_labels(user_groups)
    for attribute in attribute_names(user_groups):
        values = sorted(labels[attribute].unique())
        for value in values[: 1 if len(values) == 2 else None]:  # of two, one says which
            features[f"{attribute} = {value}"] = (labels[attribute] == value).astype(np.float64)
    return features.reset_index(drop=True)


def _leaves(features: pd.DataFrame, above: np.ndarray, drawn: np.ndarray, mass: np.ndarray) -> pd.DataFrame:
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    least = min(max(20, len(above) // 100), max(1, len(above) // 4))
    tree = DecisionTreeClassifier(
        max_depth=_DEPTH,
        min_samples_leaf=least,
        min_impurity_decrease=1e-6,  # a leaf that is pure but for rounding stays one
        class_weight="balanced",
        random_state=0,
    )
    tree.fit(features.to_numpy(), above)
    leaf = tree.apply(features.to_numpy())
    rows = []
    for node, rule in _rules(tree, list(features.columns)).items():
        own = leaf == node
        draw_share, weight_share = drawn[own].sum() / drawn.sum(), mass[own].sum() / mass.sum()
        rows.append(
            {
                "rule": rule,
                N_USERS: int(own.sum()),
                "above_erm": above[own].mean(),
                "draw_share": draw_share,
                "weight_share": weight_share,
                "lift": weight_share / draw_share,
            }
        )
    return pd.DataFrame(rows).assign(accuracy=balanced_accuracy_score(above, tree.predict(features.to_numpy())))


def _rules(tree: DecisionTreeClassifier, names: list[str]) -> dict[int, str]:
    """Conditions of every leaf, bounds of the same feature drawn together."""
    nodes = tree.tree_
    rules: dict[int, str] = {}

    def walk(node: int, bounds: dict[str, tuple[float, float]]) -> None:
        if nodes.children_left[node] == nodes.children_right[node]:
            rules[node] = " and ".join(_condition(name, *ends) for name, ends in bounds.items()) or "everybody"
            return
        name, threshold = names[nodes.feature[node]], float(nodes.threshold[node])
        low, high = bounds.get(name, (-np.inf, np.inf))
        walk(int(nodes.children_left[node]), bounds | {name: (low, min(high, threshold))})
        walk(int(nodes.children_right[node]), bounds | {name: (max(low, threshold), high)})

    walk(0, {})
    return rules


def _condition(name: str, low: float, high: float) -> str:
    """Text of low < feature <= high."""
    if " = " in name:  # a value of an attribute: 0 or 1
        return name if low > 0 else name.replace(" = ", " is not ")
    digits = 1 if name == TRAIN_LENGTH else 3
    below, above = f" <= {high:.{digits}f}", f"{low:.{digits}f} < "
    return f"{above if low > -np.inf else ''}{name}{below if high < np.inf else ''}"
