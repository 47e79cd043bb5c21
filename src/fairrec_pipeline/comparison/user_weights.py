"""Whom a method trained on: who gets the weight of a loss that knows no groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.selection import by_arm
from fairrec_pipeline.interactions.columns import POPULARITY_RATIO, TRAIN_LENGTH, USER
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.metrics.by_group import GROUP, N_USERS, SPLIT, attribute_names, ordered_groups, split_labels

if TYPE_CHECKING:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

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


def repeat_share(train: Histories) -> pd.Series[float]:
    """Share of a user's training interactions with an item that the user had before.

    Args:
        train: training histories.

    Returns:
        By user_id, in [0, 1).
    """
    pairs = np.unique(train.event_users * train.n_items + train.items)
    distinct = np.bincount(pairs // train.n_items, minlength=train.n_users)
    return pd.Series(1 - distinct / train.lengths, index=train.users, name=REPEAT_SHARE)


def weight_shares(records: Iterable[ArmRecord], user_groups: pd.DataFrame) -> pd.DataFrame:
    """Share of the training weight that went to each group, beside its share of the draws.

    A user's weight counts as often as the user was drawn; the seeds of an arm are added up. In erm both shares are the
    same: who is drawn is drawn with weight 1.

    Args:
        records: compared arms; those without user_weights are left out.
        user_groups: see `by_group.membership`. Every split, the nine intersections and every attribute count.

    Returns:
        Columns arm, split, group, window (0 to 9, a tenth of the budget each; null: the whole training), n_users,
        draw_share, weight_share (in [0, 1]), lift (their ratio; null without draws).
    """
    parts = []
    codes = {}
    for split, labels in split_labels(user_groups).items():
        names = ordered_groups(labels)
        codes[split] = names, pd.Categorical(labels, names).codes
    for arm, weights in _user_weights(records).items():
        sums = _sums(weights, user_groups)
        for split, (names, of_users) in codes.items():
            windows = pd.MultiIndex.from_product([names, [*range(_WINDOWS), None]], names=[GROUP, "window"])
            part = windows.to_frame(index=False).assign(arm=arm, split=split)
            part[N_USERS] = np.bincount(of_users, minlength=len(names)).repeat(_WINDOWS + 1)
            for name, by_window in zip(("draw_share", "weight_share"), sums, strict=True):
                groups = np.zeros((len(names), _WINDOWS))
                np.add.at(groups, of_users, by_window)
                groups = np.hstack([groups, groups.sum(axis=1, keepdims=True)])
                with np.errstate(invalid="ignore", divide="ignore"):
                    part[name] = (groups / groups.sum(axis=0)).ravel()
            # an arm that stopped early has windows without draws
            parts.append(part.dropna(subset="draw_share"))
    shares = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["draw_share", "weight_share"])
    shares["lift"] = shares["weight_share"] / shares["draw_share"]
    return shares.reindex(columns=list(_SHARE_COLUMNS)).astype(_SHARE_COLUMNS)


def weight_rules(
    records: Iterable[ArmRecord], user_groups: pd.DataFrame, repeats: pd.Series[float] | None = None
) -> pd.DataFrame:
    """Rules that say which users got more than erm's weight: a decision tree of depth 3 per arm.

    Erm's weight is the arm's mean: 1 where the weights of a batch sum to one, as most methods' do.

    Args:
        records: compared arms. Those without user_weights, and those in which no user is above erm, are left out.
        user_groups: see `by_group.membership`. The tree sees train_length, popularity_ratio and the attributes.
        repeats: from `repeat_share`; None: the tree does not see it.

    Returns:
        One row per leaf of an arm's tree, highest lift first: arm, rule (text), n_users, above_erm (share of its users
        whose mean weight is above erm's), draw_share, weight_share, lift; above_erm_overall and accuracy (balanced, on
        the same users: 0.5 says that the tree tells nothing) are those of the arm.
    """
    parts = []
    for arm, weights in _user_weights(records).items():
        drawn, mass = (each.sum(axis=1) for each in _sums(weights, user_groups))
        seen = drawn > 0
        # not every method's weights sum to one: above its mean, which is erm's where they do
        above = mass[seen] / drawn[seen] > (1 + 1e-5) * mass.sum() / drawn.sum()
        if above.all() or not above.any():
            continue
        part = _leaves(
            user_features(user_groups[seen], *([] if repeats is None else [repeats])), above, drawn[seen], mass[seen]
        )
        parts.append(part.sort_values("lift", ascending=False).assign(arm=arm, above_erm_overall=above.mean()))
    rules = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return rules.reindex(columns=list(_RULE_COLUMNS)).astype(_RULE_COLUMNS)


def _user_weights(records: Iterable[ArmRecord]) -> dict[str, pd.DataFrame]:
    """By arm, the user_weights of all its seeds."""
    tables = {
        arm: [record.user_weights for record in seeds if record.user_weights is not None]
        for arm, seeds in by_arm(records).items()
    }
    return {arm: pd.concat(of_seeds, ignore_index=True) for arm, of_seeds in tables.items() if of_seeds}


def _sums(weights: pd.DataFrame, user_groups: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Draws, and weight times draws, (n_users, windows) each."""
    user = pd.Index(user_groups[USER]).get_indexer(pd.Index(weights[USER]))
    weights, user = weights[user >= 0], user[user >= 0]
    cell = user * _WINDOWS + weights["window"].to_numpy()
    drawn = weights["drawn"].to_numpy(np.float64)
    # weights are means of 32-bit numbers; what differs from 1 by their rounding is 1
    weight = weights["weight"].to_numpy(np.float64).round(5)
    size, shape = len(user_groups) * _WINDOWS, (len(user_groups), _WINDOWS)
    return (
        np.bincount(cell, weights=drawn, minlength=size).reshape(shape),
        np.bincount(cell, weights=drawn * weight, minlength=size).reshape(shape),
    )


