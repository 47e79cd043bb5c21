"""Masks drawn from 16 random bits a value."""

from __future__ import annotations

import pytest
import torch

from fairrec_pipeline.models.dropout import MaskSource


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5])
def test_rate_mean_and_variance(rate: float) -> None:
    """A value is 0 with probability r, else 1 / (1 - r): mean 1, variance r / (1 - r).

    Of n values, the share of zeros has the standard deviation sqrt(r (1 - r) / n); five of them never happen by chance
    with a fixed seed. The rate of one mask is a multiple of 1/256.
    """
    n = 400_000
    out = MaskSource(1).dropout(torch.ones(n), rate)
    within = 5 * (rate * (1 - rate) / n) ** 0.5
    assert abs(float((out == 0).double().mean()) - rate) < within + 2**-8
    assert abs(float(out.double().mean()) - 1) < (within + 2**-8) / (1 - rate)
    assert float(out.double().var()) == pytest.approx(rate / (1 - rate), rel=0.02)
    assert len(out.unique()) == 2


def test_over_many_masks_the_rate_is_exact() -> None:
    """The mean rate of m masks of n values has the variance r (1 - r) / (m n), plus at most 1 / (4 m 256^2) by chance.

    0.1 is 25.6 / 256: rounded for good it would be off by 0.0016.
    """
    source, masks, n, rate = MaskSource(2), 1000, 2000, 0.1
    zeros = sum(float((source.factors((n,), rate, torch.float32) == 0).double().mean()) for _ in range(masks)) / masks
    deviation = (rate * (1 - rate) / (masks * n) + 1 / (4 * masks * 256**2)) ** 0.5
    assert abs(zeros - rate) < 4 * deviation < 0.0016


def test_masks_are_a_function_of_the_seed_words() -> None:
    x = torch.ones(1000)
    first, second = (MaskSource(3, 4).dropout(x, 0.5) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, MaskSource(3, 5).dropout(x, 0.5))


def test_masks_of_one_source_are_independent() -> None:
    """The correlation of n pairs of fair coins has the standard deviation 1 / sqrt(n)."""
    source, n = MaskSource(0), 100_000
    pair = torch.stack([source.dropout(torch.ones(n), 0.5) for _ in range(2)])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / n**0.5


def test_gradient_passes_through_the_same_mask() -> None:
    x = torch.randn(1000, requires_grad=True)
    out = MaskSource(2).dropout(x, 0.3)
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(out == 0, 0.0, out.detach() / x.detach()))


def test_rate_zero_draws_nothing() -> None:
    source, x = MaskSource(6), torch.ones(100)
    assert source.dropout(x, 0) is x
    assert torch.equal(source.dropout(x, 0.5), MaskSource(6).dropout(x, 0.5))
