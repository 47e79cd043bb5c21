"""Empirical risk minimisation: every user of the batch weighs the same (paper, equation 1), or every position."""

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


class ErmPositions(Objective):
    """q_u = n_u / sum of n, n_u the positions of user u: the step minimises the mean over the positions of the batch.

    It is what most implementations of SASRec minimise, such as RecTools' and WarpRec's. A user with twice the
    positions (at most `max_length`) weighs twice as much.
    """

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        lengths = batch.lengths.to(batch.losses.dtype)
        return lengths / lengths.sum(), state
