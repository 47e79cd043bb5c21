"""A copy mechanism: the items that a user has already met get something on top of their score.

Where people come back to items (35.7 % of RetailRocket's test targets are repeats), the order in which a user met items
says more than any embedding: "newest item first", untrained, beats the published models. Two things keep a softmax over
the catalogue from it. Copying that is learned with the backbone takes capacity from new items. And a model is too sure
of what followed in sequences that it saw many times, so that on positions of the training it sees no need to copy.

So the backbone is trained without it, and what is added is fitted on held-out targets (`training.calibration`): item i
of the newest `window` events, the r-th newest of the user's distinct items (r = 0 for the newest), gets
`weights @ features`. All scores together are the logits of one softmax. With o the log of the mass that a user's own
items have in it, and m that of all others, P(repeat) = exp(o) / (exp(o) + exp(m)): the features that are the same for
all items of a user are a gate that decides whether to copy, the others say what. It is a mixture of a copy distribution
and a softmax over new items, as in pointer networks (Vinyals et al. 2015), CopyNet (Gu et al. 2016) and RepeatNet (Ren
et al. 2019), with a log-linear gate. Recency and frequency enter by their logarithms, since repeat consumption follows
power laws of both (Anderson et al., WWW 2014).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

FEATURES = ("bias", "log_count", "log_recency", "newest", "score", "new_items", "habit")
_LEAST = -1e4  # in the place of log 0, where a user knows all items


class OwnItems(NamedTuple):
    """The distinct items among the newest events of b users, each user's by falling recency.

    Attributes:
        items: (b, window) int64 item code; any where there is none.
        counts: (b, window) int64, how often the user has met the item in the whole history; 0 where there is none.
    """

    items: Tensor
    counts: Tensor


class CopyMechanism(nn.Module):
    """What is added to the scores of a user's own items; nothing until the weights are fitted.

    Args:
        window: so many of the newest events are looked at.

    Attributes:
        weights: (len(FEATURES),) of the features; no gradient, since no training sees them.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        self.weights: Tensor
        self.register_buffer("weights", torch.zeros(len(FEATURES)))

    def forward(self, scores: Tensor, own: OwnItems) -> Tensor:
        """(b, window) what the own items get on top of the plain scores (b, n_items); 0 where there is none."""
        return (own_features(scores, own) @ self.weights) * (own.counts > 0)


def own_features(scores: Tensor, own: OwnItems) -> Tensor:
    """(b, window, len(FEATURES)) features of own items, in the order of FEATURES; scores are plain ones (b, n_items).

    - bias: 1.
    - log_count: log of the number of encounters.
    - log_recency: log(1 + r).
    - newest: 1 for the newest item.
    - score: of the item.
    - new_items: `log_mass_of_new_items`. With weight 1 the gate does not depend on how sure the model is of new items.
    - habit: log of the mean number of encounters of the user's own items, 0 for somebody who never comes back.
    """
    counts = own.counts.to(scores.dtype)
    real = own.counts > 0
    recency = torch.arange(own.items.shape[1], device=scores.device).to(scores.dtype).expand_as(counts)
    habit = (counts.sum(1) / real.sum(1).clamp(min=1)).clamp(min=1).log()
    of_item = (
        torch.ones_like(counts),
        counts.clamp(min=1).log(),
        torch.log1p(recency),
        (recency == 0).to(scores.dtype),
        scores.gather(1, own.items),
        log_mass_of_new_items(scores, own)[:, None].expand_as(counts),
        habit[:, None].expand_as(counts),
    )
    return torch.stack(of_item, 2)


def log_mass_of_new_items(scores: Tensor, own: OwnItems) -> Tensor:
    """(b,) log of the sum of exp(score) over the items that are not a user's own."""
    hidden = torch.where(own.counts > 0, float("-inf"), 0.0).to(scores.dtype)
    return torch.logsumexp(scores.scatter_add(1, own.items, hidden), 1).clamp(min=_LEAST)


class Encounters(NamedTuple):
    """The events of a log, and where every event stands among the encounters of its user with its item.

    Attributes:
        items: (n_events,) int64 item code.
        gaps: (n_events,) int64, events until the next encounter; a huge number if there is none.
        counts: (n_events,) int64, encounters so far, this one included.
    """

    items: Tensor
    gaps: Tensor
    counts: Tensor

    @classmethod
    def of(cls, users: np.ndarray, items: np.ndarray, device: torch.device) -> Encounters:
        """The encounters of a log: (n_events,) users and items, both int64, a user's events in order."""
        order = np.lexsort((items, users))  # stable
        same = (users[order][1:] == users[order][:-1]) & (items[order][1:] == items[order][:-1])
        gaps, counts = np.full(len(items), np.iinfo(np.int64).max // 2), np.empty(len(items), dtype=np.int64)
        gaps[order[:-1][same]] = np.diff(order)[same]
        index = np.arange(len(items))
        first = np.maximum.accumulate(np.where(np.append(False, same), 0, index))  # the first encounter
        counts[order] = index - first + 1
        return cls(*(torch.from_numpy(x).to(device) for x in (items, gaps, counts)))

    def own_items(self, newest: Tensor, lengths: Tensor, window: int) -> OwnItems:
        """Distinct items among the last `window` events of b histories.

        Args:
            newest: (b,) index of the newest event of each history.
            lengths: (b,) number of its events.
            window: how many events to look at.
        """
        back = torch.arange(window, device=newest.device)
        events = (newest[:, None] - back).clamp(min=0)
        last = (self.gaps[events] > back) & (back < lengths[:, None])  # not met again up to the newest event
        column = torch.where(last, torch.cumsum(last, 1) - 1, window)  # one more for what is met again
        empty = torch.zeros(len(newest), window + 1, dtype=torch.int64, device=newest.device)
        parts = (empty.scatter(1, column, part[events])[:, :window] for part in (self.items, self.counts))
        return OwnItems(*parts)
