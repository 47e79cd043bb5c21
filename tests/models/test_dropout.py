"""Masks drawn from 16 random bits a value."""

from __future__ import annotations

import pytest
import torch

from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.sasrec import causal_attention


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5])
def test_rate_mean_and_variance(rate: float) -> None:
    """A value is 0 with probability r, else 1 / (1 - r): mean 1, variance r / (1 - r).

    Of n values, the share of zeros has the standard deviation sqrt(r (1 - r) / n); five of them never happen by chance
    with a fixed seed.
    """
    n = 400_000
    out = MaskSource(1).dropout(torch.ones(n), rate)
    within = 5 * (rate * (1 - rate) / n) ** 0.5
    assert abs(float((out == 0).double().mean()) - rate) < within + 2**-16
    assert abs(float(out.double().mean()) - 1) < within / (1 - rate) + 2**-16
    assert float(out.double().var()) == pytest.approx(rate / (1 - rate), rel=0.02)
    assert len(out.unique()) == 2


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


class FixedMask(MaskSource):
    """Gives the mask it was made with."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__(0)
        self.mask = mask

    def dropout(self, x: torch.Tensor, rate: float) -> torch.Tensor:
        return x * self.mask


def test_attention_with_dropout_by_hand() -> None:
    """out_i = sum_{j <= i} m_ij softmax_j(q_i k_j / sqrt(d)) v_j, the softmax over j <= i, one loop a row."""
    generator = torch.Generator().manual_seed(0)
    b, heads, length, d = 2, 3, 5, 4
    q, k, v = torch.randn(3, b, heads, length, d, dtype=torch.float64, generator=generator)
    mask = torch.randint(0, 2, (b, heads, length, length), generator=generator).double() * 2
    expected = torch.zeros_like(v)
    for s in range(b):
        for h in range(heads):
            for i in range(length):
                weights = torch.softmax(k[s, h, : i + 1] @ q[s, h, i] / d**0.5, dim=0)
                expected[s, h, i] = (mask[s, h, i, : i + 1] * weights) @ v[s, h, : i + 1]
    torch.testing.assert_close(causal_attention(q, k, v, FixedMask(mask), 0.5), expected)
    fused = causal_attention(q, k, v, MaskSource(0), 0.0)
    torch.testing.assert_close(causal_attention(q, k, v, FixedMask(torch.ones_like(mask)), 0.5), fused)
