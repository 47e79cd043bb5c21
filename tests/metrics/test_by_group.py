"""Groups and their metrics on four users, by hand."""

from __future__ import annotations

import re
from math import log2

import pandas as pd
import pytest
from mlflow.utils.validation import _validate_metric_name

from fairrec_pipeline.interactions.columns import ATOMIC
from fairrec_pipeline.metrics.by_group import (
    METRICS,
    attribute_names,
    extremes,
    group_means,
    group_metrics,
    is_quantile_split,
    membership,
    metric_names,
)

RANK_2 = 1 / log2(3)


@pytest.fixture
def users() -> pd.DataFrame:
    """Ranks 1, 2, 15 and a target that cannot be ranked."""
    return pd.DataFrame(
        {
            "user_id": [4, 7, 8, 9],
            "rank": pd.array([1, 2, 15, None], dtype="Int64"),
            "repeat_target": [True, False, False, True],
            "loss": [0.1, 0.7, 3.0, None],
            "ndcg_at_10": [1, RANK_2, 0, 0],
            "ndcg_at_20": [1, RANK_2, 0.25, 0],  # 1 / log2(1 + 15)
            "recall_at_10": [1, 1, 0, 0],
            "recall_at_20": [1, 1, 1, 0],
        }
    )


@pytest.fixture
def four_groups() -> pd.DataFrame:
    """Rows in another order than the metrics, and a user who was not tested."""
    return pd.DataFrame(
        {
            "user_id": [9, 8, 7, 4, 5],
            "train_length": [9, 5, 3, 2, 1],
            "popularity_ratio": [0.9, 0.4, 0.1, 0.1, 0.5],
            "pop33": ["popular", "diverse", "niche", "niche", "diverse"],
            "seq33": ["long", "medium", "short", "short", "short"],
            "age": ["25-34", None, "18-24", "25-34", "56+"],
        }
    )


def value(table: pd.DataFrame, split: str, group: str, metric: str = "ndcg_at_20") -> tuple[int, float]:
    row = table[(table["split"] == split) & (table["group"] == group) & (table["metric"] == metric)]
    return int(row["n_users"].item()), float(row["value"].item())


def test_every_split_is_a_mean_over_its_users(users, four_groups):
    table = group_metrics(users, four_groups)
    assert list(table.columns) == ["split", "group", "metric", "n_users", "value"]
    assert value(table, "overall", "overall") == (4, pytest.approx((1 + RANK_2 + 0.25 + 0) / 4))
    assert value(table, "pop33", "niche") == (2, pytest.approx((1 + RANK_2) / 2))
    assert value(table, "seq33", "long") == (1, 0)
    assert value(table, "atomic", "niche-short", "recall_at_10") == (2, 1)
    assert value(table, "target", "repeat") == (2, 0.5)
    assert value(table, "target", "new", "recall_at_20") == (2, 1)
    assert value(table, "age", "25-34") == (2, 0.5)
    assert value(table, "age", "unknown") == (1, 0.25)
    assert not ((table["split"] == "age") & (table["group"] == "56+")).any()


def test_groups_come_low_to_high(users, four_groups):
    table = group_metrics(users, four_groups)
    overall = table[table["metric"] == "ndcg_at_20"]
    assert overall.loc[overall["split"] == "seq33", "group"].tolist() == ["short", "medium", "long"]
    assert overall.loc[overall["split"] == "atomic", "group"].tolist() == [
        "niche-short",
        "diverse-medium",
        "popular-long",
    ]
    assert overall["split"].unique().tolist() == ["overall", "pop33", "seq33", "age", "atomic", "target"]


def test_every_split_partitions_the_users(users, four_groups):
    members = membership(users, four_groups)
    for _, split in members.groupby("split"):
        assert sorted(split["user_id"]) == users["user_id"].tolist()


def test_intersections_refine_both_splits(users, four_groups):
    members = membership(users, four_groups).set_index(["user_id", "split"])["group"].unstack()  # noqa: PD010
    assert (members[ATOMIC] == members["pop33"] + "-" + members["seq33"]).all()


def test_no_intersections_without_both_splits(users, four_groups):
    table = group_metrics(users, four_groups.drop(columns="seq33"))
    assert ATOMIC not in set(table["split"])


