"""KL DRO, or tilted ERM: the worst distribution, at a price for its distance to the batch (Li et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from fairrec_pipeline.objectives.base import LossBatch, Objective, State


class Kl(Objective):
    """`q = softmax(l / tau)`, the maximiser of `sum_u q_u l_u - tau KL(q || 1/B)`.

    Args:
        tau: temperature in nats; large values are ERM, small ones look at the worst user only.
    """

    def __init__(self, *, tau: float) -> None:
        if not tau > 0:
            raise ValueError(f"tau is a temperature above 0, got {tau}")
        self.tau = tau

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        return torch.softmax(batch.losses / self.tau, 0), state
