"""Requests that wait are answered together, and each gets what it would get alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fairrec_pipeline.serving.recommender import Recommender
from fairrec_pipeline.serving.requests import Query, RequestError
from fairrec_pipeline.serving.together import AT_ONCE, Together


class Counted:
    """A recommender that remembers how many histories it was asked for at a time."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self.sizes: list[int] = []

    def answer(self, queries: Sequence[Query[Any]]) -> Any:
        self.sizes.append(len(queries))
        return self._recommender.answer(queries)


def ask_at_once(recommender: Any, requests: Sequence[Sequence[Query[Any]]]) -> list[Any]:
    async def all_of_them() -> list[Any]:
        together = Together(recommender)
        return await asyncio.gather(*(together.answer(each) for each in requests), return_exceptions=True)

    return asyncio.run(all_of_them())


def test_who_waits_is_answered_together_as_alone(folder: Path, histories: list[list[int]]) -> None:
    recommender = Recommender.load(folder)
    requests = [[Query[int](history=history, k=1 + n % 9)] * (1 + n % 3) for n, history in enumerate(histories)]
    counted = Counted(recommender)
    for asked, got in zip(requests, ask_at_once(counted, requests), strict=True):
        alone = recommender.answer(asked)
        assert [each.items for each in got] == [each.items for each in alone]
        assert [each.known_items for each in got] == [each.known_items for each in alone]
        for one, other in zip(got, alone, strict=True):
            assert one.scores == pytest.approx(other.scores, abs=1e-5)
    assert len(counted.sizes) < len(requests)
    assert max(counted.sizes) <= AT_ONCE


def test_a_large_request_is_answered_and_nobody_is_left_waiting(folder: Path) -> None:
    one = Query[int](history=[], k=1)
    counted = Counted(Recommender.load(folder))
    answers = ask_at_once(counted, [[one] * size for size in (1, 2 * AT_ONCE, 1, AT_ONCE, 3)])
    assert [len(each) for each in answers] == [1, 2 * AT_ONCE, 1, AT_ONCE, 3]
    assert counted.sizes == [1, 2 * AT_ONCE, 1, AT_ONCE, 3]


def test_a_mistake_is_that_of_its_request_alone(folder: Path) -> None:
    good, bad = Query[int](history=[1]), Query[str](history=["a"])
    first, wrong, last = ask_at_once(Recommender.load(folder), [[good], [bad], [good]])
    assert isinstance(wrong, RequestError)
    assert "inputs[0].history" in str(wrong)
    assert first == last
    assert first[0].items
