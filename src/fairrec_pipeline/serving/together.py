"""Requests that wait are answered together: for one history most of the work is to read the weights of all items."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from fairrec_pipeline.serving.recommender import Recommender
from fairrec_pipeline.serving.requests import Query, Recommendation

AT_ONCE = 64
"""Histories that are answered together, unless a request alone has more."""

_Answers = list[Recommendation[Any]]


class Together:
    """Answers of a recommender on an event loop. Nothing is waited for: who is there is answered.

    Args:
        recommender: whose answers they are; scores are those of a request alone up to rounding.
    """

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._waiting: list[tuple[Sequence[Query[Any]], asyncio.Future[_Answers]]] = []

    async def answer(self, queries: Sequence[Query[Any]]) -> _Answers:
        """What `Recommender.answer` says to these queries, and its errors."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._answer_some)  # after the requests that have arrived with this one
        future = loop.create_future()
        self._waiting.append((queries, future))
        answers: _Answers = await future
        return answers

    def _answer_some(self) -> None:
        """Answer as many requests as may be answered together, oldest first; the others are next."""
        number, histories = 0, 0
        while number < len(self._waiting) and (number == 0 or histories + len(self._waiting[number][0]) <= AT_ONCE):
            histories += len(self._waiting[number][0])
            number += 1
        some, self._waiting = self._waiting[:number], self._waiting[number:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._answer_some)
        for (_, future), answers in zip(some, self._answers([queries for queries, _ in some]), strict=True):
            if future.done():  # whoever asked is gone
                continue
            if isinstance(answers, Exception):
                future.set_exception(answers)
            else:
                future.set_result(answers)

    def _answers(self, requests: Sequence[Sequence[Query[Any]]]) -> list[_Answers | Exception]:
        """The answers to every request, or its error; one request's mistake is not that of the others."""
        try:
            every = iter(self._recommender.answer([query for queries in requests for query in queries]))
        except Exception as error:
            return [error] if len(requests) == 1 else [self._answers([request])[0] for request in requests]
        return [list(itertools.islice(every, len(queries))) for queries in requests]
