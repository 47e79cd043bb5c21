"""Empirical risk minimisation: every user of the batch weighs the same (paper, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from fairrec_pipeline.objectives.base import LossBatch, Objective, State


class Erm(Objective):
    """q_u = 1 / B.

    Args:
        item_weights: see `Objective`.
    """

    def __init__(self, item_weights: Tensor | None = None) -> None:
        self.item_weights: Tensor | None = item_weights
        self._weights = torch.empty(0)

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        losses, known = batch.losses, self._weights
        if (known.shape, known.dtype, known.device) != (losses.shape, losses.dtype, losses.device):
            self._weights = torch.full_like(losses, 1 / len(losses))
        return self._weights, state
