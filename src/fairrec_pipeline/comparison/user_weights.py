"""Whom a method trained on: who gets the weight of a loss that knows no groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.selection import by_arm
from fairrec_pipeline.interactions.columns import POPULARITY_RATIO, TRAIN_LENGTH, USER
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.metrics.by_group import GROUP, N_USERS, SPLIT, attribute_names, ordered_groups, split_labels

if TYPE_CHECKING:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

REPEAT_SHARE = "repeat_share"
_WINDOWS = 10
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
    for arm, weights in _user_weights(records).items():
        drawn, mass = _sums(weights, user_groups)
        for split, labels in split_labels(user_groups).items():
            names = ordered_groups(labels)
            codes = pd.Categorical(labels, names).codes
            cells = pd.MultiIndex.from_product([names, [*range(_WINDOWS), None]], names=[GROUP, "window"])
            part = cells.to_frame(index=False).assign(arm=arm, split=split)
            part[N_USERS] = np.bincount(codes).repeat(_WINDOWS + 1)
            parts.append(part.assign(draw_share=_shares(drawn, codes), weight_share=_shares(mass, codes)))
    shares = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["draw_share", "weight_share"])
    shares["lift"] = shares["weight_share"] / shares["draw_share"]
    # an arm that stopped early has windows without draws
    return shares.dropna(subset="draw_share").reindex(columns=list(_SHARE_COLUMNS)).astype(_SHARE_COLUMNS)


def _shares(of_users: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Share of every group in each window and, last, in the whole training, group by group.

    Args:
        of_users: (n_users, windows) what is shared.
        groups: (n_users,) codes.
    """
    sums = np.zeros((groups.max() + 1, _WINDOWS + 1))
    np.add.at(sums[:, :_WINDOWS], groups, of_users)
    sums[:, _WINDOWS] = sums[:, :_WINDOWS].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: np.ndarray = sums / sums.sum(axis=0)
    return shares.ravel()


def weight_rules(records: Iterable[ArmRecord], user_groups: pd.DataFrame, *features: pd.Series[float]) -> pd.DataFrame:
    """Rules that say which users got more than erm's weight: a decision tree of depth 3 per arm.

    Erm's weight is the arm's mean: 1 where the weights of a batch sum to one, as most methods' do.

    Args:
        records: compared arms. Those without user_weights, and those in which no user is above erm, are left out.
        user_groups: see `by_group.membership`. The tree sees train_length, popularity_ratio and the attributes.
        features: further ones that it sees (see `user_features`).

    Returns:
        One row per leaf of an arm's tree, highest lift first: arm, rule (text), n_users, above_erm (share of its users
        whose mean weight is above erm's), draw_share, weight_share, lift; above_erm_overall and accuracy (balanced, on
        the same users: 0.5 says that the tree tells nothing) are those of the arm.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    parts = []
    for arm, weights in _user_weights(records).items():
        drawn, mass = (each.sum(axis=1) for each in _sums(weights, user_groups))
        seen = drawn > 0
        drawn, mass = drawn[seen], mass[seen]
        # not every method's weights sum to one: above its mean, which is erm's where they do
        above = mass / drawn > (1 + 1e-5) * mass.sum() / drawn.sum()
        if above.all() or not above.any():
            continue
        # a leaf that is pure but for rounding stays one
        tree = DecisionTreeClassifier(min_impurity_decrease=1e-6, class_weight="balanced", **tree_options(len(above)))
        known = user_features(user_groups[seen], *features)
        leaves = pd.DataFrame(
            {
                "rule": rule,
                N_USERS: users.sum(),
                "above_erm": above[users].mean(),
                "draw_share": drawn[users].sum() / drawn.sum(),
                "weight_share": mass[users].sum() / mass.sum(),
            }
            for rule, users in fitted_leaves(tree, known, above).items()
        )
        lift = leaves["weight_share"] / leaves["draw_share"]
        accuracy = balanced_accuracy_score(above, tree.predict(known.to_numpy()))
        leaves = leaves.assign(arm=arm, lift=lift, above_erm_overall=above.mean(), accuracy=accuracy)
        parts.append(leaves.sort_values("lift", ascending=False))
    rules = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return rules.reindex(columns=list(_RULE_COLUMNS)).astype(_RULE_COLUMNS)


def _user_weights(records: Iterable[ArmRecord]) -> dict[str, pd.DataFrame]:
    """By arm, the user_weights of all its seeds."""
    weighing = by_arm(record for record in records if record.user_weights is not None)
    return {arm: pd.concat([seed.user_weights for seed in seeds]) for arm, seeds in weighing.items()}


def _sums(weights: pd.DataFrame, user_groups: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Draws, and weight times draws, (n_users, windows) each."""
    user = pd.Index(user_groups[USER]).get_indexer(pd.Index(weights[USER]))
    weights, user = weights[user >= 0], user[user >= 0]
    drawn = weights["drawn"].to_numpy(np.float64)
    # weights are means of 32-bit numbers; what differs from 1 by their rounding is 1
    mass = drawn * weights["weight"].to_numpy(np.float64).round(5)
    cells, shape = (user, weights["window"].to_numpy()), (len(user_groups), _WINDOWS)
    draws, masses = (sparse.coo_array((values, cells), shape=shape).toarray() for values in (drawn, mass))
    return draws, masses


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


def tree_options(n_users: int) -> dict[str, Any]:
    """What every decision tree of users has in common; `n_users` is how many it is fitted to."""
    return {"max_depth": 3, "min_samples_leaf": least_leaf(n_users), "random_state": 0}


def fitted_leaves(
    tree: DecisionTreeClassifier | DecisionTreeRegressor, features: pd.DataFrame, target: np.ndarray, chosen: Any = ...
) -> dict[str, np.ndarray]:
    """Fit a tree that tells the target (n_users,) of the chosen users from their features.

    Returns:
        Which users, (n_users,) bool, are in a leaf, by its rule: bounds of the same feature are drawn together.
    """
    known, names = features.to_numpy(), list(features.columns)
    leaf = tree.fit(known[chosen], target[chosen]).apply(known)
    nodes = tree.tree_
    leaves: dict[str, np.ndarray] = {}

    def walk(node: int, bounds: dict[str, tuple[float, float]]) -> None:
        if nodes.children_left[node] == nodes.children_right[node]:
            rule = " and ".join(_condition(name, *ends) for name, ends in bounds.items()) or "everybody"
            leaves[rule] = leaf == node
            return
        name, threshold = names[nodes.feature[node]], float(nodes.threshold[node])
        low, high = bounds.get(name, (-np.inf, np.inf))
        walk(int(nodes.children_left[node]), bounds | {name: (low, min(high, threshold))})
        walk(int(nodes.children_right[node]), bounds | {name: (max(low, threshold), high)})

    walk(0, {})
    return leaves


def _condition(name: str, low: float, high: float) -> str:
    """Text of low < feature <= high."""
    if " = " in name:  # a value of an attribute: 0 or 1
        return name if low > 0 else name.replace(" = ", " is not ")
    digits = 1 if name == TRAIN_LENGTH else 3
    below, above = f" <= {high:.{digits}f}", f"{low:.{digits}f} < "
    return f"{above if low > -np.inf else ''}{name}{below if high < np.inf else ''}"
