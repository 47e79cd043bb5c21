"""The k best items of every user of a long list, frame by frame, so that memory does not grow with the users."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import pandas as pd

from fairrec_pipeline.interactions.columns import ITEM, USER
from fairrec_pipeline.serving.recommender import Recommender, flat

logger = logging.getLogger(__name__)

USERS_PER_FRAME = 16_384
ROWS_PER_FRAME = 100 * USERS_PER_FRAME
"""Of long lists a frame has those of fewer users: 1.6 million rows are 50 MB."""

UserId = int | str
History = tuple[UserId, Sequence[int] | Sequence[str]]
_Chunk = tuple[Sequence[UserId] | np.ndarray, np.ndarray, np.ndarray]


def recommend_in_frames(
    recommender: Recommender,
    histories: Iterable[History],
    k: int,
    *,
    exclude: Iterable[int | str] = (),
    allow: Iterable[int | str] | None = None,
    filter_seen: bool | None = None,
    users_per_frame: int = USERS_PER_FRAME,
) -> Iterator[pd.DataFrame]:
    """Recommend for all users, in their order.

    Args:
        recommender: the model.
        histories: pairs of a user id and item ids, oldest first. Unknown items are ignored; a user without a known item
            gets the list of the start token.
        k: items a user gets; fewer if fewer can be recommended.
        exclude: item ids never to recommend; unknown ones are ignored.
        allow: the only item ids to recommend; None for the whole catalogue.
        filter_seen: leave out the items of a user's history; None for what the model was evaluated with.
        users_per_frame: how many users a frame has; fewer where their lists are long (`ROWS_PER_FRAME`).

    Yields:
        columns user_id, rank (1 is best), item_id, score (float32); sorted by user and rank.

    Raises:
        ValueError: k is below 1.
        RequestError: an item id is text where the catalogue has integers, or the other way round.
    """
    if k < 1:
        raise ValueError(f"k should be at least 1, got {k}")
    catalogue = np.asarray(recommender.config.catalogue)
    users_per_frame = max(1, min(users_per_frame, ROWS_PER_FRAME // min(k, len(catalogue))))
    chunks = _chunks(recommender, histories, users_per_frame)
    forbidden = recommender.mask(exclude, allow)
    filter_seen = recommender.config.filter_seen if filter_seen is None else filter_seen
    return _frames(recommender, catalogue, chunks, k, forbidden, filter_seen)


def _frames(
    recommender: Recommender,
    catalogue: np.ndarray,
    chunks: Iterable[_Chunk],
    k: int,
    forbidden: np.ndarray,
    filter_seen: bool,
) -> Iterator[pd.DataFrame]:
    n_users, n_cold = 0, 0
    for chunk in chunks:
        yield _frame(recommender, catalogue, chunk, k, forbidden, filter_seen)
        lengths = np.diff(chunk[2])
        n_users, n_cold = n_users + len(lengths), n_cold + int(np.count_nonzero(lengths == 0))
    if n_cold:
        logger.info(
            "%s of %s users have no item that the model knows: they get the list of a user of whom nothing is known",
            *(f"{n_cold:,}", f"{n_users:,}"),
        )


def _chunks(recommender: Recommender, histories: Iterable[History], size: int) -> Iterator[_Chunk]:
    pairs = iter(histories)
    while chunk := list(islice(pairs, size)):
        codes = [recommender.codes(history, f"history of user {user}") for user, history in chunk]
        yield [user for user, _ in chunk], *flat(codes)


def _frame(
    recommender: Recommender, catalogue: np.ndarray, chunk: _Chunk, k: int, forbidden: np.ndarray, filter_seen: bool
) -> pd.DataFrame:
    users, items, offsets = chunk
    none_forbidden = not forbidden.any()

    def forbid(scores: np.ndarray, start: int) -> None:
        if not none_forbidden:
            scores[:, forbidden] = -np.inf
        if filter_seen:
            bounds = offsets[start : start + len(scores) + 1]
            rows = np.repeat(np.arange(len(scores)), np.diff(bounds))
            scores[rows, items[bounds[0] : bounds[-1]]] = -np.inf

    best = recommender.best(items, offsets, k, forbid)
    return pd.DataFrame(
        {USER: np.asarray(users)[best.rows], "rank": best.ranks, ITEM: catalogue[best.items], "score": best.scores}
    )
