"""Empirical risk minimisation: every user of the batch weighs the same (paper, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from fairrec_pipeline.objectives.base import Constant, LossBatch, Objective, State


class Erm(Objective):
    """q_u = 1 / B.

    Args:
        item_weights: see `Objective`.
    """

    def __init__(self, item_weights: Tensor | None = None) -> None:
        self.item_weights: Tensor | None = item_weights
        self._weights = Constant(lambda losses: torch.full_like(losses, 1 / len(losses)))

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        return self._weights.like(batch.losses), state
