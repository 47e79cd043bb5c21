"""What is asked and what is answered: the same JSON for the FastAPI server and for the MLflow model."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairrec_pipeline.errors import FairrecError

MAX_K, MAX_HISTORY, MAX_LIST, MAX_QUERIES = 1_000, 20_000, 100_000, 256
"""Bounds of a request: items asked for, items of a history, items of `exclude` and `allow`, histories."""

Item = TypeVar("Item", int, str)


class Query(BaseModel, Generic[Item]):
    """One history and what is wanted for it; `Query[int]` and `Query[str]` by the ids of the catalogue.

    Attributes:
        history: item ids, oldest first; all of them, since the copy mechanism counts over the whole history.
        k: items wanted; fewer come back if fewer can be recommended.
        exclude: item ids never to recommend.
        allow: the only item ids to recommend; None for the whole catalogue.
        filter_seen: leave out the items of the history; None for what the model was evaluated with.
    """

    # strict by configuration: MLflow reads the annotations and knows no strict types
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    history: list[Item] = Field(max_length=MAX_HISTORY)
    k: int = Field(default=20, ge=1, le=MAX_K)
    exclude: list[Item] = Field(default=[], max_length=MAX_LIST)
    allow: list[Item] | None = Field(default=None, min_length=1, max_length=MAX_LIST)
    filter_seen: bool | None = None


class Queries(BaseModel, Generic[Item]):
    """Body of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    inputs: list[Query[Item]] = Field(min_length=1, max_length=MAX_QUERIES)


class Recommendation(BaseModel, Generic[Item]):
    """The answer to one query.

    Attributes:
        items: at most k item ids, best first.
        scores: of each of them.
        known_items: items of the history that the model knows; the others are ignored.
        unknown_items: how many were ignored.
        cold_start: no item of the history is known, so the list is that of a user of whom nothing is known.
    """

    items: list[Item]
    scores: list[float]
    known_items: int
    unknown_items: int
    cold_start: bool


class Predictions(BaseModel, Generic[Item]):
    """Body of an answer: one recommendation for every query, in their order."""

    predictions: list[Recommendation[Item]]


class RequestError(FairrecError):
    """A request that cannot be answered; the message says why in a sentence."""


def first_error(error: ValidationError) -> str:
    """One sentence: where the first mistake is and what is allowed; the input is not repeated, but for short keys."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:50]}" for part in first["loc"]).lstrip(".")
    what = first["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
