"""Group DRO (Sagawa et al. 2020) and Streaming DRO (Wen et al. 2022): the worst mixture of known groups.

Loss (paper, equation 5): `sum_g w_g L_g`, L_g the batch mean of group g, so q_u = w_g / n_g for the n_g users of g.
The group weights w climb by exponentiated gradient before the model moves: `w_g <- w_g exp(eta L_g)`, normalised.
Streaming DRO climbs on `S_g <- (1 - beta) S_g + beta L_g` instead, which a small group moves more calmly.
With an adjustment C (Sagawa et al. 2020, section 3.3) the weights climb on `L_g + C / sqrt(N_g)`, N_g the users of g in
the training data: a small group is fitted better than it generalises, and its training loss says too little.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fairrec_pipeline.objectives.base import LossBatch, Objective, Population, State


class GroupDro(Objective):
    """Group DRO; Streaming DRO when `beta` is given.

    Args:
        population: gives the number of users of each of the G groups.
        eta: step of the exponentiated gradient.
        beta: step of the streaming loss; None for Group DRO.
        absent_groups: what happens to a group without a user in the batch. `climb`: its streaming loss stays, and its
            weight climbs on it, as in Wen et al. 2022; without `beta` it climbs on the last loss that it had. `keep`:
            neither moves. `decay`: it enters with loss 0, as in the published code, which drives the weight of a rare
            group to nothing.
        adjustment: C of the generalisation adjustment, in nats; 0 for none.
        balanced_batches: see `Objective`.
    """

    def __init__(
        self,
        population: Population,
        *,
        eta: float,
        absent_groups: Literal["climb", "keep", "decay"],
        beta: float | None = None,
        adjustment: float = 0.0,
        balanced_batches: bool = False,
    ) -> None:
        assert population.group_users is not None  # the builder has checked that there are groups
        self.n_groups, self.names = population.n_groups, population.group_names
        self.eta, self.absent_groups = eta, absent_groups
        self.beta = 1.0 if beta is None and absent_groups == "climb" else beta  # the last loss has to be remembered
        self.adjustments = adjustment / population.group_users.double().clamp(min=1).sqrt()
        self.balanced_batches = balanced_batches

    def initial_state(self) -> State:
        # logarithms: the weight of an easy group may fall below the smallest float, and has to find back from there
        state = {"log_group_weights": torch.full((self.n_groups,), -math.log(self.n_groups))}
        if self.beta is not None:
            state["streaming_losses"] = torch.zeros(self.n_groups)
        return state

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        assert batch.groups is not None  # the builder has checked that there are groups
        log_weights = state["log_group_weights"].to(batch.losses)
        sums = batch.losses.new_zeros(self.n_groups).index_add_(0, batch.groups, batch.losses)
        counts = batch.losses.new_zeros(self.n_groups).index_add_(0, batch.groups, torch.ones_like(batch.losses))
        self.adjustments = self.adjustments.to(sums)  # stays there: a copy at every step would stall a GPU
        losses = sums / counts.clamp(min=1) + self.adjustments
        present, all_groups = counts > 0, torch.ones_like(counts, dtype=torch.bool)
        moves = present if self.absent_groups == "keep" else all_groups

        new_state = {}
        if self.beta is not None:
            streaming = state["streaming_losses"].to(losses)
            heard = all_groups if self.absent_groups == "decay" else present
            losses = torch.where(heard, (1 - self.beta) * streaming + self.beta * losses, streaming)
            new_state["streaming_losses"] = losses

        # those that move share what they had before
        still = ~moves
        climbed = log_weights + self.eta * losses
        excess = climbed.masked_fill(still, -math.inf).logsumexp(0) - log_weights.masked_fill(
            still, -math.inf
        ).logsumexp(0)
        log_weights = torch.where(moves, climbed - excess, log_weights)
        new_state["log_group_weights"] = log_weights
        return log_weights.exp()[batch.groups] / counts[batch.groups], new_state

    def history(self, state: State) -> dict[str, float]:
        weights = state["log_group_weights"].exp().tolist()
        return {f"group_weight_{name}": weight for name, weight in zip(self.names, weights, strict=True)}
