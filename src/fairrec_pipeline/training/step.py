"""One optimiser step: losses, then weights, then a backward pass over what has weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairrec_pipeline.models.dropout import KeptMasks, MaskSource
from fairrec_pipeline.models.packing import Buckets
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.models.softmax_head import SoftmaxHead, SoftmaxLosses
from fairrec_pipeline.objectives.base import LossBatch, Objective, State
from fairrec_pipeline.training.batches import Batch, Part
from fairrec_pipeline.training.half_weights import HalfWeights

FEW = 0.5
"""Up to this share of users with weight the step goes through their sequences twice on the CPU, first without and then
with what a backward pass needs. A backward pass costs about twice a forward pass."""


class StepOutcome(NamedTuple):
    """Detached losses (B,) of `batch.users` in nats, the objective's weights (B,) for them, its state afterwards."""

    losses: Tensor
    weights: Tensor
    state: State


class TrainingStep:
    """Minimises `sum_u q_u l_u` over a batch, q from the objective, l_u the mean over the user's real positions.

    Args:
        groups: (n_users,) int64 group of each user on the device; None for group-agnostic objectives.
        bf16: run the products in bfloat16; weights, optimiser state and losses stay float32.
        warm_start_steps: every user weighs the same in so many first steps, and the objective is not asked.
        head: finds the losses; None for one with its defaults.
    """

    decides_on_host = False
    """Whether `gradients` is another program from step to step."""

    def __init__(
        self,
        model: SASRec,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        groups: Tensor | None,
        *,
        bf16: bool = False,
        warm_start_steps: int = 0,
        head: SoftmaxHead | None = None,
    ) -> None:
        self.model, self.optimizer, self.objective, self.groups, self.bf16 = model, optimizer, objective, groups, bf16
        self.warm_start_steps = warm_start_steps
        self.head = head or SoftmaxHead()
        self.half_weights = HalfWeights(model) if bf16 else None
        weights, parameter = objective.item_weights, model.output_table
        self.item_weights = None if weights is None else weights.to(parameter)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as this kind of step launches it: as it is."""
        return function

    @property
    def recordable(self) -> bool:
        """Whether a step is the same launches whatever the data: then a CUDA graph of one serves for others."""
        return not (self.decides_on_host or self.objective.decides_on_host)

    def __call__(self, batch: Batch, state: State, number: int = 0) -> StepOutcome:
        """Step once; `number` counts the steps of the training from 0."""
        outcome = self.backward(batch, state, number)
        self.optimizer.step()
        return outcome

    def backward(self, batch: Batch, state: State, number: int = 0) -> StepOutcome:
        """Losses and fresh gradients, without the optimiser."""
        assert batch.targets is not None  # a training batch
        self.optimizer.zero_grad()
        packed_on_cpu = isinstance(batch.layout, Buckets) and batch.tokens.device.type == "cpu"
        few = self.objective.share_with_weight <= FEW and number >= self.warm_start_steps
        twice = packed_on_cpu and few
        masks = KeptMasks(self.masks(batch)) if twice else self.masks(batch)
        with torch.set_grad_enabled(not twice):
            states = self._states(batch, masks)
        weight = self.model.output_weight()
        if self.bf16:
            states, weight = states.bfloat16(), weight.bfloat16()
        with torch.no_grad():
            of_positions = self.head.losses(states.detach(), weight.detach(), batch.targets)
            losses, factors = of_positions.losses, self._factors(batch)
            per_user = losses.new_zeros(len(batch.users))
            per_user.index_add_(0, batch.rows, losses if factors is None else losses * factors)
            per_user /= batch.lengths
            groups = None if self.groups is None else self.groups[batch.users]
            user_states = states.detach()[batch.ends].float()
            seen = LossBatch(per_user, groups, batch.users, user_states, number, batch.lengths)
            weights, state = self.weigh(batch, seen, state)
            coefficients = (weights / batch.lengths)[batch.rows]
            coefficients = coefficients if factors is None else coefficients * factors
            by_states, by_weight = self.gradients(batch, of_positions, coefficients, number)
        if isinstance(masks, KeptMasks):  # the states once more, now for their gradient, where there is one
            part = batch.part(weights.nonzero()[:, 0])
            if len(part.rows):  # a worker may have no such user
                states = self._states(part, masks.of_some(part.rows, part.sequences)).to(states.dtype)
            by_states = by_states[part.rows]
        self.propagate({states: by_states, weight: by_weight})
        return StepOutcome(per_user, weights, state)

    def propagate(self, gradients: Mapping[Tensor, Tensor]) -> None:
        """Gradients of the parameters, from those by what the loss is made of; some of that may be given."""
        trained = {x: gradient for x, gradient in gradients.items() if x.requires_grad}
        torch.autograd.backward(list(trained), list(trained.values()))
        if self.half_weights:
            self.half_weights.move_gradients()

    def weigh(self, batch: Batch, seen: LossBatch, state: State) -> tuple[Tensor, State]:
        """Weights (B,) of the users, and the objective's state afterwards."""
        if seen.step < self.warm_start_steps:
            return torch.full_like(seen.losses, 1 / len(seen.losses)), state
        return self.objective.weights(seen, state)

    def masks(self, batch: Batch) -> MaskSource:
        """Dropout masks of the states of a batch; those of the output embedding come from the model's own source."""
        return self.model.mask_source

    def _states(self, sequences: Batch | Part, masks: MaskSource) -> Tensor:
        device = sequences.tokens.device.type
        copies = self.half_weights.refresh() if self.half_weights else None
        # what is cast besides is cast once a pass anyway, and a cast that is kept cannot be recorded
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            inputs = (sequences.tokens, sequences.positions, sequences.layout, masks)
            states: Tensor = torch.func.functional_call(self.model, copies, inputs) if copies else self.model(*inputs)
        return states

    def _factors(self, batch: Batch) -> Tensor | None:
        """(n,) what the loss of each position counts with; None for 1."""
        if self.item_weights is None:
            return batch.real
        of_items = self.item_weights[batch.targets]
        return of_items if batch.real is None else of_items * batch.real

    def gradients(
        self, batch: Batch, losses: SoftmaxLosses, coefficients: Tensor, number: int
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the step's loss by the states (n, dim) and the output weight (n_items, dim).

        A method with a second loss on the same states adds its gradients here, where a user has weight. The
        cross-entropies of the n positions count with their coefficients (n,).
        """
        return losses.gradients(coefficients)