def test_inputs_stay_as_they_were(users, four_groups):
    before = users.copy(), four_groups.copy()
    group_metrics(users, four_groups)
    pd.testing.assert_frame_equal(users, before[0])
    pd.testing.assert_frame_equal(four_groups, before[1])


def test_worst_group_and_gap(users, four_groups):
    means = group_means(group_metrics(users, four_groups))
    found = extremes(means)
    assert found is not None
    assert (found.worst, found.worst_group) == (0, "popular")  # first of two; the zero of `new` targets does not count
    assert found.gaps == {"pop33": pytest.approx((1 + RANK_2) / 2), "seq33": pytest.approx((1 + RANK_2) / 2)}
    of_one = {group: mean for group, mean in means.items() if group[0] != "pop33"}
    assert list(extremes(of_one).gaps) == ["seq33"]
    assert extremes({("overall", "overall"): 0.5, ("age", "56+"): 0.1}) is None


def test_names_for_a_tracker(users, four_groups):
    names = metric_names(group_metrics(users, four_groups))
    assert names["test/ndcg_at_20/overall"] == pytest.approx((1 + RANK_2 + 0.25) / 4)
    assert names["test/ndcg_at_20/pop33/niche"] == pytest.approx((1 + RANK_2) / 2)
    assert names["test/recall_at_10/target/new"] == 0.5
    assert {f"test/{metric}/worst_group" for metric in METRICS} <= names.keys()
    assert names["test/ndcg_at_20/worst_group"] == 0


HOSTILE = [
    "a/b",
    "a_b",
    "a:b",
    "a\\b",
    "",
    ".",
    "..",
    "x" * 300,
    "x" * 300 + "y",
    "ü" * 240,
    "K-12 student",
    "56+",
    "56_",
]


def test_different_labels_have_different_names_that_mlflow_accepts(users):
    n = len(HOSTILE)
    metrics = pd.DataFrame({"user_id": range(n), "repeat_target": False} | dict.fromkeys(METRICS, 0.5))
    groups = pd.DataFrame({"user_id": range(n), "train_length": 3, "popularity_ratio": 0.5, "age": HOSTILE})
    groups["age/b"], groups["age"] = "c", groups["age"].astype("string")
    names = metric_names(group_metrics(metrics, groups))
    assert len(names) == len(METRICS) * (n + 1 + 1 + 1)  # values of age; of `age/b`; new targets; overall
    for name in names:
        assert len(name) <= 250
        _validate_metric_name(name)
    # one that needs no change looks as it always did, and no other may look like a changed one
    assert {"test/ndcg_at_20/age/a_b", "test/ndcg_at_20/age/K-12 student", "test/ndcg_at_20/age/56_"} <= names.keys()
    changed = [name for name in names if re.search(r":[0-9a-f]{8}$", name) and "ndcg_at_20" in name]
    assert len(changed) == n - 3 - 1 + 1  # but a_b, K-12 student, 56_ and a:b; and the group of `age/b`


def test_a_label_that_looks_like_a_changed_one_is_changed(users, four_groups):
    first = next(n for n in metric_names(group_metrics(users, four_groups.assign(age="a/b"))) if "20/age" in n)
    label = first.rpartition("/")[2]
    second = metric_names(group_metrics(users, four_groups.assign(age=label)))
    assert first not in second


def test_an_attribute_must_not_take_the_name_of_a_split(users, four_groups):
    with pytest.raises(ValueError, match=r"\['target'\].*rename"):
        membership(users, four_groups.rename(columns={"age": "target"}))


def test_groups_are_cut_by_target_on_request(users, four_groups):
    names = membership(users, four_groups, by_target=True)
    cut = names[names["split"] == "pop33 by target"].set_index("user_id")["group"].to_dict()
    assert cut == {4: "niche-repeat", 7: "niche-new", 8: "diverse-new", 9: "popular-repeat"}
    only_new = membership(users.assign(repeat_target=False), four_groups, by_target=True)
    assert not only_new["split"].str.contains("by target").any()  # the groups themselves say it all


def test_attributes_are_the_columns_that_no_quantile_made(four_groups):
    assert attribute_names(four_groups.assign(seq1080="short", height="short")) == ["age", "height"]
    assert is_quantile_split("pop1080", ["niche", "popular"])
    assert not is_quantile_split("pop1080", ["short"])
