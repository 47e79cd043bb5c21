"""Attention over packed sequences against loops over rows, and its gradients against differences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairrec_pipeline.models.attention import causal_attention, has_ragged_kernel
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.packing import Ragged, buckets_of

LENGTHS, HEADS, DIM = [20, 11, 10, 4, 4, 1], 3, 6  # three buckets, the first without padding


class KnownMasks(MaskSource):
    """The same masks at every call, and what they were."""

    def __init__(self) -> None:
        super().__init__(0)
        self.masks: list[Tensor] = []

    def factors(self, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
        generator = torch.Generator().manual_seed(shape[0])
        self.masks.append(2 * torch.randint(0, 2, tuple(shape), generator=generator).to(dtype))
        return self.masks[-1]


def packed() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(sum(LENGTHS), 3 * DIM, dtype=torch.float64)


def attend(qkv: Tensor, source: MaskSource, rate: float) -> Tensor:
    return causal_attention(qkv, buckets_of(torch.tensor(LENGTHS), torch.device("cpu")), HEADS, source, rate)


def test_by_hand() -> None:
    """out_i = sum_{j <= i} m_ij softmax_j(q_i k_j / sqrt(d)) v_j, the softmax over j <= i, one loop a row."""
    qkv, source = packed(), KnownMasks()
    found = attend(qkv, source, 0.5)
    assert [tuple(mask.shape) for mask in source.masks] == [(1, 3, 20, 20), (2, 3, 11, 11), (3, 3, 4, 4)]
    masks = [mask[sequence] for mask in source.masks for sequence in range(len(mask))]
    expected = torch.zeros_like(found)
    for sequence, (rows, mask) in enumerate(zip(torch.arange(len(qkv)).split(LENGTHS), masks, strict=True)):
        q, k, v = qkv[rows].view(LENGTHS[sequence], 3, HEADS, DIM // HEADS).unbind(1)
        for h in range(HEADS):
            for i in range(len(rows)):
                weights = torch.softmax(k[: i + 1, h] @ q[i, h] / (DIM / HEADS) ** 0.5, dim=0)
                place = slice(h * DIM // HEADS, (h + 1) * DIM // HEADS)
                expected[rows[i], place] = (mask[h, i, : i + 1] * weights) @ v[: i + 1, h]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_differences() -> None:
    qkv = packed().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attend(x, KnownMasks(), 0.5), (qkv,))


def test_without_dropout_it_is_the_fused_kernel() -> None:
    class Nothing(MaskSource):
        def factors(self, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
            return torch.ones(*shape, dtype=dtype)

    by_hand, fused = packed().requires_grad_(), packed().requires_grad_()
    direction = torch.randn(sum(LENGTHS), DIM, dtype=torch.float64)
    outs = attend(by_hand, Nothing(0), 0.5), attend(fused, MaskSource(0), 0.0)
    torch.testing.assert_close(*outs, rtol=1e-12, atol=1e-12)
    for out in outs:
        out.backward(direction)
    torch.testing.assert_close(by_hand.grad, fused.grad, rtol=1e-12, atol=1e-12)


def test_ragged_sequences_are_those_of_buckets() -> None:
    qkv = packed()
    offsets = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32)
    found = causal_attention(qkv, Ragged(offsets, 20), HEADS, MaskSource(0), 0.0)
    torch.testing.assert_close(found, attend(qkv, MaskSource(0), 0.0), rtol=1e-12, atol=1e-12)
    assert not has_ragged_kernel(8, 0.0, torch.device("cpu"))
