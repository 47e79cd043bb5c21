"""Causal attention over packed sequences, bucket by bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.packing import Bucket, pad, unpad


def causal_attention(qkv: Tensor, buckets: list[Bucket], heads: int, mask_source: MaskSource, rate: float) -> Tensor:
    """Softmax attention of every position over its sequence up to itself, with dropout on the attention weights.

    Args:
        qkv: (n, 3 dim) queries, keys and values, each of `heads` heads.
        buckets: the sequences.
        rate: of dropout.

    Returns:
        (n, dim), the heads side by side.
    """
    if rate == 0 or qkv.device.type != "cpu":
        parts = []
        # one split: the backward pass of a slice would fill a tensor of the whole size with zeros
        for bucket, rows in zip(buckets, qkv.split([bucket.rows for bucket in buckets]), strict=True):
            q, k, v = _heads(pad(rows, bucket), heads)
            attended = functional.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
            parts.append(unpad(attended.transpose(1, 2), bucket))
        return torch.cat(parts)
    # on the CPU the fused kernel has no dropout
    factors = [
        mask_source.factors((bucket.sequences, heads, bucket.length, bucket.length), rate, qkv.dtype)
        for bucket in buckets
    ]
    return _dropped_attention(qkv, buckets, heads, factors)


class _DroppedAttention(torch.autograd.Function):
    """Both passes by hand: a batch has many small buckets, and autograd's bookkeeping would cost more than they do."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, buckets: list[Bucket], heads: int, factors: list[Tensor]) -> Tensor:
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        ctx.saved = []
        ctx.heads, first = heads, 0
        for bucket, factor in zip(buckets, factors, strict=True):
            rows = slice(first, first + bucket.rows)
            q, k, v = _heads(pad(qkv[rows], bucket), heads)
            future = torch.ones(bucket.length, bucket.length, dtype=torch.bool).triu(1)
            scores = (q @ k.transpose(-2, -1)).mul_(q.shape[-1] ** -0.5).masked_fill_(future, float("-inf"))
            weights = torch.softmax(scores, dim=-1)
            out[rows] = unpad(((weights * factor) @ v).transpose(1, 2), bucket)
            ctx.saved.append((rows, bucket, q, k, v, weights, factor))
            first += bucket.rows
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        grad_qkv = grad.new_empty(len(grad), 3 * grad.shape[1])
        for rows, bucket, q, k, v, weights, factor in ctx.saved:
            rectangle = grad.new_empty(bucket.sequences, bucket.length, grad_qkv.shape[1])
            grad_q, grad_k, grad_v = _heads(rectangle, ctx.heads)
            grad_out = pad(grad[rows], bucket).unflatten(2, (ctx.heads, -1)).transpose(1, 2)
            grad_v.copy_((weights * factor).transpose(-2, -1) @ grad_out)
            grad_weights = (grad_out @ v.transpose(-2, -1)).mul_(factor)
            grad_scores = grad_weights.sub_((grad_weights * weights).sum(-1, keepdim=True)).mul_(weights)
            grad_scores.mul_(q.shape[-1] ** -0.5)
            grad_q.copy_(grad_scores @ k)
            grad_k.copy_(grad_scores.transpose(-2, -1) @ q)
            grad_qkv[rows] = unpad(rectangle, bucket)
        return grad_qkv, None, None, None


_dropped_attention: Callable[..., Tensor] = _DroppedAttention.apply


def _heads(rectangle: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(b, l, 3 dim) as three views (b, heads, l, dim / heads)."""
    q, k, v = rectangle.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v
