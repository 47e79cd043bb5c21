"""Frames for all users are the lists of the recommender, whatever their size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

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


def test_an_allow_list_without_what_was_seen(recommender: Recommender, histories: list[list[int]]) -> None:
    known = {user: items for user, items in enumerate(histories) if items}
    allow = recommender.config.catalogue[::7]
    frames = recommend_in_frames(recommender, known.items(), 100, allow=allow, filter_seen=True, users_per_frame=64)
    together = pd.concat(frames)
    assert set(together["item_id"]) <= set(allow)
    assert not any(item in known[user] for user, item in zip(together["user_id"], together["item_id"], strict=True))
    assert together.groupby("user_id").size().max() <= len(allow)


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


def test_what_is_refused_is_refused_at_once(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match="k should be at least 1, got 0"):
        recommend_in_frames(recommender, [], 0)
    with pytest.raises(RequestError, match="allow: an item id of this model is an integer, got text"):
        recommend_in_frames(recommender, [], 3, allow=["a"])
    assert list(recommend_in_frames(recommender, [], 3)) == []
