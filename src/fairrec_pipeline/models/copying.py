"""A copy mechanism: the items that a user has already met get a second score.

Where people come back to items (35.7 % of RetailRocket's test targets are repeats), the order in which a user met items
says more than any embedding: "newest item first", untrained, beats the published models. A transformer with a
separate output embedding can hardly learn to copy, so it is given the means: the newest items of the history, each
once, counted by recency, and one embedding per recency. The score of item i after state h becomes
`h @ output_table[i] + h @ recency_embedding[r]` if i is the r-th newest distinct item, as the location attention of
pointer networks (Vinyals et al. 2015) and copy mechanisms (Gu et al. 2016; RepeatNet, Ren et al. 2019) add it.

A model is too sure of what followed in sequences that it saw many times, and so it underrates repeats. Hence a
calibration, which is chosen on validation (`training.calibration`) and never trained: outside of training a copied item
that was met n times gets `bias + exponent * log(n / (1 + r))` besides, the power laws of frequency and recency in
repeat consumption (Anderson et al., WWW 2014).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairrec_pipeline.models.packing import to_device
from fairrec_pipeline.models.softmax_head import Additions


class CopiedItems(NamedTuple):
    """The distinct items among the newest tokens of each row, by falling recency.

    Attributes:
        rows: (m,) int64 position of a batch, or user.
        items: (m,) int64 item code, ascending.
        recency: (m,) int64, 0 for the newest distinct item of the row.
        counts: (m,) int64, how often the user had met the item by then, in the whole history; at least 1.
        real: (m,) bool, of a fixed number: the others are none, and the items in any order. None if all are real.
    """

    rows: Tensor
    items: Tensor
    recency: Tensor
    counts: Tensor
    real: Tensor | None = None

    @property
    def log_frequency_over_recency(self) -> Tensor:
        """(m,) float32 `log(n / (1 + r))`."""
        return torch.log(self.counts / (1 + self.recency))


class CopyMechanism(nn.Module):
    """Scores for the items of the history; the newest `window` tokens can be copied."""

    def __init__(self, window: int, dim: int) -> None:
        super().__init__()
        self.recency_embedding = nn.Embedding(window, dim)
        nn.init.zeros_(self.recency_embedding.weight)  # at first it adds nothing
        self.calibration: Tensor  # (2,) bias and exponent
        self.register_buffer("calibration", torch.zeros(2))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        state_dict.setdefault(f"{prefix}calibration", torch.zeros(2))  # a model from before there was one
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, states: Tensor, copied: CopiedItems) -> Additions:
        """What is added to the scores; states (n, dim) of the rows that `copied` names."""
        by_recency = states @ self.recency_embedding.weight.T  # (n, window)
        values = by_recency[copied.rows, copied.recency]
        if not self.training:
            bias, exponent = self.calibration
            values = values + bias + exponent * copied.log_frequency_over_recency
        return Additions(copied.rows, copied.items, values, copied.real)


class Encounters(NamedTuple):
    """Where every event stands among the encounters of its user with its item.

    Attributes:
        gaps: (n_events,) int64, events until the next encounter; a huge number if there is none.
        counts: (n_events,) int64, encounters so far, this one included.
    """

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
        return cls(torch.from_numpy(gaps).to(device), torch.from_numpy(counts).to(device))


def copied_items(newest: Tensor, reach: Tensor, items: Tensor, met: Encounters) -> CopiedItems:
    """Distinct items among the last `reach` events up to each row's newest event.

    Args:
        newest: (n,) index of the newest event of each row in `items`.
        reach: (n,) how many events back to look, on the CPU; 0 for a row without events.
        items: (n_events,) item codes of all events.
        met: their encounters.
    """
    total, device = int(reach.sum()), items.device
    starts = to_device(torch.cumsum(reach, 0) - reach, device)
    rows = to_device(torch.repeat_interleave(torch.arange(len(reach)), reach), device)
    back = torch.arange(total, device=device) - starts[rows]
    events = newest[rows] - back
    last = met.gaps[events] > back  # the same item is not met again up to the row's newest event
    before = functional.pad(torch.cumsum(last, 0), (1, 0))
    recency = before[1:] - 1 - before[starts][rows]
    kept = last.nonzero()[:, 0]  # their number is only known on the device, which is waited for
    kept = kept[torch.argsort(items[events[kept]], stable=True)]
    return CopiedItems(rows[kept], items[events[kept]], recency[kept], met.counts[events[kept]])


def copied_items_of_fixed_number(
    newest: Tensor, reach: Tensor, items: Tensor, met: Encounters, window: int
) -> CopiedItems:
    """`copied_items` with an entry for each of the last `window` events of a row, so that no shape depends on data.

    `reach` is on the device, and at most `window`.
    """
    back = torch.arange(window, device=newest.device)
    events = (newest[:, None] - back).clamp(min=0)
    last = (met.gaps[events] > back) & (back < reach[:, None])
    recency = (torch.cumsum(last, 1) - 1).clamp(min=0)
    rows = torch.arange(len(newest), device=newest.device)[:, None].expand_as(events)
    return CopiedItems(*(x.flatten() for x in (rows, items[events], recency, met.counts[events], last)))