def user_features(user_groups: pd.DataFrame, *more: pd.Series[float]) -> pd.DataFrame:
    """What a decision tree sees of every user: training length, popularity ratio, attributes, and more.

    Args:
        user_groups: see `by_group.membership`.
        more: named features by user_id; a user without a value has 0.

    Returns:
        One column per feature, rows as in `user_groups`; an attribute has a column of 0 and 1 for every frequent value.
    """
    features = {name: user_groups[name].astype(np.float64) for name in (TRAIN_LENGTH, POPULARITY_RATIO)}
    features |= {str(each.name): user_groups[USER].map(each).fillna(0.0) for each in more}
    labels = split_labels(user_groups)
    for attribute in attribute_names(user_groups):
        sizes = labels[attribute].value_counts().sort_index()
        values = sizes.index[sizes >= least_leaf(len(user_groups))]  # no leaf can hold the others alone
        for value in values[: 1 if len(sizes) == 2 else None]:  # of two, one says which
            features[f"{attribute} = {value}"] = (labels[attribute] == value).astype(np.float64)
    return pd.DataFrame(features).reset_index(drop=True)


def least_leaf(n_users: int) -> int:
    """Users that a leaf of a decision tree has at least: 1 %, but 20 if that is not more than a quarter."""
    return min(max(20, n_users // 100), max(1, n_users // 4))


def _leaves(features: pd.DataFrame, above: np.ndarray, drawn: np.ndarray, mass: np.ndarray) -> pd.DataFrame:
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(
        max_depth=_DEPTH,
        min_samples_leaf=least_leaf(len(above)),
        min_impurity_decrease=1e-6,  # a leaf that is pure but for rounding stays one
        class_weight="balanced",
        random_state=0,
    )
    tree.fit(features.to_numpy(), above)
    leaf = tree.apply(features.to_numpy())
    rows = []
    for node, rule in tree_rules(tree, list(features.columns)).items():
        users = leaf == node
        draw_share, weight_share = drawn[users].sum() / drawn.sum(), mass[users].sum() / mass.sum()
        rows.append(
            {
                "rule": rule,
                N_USERS: int(users.sum()),
                "above_erm": above[users].mean(),
                "draw_share": draw_share,
                "weight_share": weight_share,
                "lift": weight_share / draw_share,
            }
        )
    return pd.DataFrame(rows).assign(accuracy=balanced_accuracy_score(above, tree.predict(features.to_numpy())))


def tree_rules(tree: DecisionTreeClassifier | DecisionTreeRegressor, names: list[str]) -> dict[int, str]:
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
