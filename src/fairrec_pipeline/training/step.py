"""One optimiser step: losses, then weights, then a backward pass over what has weight."""

from __future__ import annotations

import torch
from torch import Tensor

from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.objectives.base import LossBatch, Objective, State
from fairrec_pipeline.training.batches import Batch


class TrainingStep:
    """Minimises `sum_u q_u l_u` over a batch, q from the objective, l_u the mean over the user's real positions.

    Args:
        model, optimizer: what is trained.
        objective: losses in, weights out.
        groups: (n_users,) int64 group of each user on the device; None for group-agnostic objectives.
        bf16: run the products in bfloat16; weights, optimiser state and losses stay float32.
    """

    def __init__(
        self,
        model: SASRec,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        groups: Tensor | None,
        *,
        bf16: bool = False,
        head: SoftmaxHead | None = None,
    ) -> None:
        self.model, self.optimizer, self.objective, self.groups, self.bf16 = model, optimizer, objective, groups, bf16
        self.head = head or SoftmaxHead()
        weights, parameter = objective.item_weights, model.output_embedding.weight
        self.item_weights = None if weights is None else weights.to(parameter)

    def __call__(self, batch: Batch, state: State) -> tuple[Tensor, State]:
        """Step once.

        Returns:
            (B,) detached losses of `batch.users` in nats, and the objective's new state.
        """
        losses, state = self.backward(batch, state)
        self.optimizer.step()
        return losses, state

    def backward(self, batch: Batch, state: State) -> tuple[Tensor, State]:
        """Losses and fresh gradients, without the optimiser."""
        assert batch.targets is not None  # a training batch
        self.optimizer.zero_grad()
        device = batch.tokens.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.bf16):
            states = self.model(batch.tokens, batch.positions, batch.buckets)
            weight = self.model.output_weight()
        if self.bf16:
            states, weight = states.bfloat16(), weight.bfloat16()
        with torch.no_grad():
            losses = self.head.losses(states.detach(), weight.detach(), batch.targets)
            factors = None if self.item_weights is None else self.item_weights[batch.targets]
            per_user = losses.new_zeros(len(batch.users))
            per_user.index_add_(0, batch.rows, losses if factors is None else losses * factors)
            per_user /= batch.lengths
            groups = None if self.groups is None else self.groups[batch.users]
            weights, state = self.objective.weights(LossBatch(per_user, groups), state)
            coefficients = (weights / batch.lengths)[batch.rows]
            coefficients = coefficients if factors is None else coefficients * factors
            gradients = self.head.gradients(coefficients)
        torch.autograd.backward([states, weight], gradients)
        return per_user, state
