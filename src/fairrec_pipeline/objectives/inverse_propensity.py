"""Inverse propensity weighting: users weigh by the rarity of their group (paper, equation 3)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fairrec_pipeline.objectives.base import LossBatch, Objective, Population, State


class InversePropensity(Objective):
    """q_u = w(g_u) / B with w(g) = N / f(g).

    Args:
        count: what f counts. Equation 3 counts users; the published numbers counted training interactions, so that on
            the 33 splits IPW is ERM times 3.
        log: use log w (IPWlog).
    """

    def __init__(self, population: Population, *, count: Literal["users", "interactions"], log: bool) -> None:
        counted = population.group_users if count == "users" else population.group_interactions
        assert counted is not None  # the builder has checked that there are groups
        frequency = counted.double()
        weights = frequency.sum() / frequency
        self.group_weights = (weights.log() if log else weights).float()

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        self.group_weights = self.group_weights.to(batch.losses)  # stays there: a copy at every step would stall a GPU
        return self.group_weights[batch.groups] / len(batch.losses), state
