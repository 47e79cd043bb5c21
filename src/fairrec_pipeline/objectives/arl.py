"""Adversarially reweighted learning (Lahoti et al. 2020): an adversary finds in which states the losses are high."""

from __future__ import annotations

import torch
from torch import Tensor

from fairrec_pipeline.objectives.base import LossBatch, Objective, Population, State

_ACCUMULATED = 0.1
"""Where Adagrad's sums of squares begin, as in the original code (TensorFlow's default)."""


class Arl(Objective):
    """`q_u` proportional to `m_u = 1 + s_u / max(mean s, 1e-4)`, normalised to sum 1; `s_u = sigmoid(a . z_u + b)`.

    z_u is the user's detached state; the original adversary sees the features, and is linear too. After every batch it
    makes one step of Adagrad up the mean of `m_u l_u`, so that the weights come from the batches before. It starts at
    0, where they are those of ERM. No weight is below half of ERM's: nobody is given up.

    Args:
        population: gives the width of a user's state.
        adversary_learning_rate: of Adagrad.
    """

    reads_states = True

    def __init__(self, population: Population, *, adversary_learning_rate: float) -> None:
        self.dim, self.learning_rate = population.state_dim, adversary_learning_rate

    def initial_state(self) -> State:
        zeros = torch.zeros(self.dim + 1)  # the bias comes last
        return {"adversary": zeros, "accumulated": torch.full_like(zeros, _ACCUMULATED)}

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        adversary, accumulated = state["adversary"].to(batch.losses), state["accumulated"].to(batch.losses)
        states = batch.states.to(batch.losses)
        with torch.enable_grad():
            adversary = adversary.detach().requires_grad_()
            scores = torch.sigmoid(states @ adversary[:-1] + adversary[-1])
            multipliers = 1 + scores / scores.mean().clamp(min=1e-4)
            (gradient,) = torch.autograd.grad((multipliers * batch.losses).mean(), adversary)
        accumulated = accumulated + gradient.square()
        climbed = adversary.detach() + self.learning_rate * gradient / accumulated.sqrt()
        q = multipliers.detach()
        return q / q.sum(), {"adversary": climbed, "accumulated": accumulated}

    def history(self, state: State) -> dict[str, float]:
        return {"adversary_norm": float(state["adversary"].norm())}
