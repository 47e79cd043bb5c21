"""Adversarially reweighted learning against torch's Adagrad and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fairrec_pipeline.objectives.arl import Arl
from fairrec_pipeline.objectives.base import LossBatch, Population

DIM, B, RATE = 5, 12, 0.3
GENERATOR = torch.Generator().manual_seed(0)


def arl() -> Arl:
    return Arl(Population(torch.ones(1), state_dim=DIM), adversary_learning_rate=RATE)


def random_batch() -> LossBatch:
    states = torch.randn(B, DIM, generator=GENERATOR, dtype=torch.float64)
    return LossBatch(3 * torch.rand(B, generator=GENERATOR, dtype=torch.float64), states=states)


def multipliers(adversary: Tensor, batch: LossBatch) -> Tensor:
    scores = torch.sigmoid(batch.states @ adversary[:DIM] + adversary[DIM])
    return 1 + scores / torch.clamp(scores.mean(), min=1e-4)


def test_twenty_steps_against_torch() -> None:
    """The adversary as a parameter of torch.optim.Adagrad, which minimises the negative mean of m_u l_u."""
    objective, state = arl(), arl().initial_state()
    adversary = torch.zeros(DIM + 1, dtype=torch.float64, requires_grad=True)
    adagrad = torch.optim.Adagrad([adversary], lr=RATE, initial_accumulator_value=0.1)
    for _ in range(20):
        batch = random_batch()
        q, state = objective.weights(batch, state)
        m = multipliers(adversary, batch)
        torch.testing.assert_close(q, (m / m.sum()).detach(), rtol=1e-6, atol=1e-9)
        adagrad.zero_grad()
        (-(m * batch.losses).mean()).backward()
        adagrad.step()
        # the accumulator begins in single precision
        torch.testing.assert_close(state["adversary"], adversary.detach(), rtol=1e-6, atol=1e-8)


def test_the_first_weights_are_those_of_erm() -> None:
    q, _ = arl().weights(random_batch(), arl().initial_state())
    torch.testing.assert_close(q, torch.full_like(q, 1 / B), rtol=1e-12, atol=0)


def test_the_adversary_finds_the_hard_users_and_gives_up_nobody() -> None:
    """The first coordinate of a state tells who is hard; no weight is below 1 / 2B."""
    objective, state = arl(), arl().initial_state()
    for _ in range(100):
        batch = random_batch()
        hard = batch.states[:, 0] > 0
        batch = LossBatch(1.0 + 2.0 * hard, states=batch.states)
        q, state = objective.weights(batch, state)
    assert float(q[hard].mean()) > 1.5 * float(q[~hard].mean())
    assert float(q.min()) >= 0.5 / B
    assert float(q.sum()) == pytest.approx(1)
    assert objective.history(state)["adversary_norm"] == pytest.approx(float(state["adversary"].norm()))


def test_equal_losses_teach_nothing() -> None:
    """m has mean 2 whatever the adversary does, so that its gradient is 0."""
    batch = LossBatch(torch.full((B,), 4.0, dtype=torch.float64), states=random_batch().states)
    _, state = arl().weights(batch, arl().initial_state())
    torch.testing.assert_close(state["adversary"], torch.zeros(DIM + 1, dtype=torch.float64), rtol=0, atol=1e-12)
