"""Counts, shares and the fingerprint."""

from __future__ import annotations

import pandas as pd

from fairrec_pipeline.interactions.statistics import dataset_statistics, fingerprint, prepared_with
from fairrec_pipeline.parameters.blocks import Groups, Source, Split

INTERACTIONS = pd.DataFrame(
    {
        "user_id": [1, 1, 1, 2, 2],
        "item_id": [5, 6, 5, 7, 6],
        "timestamp": [1, 2, 3, 1, 2],
        "position": [0, 1, 2, 0, 1],
        "role": ["train", "validation", "test", "train", "test"],
    }
)
USER_GROUPS = pd.DataFrame(
    {"user_id": [1, 2], "train_length": [3, 1], "popularity_ratio": [0.0, 1.0], "pop33": ["popular", "niche"]}
)


def test_counts_and_shares() -> None:
    found = dataset_statistics(INTERACTIONS, USER_GROUPS)
    assert {name: value for name, value in found.items() if name.startswith("n_")} == {
        "n_users": 2, "n_items": 3, "n_interactions": 5, "n_train": 2, "n_validation": 1, "n_test": 2,
    }  # fmt: skip
    assert found["group_shares"] == {
        "pop33": {"niche": {"users": 50, "interactions": 25}, "popular": {"users": 50, "interactions": 75}}
    }
    assert list(found["group_shares"]["pop33"]) == ["niche", "popular"]


def test_fingerprint_is_of_the_content_alone() -> None:
    same = fingerprint(INTERACTIONS.sample(frac=1, random_state=0)[INTERACTIONS.columns[::-1]], USER_GROUPS[::-1])
    assert same == fingerprint(INTERACTIONS, USER_GROUPS)
    assert len(same) == 64
    assert fingerprint(INTERACTIONS.replace({"item_id": {7: 8}}), USER_GROUPS) != same
    assert fingerprint(INTERACTIONS, USER_GROUPS.replace("niche", "diverse")) != same
    assert fingerprint(INTERACTIONS.rename(columns={"position": "place"}), USER_GROUPS) != same


def test_prepared_with_holds_what_the_data_depend_on() -> None:
    split = Split(core=5, validation_users=0.5, seed=1)
    groups = Groups(popular_quantile=0.8, splits={"pop1080": (0.1, 0.8, 0.1)})
    source = {"adapter": "synthetic", "n_users": 10, "n_items": 10, "seed": 0}
    plain = prepared_with("a", Source.model_validate(source), split, groups)
    other = Source.model_validate({**source, "parameters": {"train": {"epochs": 1}}})
    assert prepared_with("a", other, split, groups) == plain
    assert plain == {
        "dataset": "a",
        "source": source,
        "split": {"core": 5, "validation_users": 0.5, "seed": 1},
        "groups": {"popular_quantile": 0.8, "splits": {"pop1080": [0.1, 0.8, 0.1]}},
    }
