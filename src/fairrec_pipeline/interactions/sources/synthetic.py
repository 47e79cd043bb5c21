"""A small generated world in which methods can differ between groups of users.

One mainstream taste and a few small niche tastes, each with its own items and its own order in which they are looked
at. Users of a niche are few, so a model trained on the mean learns their order last. Histories have a heavy tail;
items a skewed popularity; people come back to items of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairrec_pipeline.interactions.columns import ITEM, TIMESTAMP, USER
from fairrec_pipeline.memory import available_memory, require_memory

SEGMENT = "segment"

_MAX_NICHES = 5
_ITEMS_PER_NICHE = 60  # at least, where the world is large enough for more than one niche
_MAINSTREAM_ITEMS = 0.4  # share of the items
_MAINSTREAM_USERS = 0.7  # share of the users
_SEGMENT_IS_TASTE = 0.85  # share of the users whose segment tells their taste; the others' is drawn

_MIN_LENGTH, _MAX_LENGTH = 8, 200
_LENGTH_MEDIAN_ABOVE_MIN, _LENGTH_SIGMA = 5.0, 1.15  # log-normal

_SUCCESSORS = np.array([0.6, 0.25, 0.15])  # probabilities of the items that follow an item
_FOLLOW, _REPEAT, _VISIT = 0.5, 0.18, 0.08  # next step: successor, own item, mainstream item; else a draw
_POPULARITY_EXPONENT = 0.6  # Zipf, within a taste

_START = 1_700_000_000  # seconds since 1970
_START_SPREAD, _MEAN_GAP = 30 * 86_400, 6 * 3_600  # seconds

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tastes:
    """Items of the tastes, back to back: `starts[t]` to `starts[t + 1] - 1` for taste t; taste 0 is mainstream.

    Attributes:
        starts: (n_tastes + 1,) first item of each taste.
        cumulative: (n_items,) t + cumulative popularity within taste t, so that one sorted search draws for any taste.
        successors: (n_items, 3) items that follow an item, of the same taste, most probable first.
    """

    starts: Integers
    cumulative: Floats
    successors: Integers

    @property
    def count(self) -> int:
        return len(self.starts) - 1

    def draw(self, tastes: Integers, uniform: Floats) -> Integers:
        """An item of each taste, by popularity; `uniform` in [0, 1), of any shape that `tastes` broadcasts to."""
        items = np.searchsorted(self.cumulative, tastes + uniform, side="right")
        return np.minimum(items, self.starts[tastes + 1] - 1)  # the last sum may round below 1


def generate(n_users: int, n_items: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Generate the events and the users.

    Args:
        n_users: each has 8 to 200 events, 18 on average.
        n_items: of the catalogue; rare ones may stay without an event.

    Returns:
        events: user_id, item_id, timestamp (seconds since 1970), all int64, per user in order of time.
        users: user_id and segment: `mainstream`, `niche-a`, ...: a noisy sign of the taste.

    Raises:
        OptionError: it would not fit into memory.
    """
    needs = {
        "histories of the users [n_users]": 40 * n_users * _MAX_LENGTH,
        "items and what follows them [n_items]": 150 * n_items,
    }
    require_memory(needs, "generating the synthetic world", available=available_memory())
    rng = np.random.default_rng(seed)
    tastes = _tastes(n_items, rng)
    share = np.full(tastes.count, (1 - _MAINSTREAM_USERS) / max(tastes.count - 1, 1))
    share[0] = 1 - share[1:].sum()
    taste = rng.choice(tastes.count, n_users, p=share)
    lengths = _MIN_LENGTH + np.floor(_LENGTH_MEDIAN_ABOVE_MIN * np.exp(_LENGTH_SIGMA * rng.standard_normal(n_users)))
    lengths = np.minimum(lengths, _MAX_LENGTH).astype(np.int64)
    histories = _walk(tastes, taste, lengths, rng)

    happened = np.arange(histories.shape[1]) < lengths[:, None]
    gaps = np.ceil(rng.exponential(_MEAN_GAP, histories.shape)).astype(np.int64)
    times = _START + rng.integers(_START_SPREAD, size=(n_users, 1)) + gaps.cumsum(axis=1)
    # Shuffled ids: neither a user's taste nor an item's popularity can be read from the number.
    item_ids = rng.permutation(n_items) + 1
    users = np.arange(1, n_users + 1)
    events = pd.DataFrame(
        {USER: np.repeat(users, lengths), ITEM: item_ids[histories[happened]], TIMESTAMP: times[happened]}
    )
    shown = np.where(rng.random(n_users) < _SEGMENT_IS_TASTE, taste, rng.choice(tastes.count, n_users, p=share))
    names = np.array(["mainstream", *(f"niche-{chr(ord('a') + niche)}" for niche in range(tastes.count - 1))])
    return events, pd.DataFrame({USER: users, SEGMENT: names[shown]})


def _tastes(n_items: int, rng: np.random.Generator) -> Tastes:
    n_mainstream = round(_MAINSTREAM_ITEMS * n_items)
    n_niches = int(np.clip((n_items - n_mainstream) // _ITEMS_PER_NICHE, 1, _MAX_NICHES))
    starts = np.concatenate([[0], np.linspace(n_mainstream, n_items, n_niches + 1).round()]).astype(np.int64)
    sizes = np.diff(starts)
    taste = np.repeat(np.arange(len(sizes)), sizes)
    rank = np.arange(n_items) - starts[taste]
    popularity = (rank + 1.0) ** -_POPULARITY_EXPONENT
    popularity /= np.bincount(taste, popularity)[taste]
    total = popularity.cumsum()
    cumulative = taste + total - np.concatenate([[0.0], total])[starts[taste]]
    # A successor is drawn by popularity: what many people look at also follows many items.
    tastes = Tastes(starts, cumulative, np.empty((n_items, len(_SUCCESSORS)), dtype=np.int64))
    successors = tastes.draw(taste[:, None], rng.random((n_items, len(_SUCCESSORS))))
    # No item follows itself, or a walk could stay where it is; its neighbour in popularity takes the place.
    neighbour = starts[taste] + (rank + 1) % sizes[taste]
    successors = np.where(successors == np.arange(n_items)[:, None], neighbour[:, None], successors)
    return Tastes(starts, cumulative, successors)


def _walk(tastes: Tastes, taste: Integers, lengths: Integers, rng: np.random.Generator) -> Integers:
    """(n_users, longest) items; row u is a history up to `lengths[u]`, what follows is without meaning."""
    n_users, longest = len(taste), int(lengths.max())
    histories = np.empty((n_users, longest), dtype=np.int64)
    histories[:, 0] = tastes.draw(taste, rng.random(n_users))
    successor_bounds = _SUCCESSORS.cumsum()[:-1]
    mainstream = np.zeros(n_users, dtype=np.int64)
    for step in range(1, longest):
        users = np.flatnonzero(lengths > step)
        kind, choice = rng.random(len(users)), rng.random(len(users))
        followed = tastes.successors[histories[users, step - 1], np.searchsorted(successor_bounds, choice)]
        repeated = histories[users, (choice * step).astype(np.int64)]
        visited = tastes.draw(mainstream[users], choice)
        drawn = tastes.draw(taste[users], choice)
        bounds = np.cumsum([_FOLLOW, _REPEAT, _VISIT])
        kinds = [kind < bound for bound in bounds]
        histories[users, step] = np.select(kinds, [followed, repeated, visited], default=drawn)
    return histories
