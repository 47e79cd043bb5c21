"""A small generated world in which a model trained on the mean serves a hidden tenth of the users last.

Nine users of ten share two tastes and stay with the popular items. A tenth has five tastes among them, stays with the
rare items and looks at four times as many. In each taste another item follows an item. So what comes next depends on
the last item and on whose history it is: counts of transitions mix the tastes, a sequence model tells them apart. The
mean over users gives a tenth of its weight to the rules of the tenth, which are five to learn instead of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairrec_pipeline.interactions.columns import ITEM, TIMESTAMP, USER
from fairrec_pipeline.memory import available_memory, require_memory

SEGMENT = "segment"
_MAJORITY, _MINORITY = ("majority-a", "majority-b"), tuple(f"minority-{letter}" for letter in "abcde")
TASTES = (*_MAJORITY, *_MINORITY)


def _by_taste(of_majority: float, of_minority: float) -> NDArray[np.float64]:
    return np.repeat([of_majority, of_minority], [len(_MAJORITY), len(_MINORITY)])


_SHARE_OF_USERS = _by_taste(0.45, 0.02)
_ACTIVITY = _by_taste(1, 4)  # factor of the length
_SEGMENT_IS_TASTE = 0.85  # share of the users whose segment tells their taste; the others' is drawn

_POPULAR_ITEMS = 0.2  # share of the items
_POPULAR_VISITS = _by_taste(0.95, 0.02)  # share of the free draws that are of popular items
_LIKED, _LIKING = 0.5, 4.0  # share of the items that a taste likes, and how much more probable that makes them
_POPULARITY_EXPONENT = 0.4  # Zipf, within the popular and within the rare items

_FOLLOW, _REPEAT = 0.95, 0.03  # next step: the follower of the last item, an item of the history; else a free draw

_MIN_LENGTH, _MAX_LENGTH = 8, 80
_LENGTH_MEDIAN_ABOVE_MIN, _LENGTH_SIGMA = 4.0, 0.7  # log-normal, before the activity

_START = 1_700_000_000  # seconds since 1970
_START_SPREAD, _MEAN_GAP = 30 * 86_400, 6 * 3_600  # seconds

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """What each taste does.

    Attributes:
        cumulative: (n_tastes * n_items,) t + cumulative probability of a free draw within taste t, so that one sorted
            search draws for any taste.
        followers: (n_tastes, n_items) the item that follows an item: popular items follow popular ones, in one circle,
            and rare ones rare ones, in another.
    """

    cumulative: Floats
    followers: Integers

    def draw(self, tastes: Integers, uniform: Floats) -> Integers:
        """A free draw of each taste; `uniform` in [0, 1), one a taste."""
        last = self.followers.shape[1] - 1
        items: Integers = np.searchsorted(self.cumulative, tastes + uniform, side="right") - tastes * (last + 1)
        return items.clip(max=last)  # the last sum may round below 1


def generate(n_users: int, n_items: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Generate the events and the users.

    Args:
        n_users: each has 8 to 80 events, 16 on average.
        n_items: of the catalogue; rare ones may stay without an event.

    Returns:
        events: user_id, item_id, timestamp (seconds since 1970), all int64, per user in order of time.
        users: user_id and segment (a name of `TASTES`): a noisy sign of the taste.

    Raises:
        OptionError: it would not fit into memory.
    """
    needs = {
        "histories of the users [n_users]": 40 * n_users * _MAX_LENGTH,
        "items and what follows them [n_items]": 150 * n_items,
    }
    require_memory(needs, "generating the synthetic world", available=available_memory())
    rng = np.random.default_rng(seed)
    rules = _rules(n_items, rng)
    taste = rng.choice(len(TASTES), n_users, p=_SHARE_OF_USERS)
    lengths = _MIN_LENGTH + np.floor(_LENGTH_MEDIAN_ABOVE_MIN * np.exp(_LENGTH_SIGMA * rng.standard_normal(n_users)))
    lengths = np.minimum(lengths * _ACTIVITY[taste], _MAX_LENGTH).astype(np.int64)
    histories = _walk(rules, taste, lengths, rng)

    happened = np.arange(histories.shape[1]) < lengths[:, None]
    gaps = np.ceil(rng.exponential(_MEAN_GAP, histories.shape)).astype(np.int64)
    times = _START + rng.integers(_START_SPREAD, size=(n_users, 1)) + gaps.cumsum(axis=1)
    # Shuffled ids: neither a user's taste nor an item's popularity can be read from the number.
    item_ids = rng.permutation(n_items) + 1
    users = np.arange(1, n_users + 1)
    events = pd.DataFrame(
        {USER: np.repeat(users, lengths), ITEM: item_ids[histories[happened]], TIMESTAMP: times[happened]}
    )
    drawn = rng.choice(len(TASTES), n_users, p=_SHARE_OF_USERS)
    shown = np.where(rng.random(n_users) < _SEGMENT_IS_TASTE, taste, drawn)
    return events, pd.DataFrame({USER: users, SEGMENT: np.array(TASTES)[shown]})


def _rules(n_items: int, rng: np.random.Generator) -> Rules:
    """Items 0, 1, ... are the popular ones, then the rare ones."""
    n_popular = round(_POPULAR_ITEMS * n_items)
    cumulative, followers = [], []
    for taste, popular_visits in enumerate(_POPULAR_VISITS):
        probabilities, following = np.empty(n_items), np.empty(n_items, dtype=np.int64)
        for first, last, share in ((0, n_popular, popular_visits), (n_popular, n_items, 1 - popular_visits)):
            weights = (np.arange(last - first) + 1.0) ** -_POPULARITY_EXPONENT
            weights *= np.where(rng.random(last - first) < _LIKED, _LIKING, 1.0)
            probabilities[first:last] = share * weights / weights.sum()
            circle = first + rng.permutation(last - first)  # no item follows itself
            following[circle] = np.roll(circle, -1)
        cumulative.append(taste + probabilities.cumsum())
        followers.append(following)
    return Rules(np.concatenate(cumulative), np.stack(followers))


def _walk(rules: Rules, taste: Integers, lengths: Integers, rng: np.random.Generator) -> Integers:
    """(n_users, longest) items; row u is a history up to `lengths[u]`, what follows is without meaning."""
    n_users, longest = len(taste), int(lengths.max())
    histories = np.empty((n_users, longest), dtype=np.int64)
    histories[:, 0] = rules.draw(taste, rng.random(n_users))
    for step in range(1, longest):
        users = np.flatnonzero(lengths > step)
        kind, choice = rng.random(len(users)), rng.random(len(users))
        followed = rules.followers[taste[users], histories[users, step - 1]]
        repeated = histories[users, (choice * step).astype(np.int64)]
        drawn = rules.draw(taste[users], choice)
        histories[users, step] = np.select([kind < _FOLLOW, kind < _FOLLOW + _REPEAT], [followed, repeated], drawn)
    return histories
