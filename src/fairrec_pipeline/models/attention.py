"""Causal attention over packed sequences: bucket by bucket, or ragged by a kernel of a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.backends import cuda
from torch.nn import functional

from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.packing import Buckets, Layout, Ragged, pad, unpad


def causal_attention(qkv: Tensor, layout: Layout, heads: int, mask_source: MaskSource, rate: float) -> Tensor:
    """Softmax attention of every position over its sequence up to itself, with dropout on the attention weights.

    From queries, keys and values (n, 3 dim), each of `heads` heads, to (n, dim) with the heads side by side.
    """
    if isinstance(layout, Ragged):
        return _ragged_attention(qkv, layout, heads, rate)
    if rate == 0 or qkv.device.type != "cpu":
        parts = []
        # one split: the backward pass of a slice would fill a tensor of the whole size with zeros
        for bucket, rows in zip(layout, qkv.split([bucket.rows for bucket in layout]), strict=True):
            # (b, heads, l, dim / heads)
            q, k, v = pad(rows, bucket).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
            parts.append(unpad(attended.transpose(1, 2), bucket))
        return torch.cat(parts)
    # on the CPU the fused kernel has no dropout
    factors = [
        mask_source.factors((bucket.sequences, heads, bucket.length, bucket.length), rate, qkv.dtype)
        for bucket in layout
    ]
    return _dropped_attention(qkv, layout, heads, factors)


def has_ragged_kernel(head_width: int, rate: float, device: torch.device) -> bool:
    """Whether `causal_attention` of ragged sequences has a kernel for training: on this GPU, for heads so wide."""
    if device.type != "cuda" or head_width % 8:
        return False
    q = torch.empty(1, 1, 8, head_width, dtype=torch.bfloat16, device=device, requires_grad=True)
    return bool(cuda.can_use_flash_attention(cuda.SDPAParams(q, q, q, None, rate, True, False)))


def _ragged_attention(qkv: Tensor, sequences: Ragged, heads: int, rate: float) -> Tensor:
    """By the kernel under `torch.nn.attention.varlen`, which itself has no dropout; bfloat16 on CUDA.

    On the CPU by a mask over all pairs of positions, which is to check against and needs small batches.
    """
    # (n, heads, dim / heads); cut so that the compiler fuses the backward pass with the sum of the bias
    q, k, v = (part.unflatten(1, (heads, -1)) for part in qkv.chunk(3, 1))
    offsets, longest = sequences.offsets, sequences.longest
    if qkv.device.type != "cpu":
        attended = torch.ops.aten._flash_attention_forward(
            q, k, v, offsets, offsets, longest, longest, rate, True, False
        )[0]
        return cast(Tensor, attended.flatten(1))
    positions = torch.arange(len(qkv), device=qkv.device)
    rows = torch.searchsorted(offsets, positions, right=True)
    visible = (rows[:, None] == rows) & (positions[:, None] >= positions)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=rate)
    return attended[0].transpose(0, 1).flatten(1)


def newest_attention(queries: Tensor, keys_values: Tensor, sequences: Ragged, heads: int) -> Tensor:
    """(B, dim) attention of the newest position of each of B sequences over the whole of it, without dropout.

    Queries (B, dim) are those of the newest positions, keys and values (n, 2 dim) of all. The kernel is that of
    `causal_attention`; on the CPU it is a mask, which is to check against.
    """
    q, offsets = queries.unflatten(1, (heads, -1)), sequences.offsets
    k, v = (part.unflatten(1, (heads, -1)) for part in keys_values.chunk(2, 1))
    if q.device.type != "cpu":
        each = torch.arange(len(q) + 1, dtype=torch.int32, device=q.device)
        attended = torch.ops.aten._flash_attention_forward(
            q, k, v, each, offsets, 1, sequences.longest, 0.0, False, False
        )[0]
        return cast(Tensor, attended.flatten(1))
    rows = torch.searchsorted(offsets, torch.arange(len(k)), right=True) - 1
    visible = torch.arange(len(q))[:, None] == rows
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)[0].transpose(0, 1).flatten(1)


class _DroppedAttention(torch.autograd.Function):
    """Both passes by hand: a batch has many small buckets, and autograd's bookkeeping would cost more than they do.

    Queries, keys and values go into rectangles and come out of them for all buckets at once, each head in a separate
    block, so that every product reads and writes neighbouring memory.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, buckets: Buckets, heads: int, factors: list[Tensor]) -> Tensor:
        cells = buckets.cells
        q, k, v = cells.of_rows_unfilled(qkv, 3 * heads).unflatten(0, (3, heads))
        out = torch.empty_like(q)  # (heads, cells, dim / heads)
        ctx.cells, ctx.saved = cells, []
        for factor, *parts in zip(factors, *map(cells.by_bucket, (q, k, v, out)), strict=True):
            q, k, v, attended = parts  # (heads, b, l, dim / heads) of a bucket
            length, scale = q.shape[2], q.shape[3] ** -0.5
            future = qkv.new_full((length, length), float("-inf")).triu_(1)
            scores = torch.empty_like(factor)
            for head in range(heads):
                torch.baddbmm(future, q[head], k[head].transpose(1, 2), alpha=scale, out=scores[:, head])
            weights = torch.softmax(scores, dim=-1)
            dropped = torch.mul(weights, factor, out=scores)
            for head in range(heads):
                torch.bmm(dropped[:, head], v[head], out=attended[head])
            ctx.saved.append((q, k, v, weights, factor))
        return cells.to_rows(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        cells, heads = ctx.cells, ctx.saved[0][0].shape[0]
        grads = grad.new_empty(3, heads, cells.n, grad.shape[1] // heads)
        grad_and_grads = (cells.of_rows(grad, heads), *grads)
        for saved, *parts in zip(ctx.saved, *map(cells.by_bucket, grad_and_grads), strict=True):
            q, k, v, weights, factor = saved
            grad_out, grad_q, grad_k, grad_v = parts
            dropped, grad_scores = weights * factor, torch.empty_like(weights)
            for head in range(heads):
                torch.bmm(dropped[:, head].transpose(1, 2), grad_out[head], out=grad_v[head])
                torch.bmm(grad_out[head], v[head].transpose(1, 2), out=grad_scores[:, head])
            grad_scores.mul_(factor)
            grad_scores.sub_((grad_scores * weights).sum(-1, keepdim=True)).mul_(weights).mul_(q.shape[-1] ** -0.5)
            for head in range(heads):
                torch.bmm(grad_scores[:, head], k[head], out=grad_q[head])
                torch.bmm(grad_scores[:, head].transpose(1, 2), q[head], out=grad_k[head])
        return cells.to_rows(grads.flatten(0, 1)), None, None, None


_dropped_attention: Callable[..., Tensor] = _DroppedAttention.apply
