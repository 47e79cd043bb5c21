"""Frames for all users are the lists of the recommender, whatever their size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fairrec_pipeline.interactions.histories import complete_histories
from fairrec_pipeline.serving.batch import recommend_in_frames
from fairrec_pipeline.serving.recommender import Recommender
from fairrec_pipeline.serving.requests import RequestError


@pytest.fixture(scope="module")
def recommender(folder: Path) -> Recommender:
    return Recommender.load(folder)


@pytest.mark.parametrize("filter_seen", [False, True])
@pytest.mark.parametrize("users_per_frame", [1, 7, 1000])
def test_frames_are_the_lists(
    filter_seen: bool, users_per_frame: int, recommender: Recommender, histories: list[list[int]]
) -> None:
    histories = histories[:30]
    users = [f"user {number}" for number in range(30)]
    frames = list(
        recommend_in_frames(
            recommender, zip(users, histories, strict=True), 5, exclude=[10, -1], filter_seen=filter_seen,
            users_per_frame=users_per_frame,
        )
    )  # fmt: skip
    assert len(frames) == -(-30 // users_per_frame)
    together = pd.concat(frames, ignore_index=True)
    assert together.columns.tolist() == ["user_id", "rank", "item_id", "score"]
    assert together["rank"].tolist() == list(range(1, 6)) * 30
    for user, history in zip(users, histories, strict=True):
        answer = recommender.recommend(history, k=5, exclude=[10], filter_seen=filter_seen)
        of_user = together[together["user_id"] == user]
        assert of_user["item_id"].tolist() == answer.items
        np.testing.assert_allclose(of_user["score"], answer.scores, atol=1e-5, rtol=0)


def test_flat_histories_and_pairs(recommender: Recommender, histories: list[list[int]]) -> None:
    """An allow list, and users that a table of interactions has."""
    known = {user: items for user, items in enumerate(histories) if items}
    events = [(user, item, position) for user, items in known.items() for position, item in enumerate(items)]
    table = pd.DataFrame(events, columns=["user_id", "item_id", "position"])
    flat = complete_histories(table, np.array(recommender.config.catalogue))
    allow = recommender.config.catalogue[::7]
    options = {"k": 100, "allow": allow, "filter_seen": True, "users_per_frame": 64}
    of_flat = pd.concat(recommend_in_frames(recommender, flat, **options))
    of_pairs = pd.concat(recommend_in_frames(recommender, known.items(), **options))
    pd.testing.assert_frame_equal(of_flat, of_pairs)
    assert set(of_flat["item_id"]) <= set(allow)
    assert not any(item in known[user] for user, item in zip(of_flat["user_id"], of_flat["item_id"], strict=True))
    assert of_flat.groupby("user_id").size().max() <= len(allow)


def test_nothing_is_read_ahead(recommender: Recommender) -> None:
    """A million users are an iterator; of a frame no more are read than it has."""
    asked = []

    def users() -> object:
        for user in range(1_000_000):
            asked.append(user)
            yield user, [10]

    next(recommend_in_frames(recommender, users(), 3, users_per_frame=10))  # type: ignore[arg-type]
    assert len(asked) == 10


def test_frames_of_long_lists_have_fewer_users(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairrec_pipeline.serving.batch.ROWS_PER_FRAME", 900)
    users = [(user, [10]) for user in range(7)]
    frames = list(recommend_in_frames(recommender, users, 10**9))
    assert [len(frame) for frame in frames] == [900, 900, 300]
    assert len(list(recommend_in_frames(recommender, users, 10))) == 1


def test_what_is_refused_is_refused_at_once(recommender: Recommender, model_folder: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="k should be at least 1, got 0"):
        recommend_in_frames(recommender, [], 0)
    with pytest.raises(RequestError, match="allow: an item id of this model is an integer, got text"):
        recommend_in_frames(recommender, [], 3, allow=["a"])
    table = pd.DataFrame({"user_id": [0], "item_id": [10], "position": [0]})
    with pytest.raises(ValueError, match=r"catalogue of 1 items that is not the model's of 300"):
        recommend_in_frames(recommender, complete_histories(table, np.array([10])), 3)
    assert list(recommend_in_frames(recommender, [], 3)) == []
