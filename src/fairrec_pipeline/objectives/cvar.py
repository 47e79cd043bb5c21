"""Conditional value at risk: the mean loss of the worst share of users, no groups needed (paper, equation 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from fairrec_pipeline.objectives.base import LossBatch, Objective, State


class CVaR(Objective):
    """Maximiser q of `sum_u q_u l_u` over the simplex with q_u <= 1 / (alpha B) (Levy et al. 2020).

    With k = int(alpha B): the k highest losses get 1 / (alpha B), the next one what is left to 1, the others 0.

    Args:
        alpha: share of the batch in (0, 1]; 1 is ERM.
    """

    def __init__(self, *, alpha: float) -> None:
        if not 0 < alpha <= 1:
            message = f"alpha is the share of the worst users, in (0, 1], got {alpha}"
            raise ValueError(message)
        self.alpha = alpha

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        size = self.alpha * len(batch.losses)
        k = int(size)
        by_rank = torch.zeros_like(batch.losses)
        by_rank[:k] = 1 / size
        if k < len(by_rank):
            by_rank[k] = 1 - k / size
        order = torch.sort(batch.losses, descending=True, stable=True).indices
        return torch.empty_like(by_rank).index_copy_(0, order, by_rank), state
