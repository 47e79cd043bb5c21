"""Packed sequences: the tokens of a batch back to back, and the few padded rectangles that attention needs.

Linear layers, norms and the head see real positions only. Attention alone needs sequences side by side; it works on
buckets of similar length, right-padded, where causality already hides the padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bucket:
    """A run of neighbouring sequences that attention treats as one padded rectangle.

    Attributes:
        rows: number of rows of the packed tensor that belong to the bucket.
        sequences: number of sequences b.
        length: padded length l, the longest of them.
        cells: (rows,) where each packed row lies in the flattened (b * l) rectangle; None without padding.
    """

    rows: int
    sequences: int
    length: int
    cells: Tensor | None


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x from the CPU on the device, without waiting for what the device is doing."""
    if device.type == "cuda":
        x = x.pin_memory()  # else the copy would wait
    return x.to(device, non_blocking=True)


def buckets_of(lengths: Tensor, device: torch.device) -> list[Bucket]:
    """Cut sequences, sorted by length, where the length doubles.

    Args:
        lengths: (n_sequences,) int64 on the CPU, descending, at least 1 each.
        device: where the cell indices go.
    """
    doubling = torch.ceil(torch.log2(lengths.double())).clamp(min=3)  # up to 8 positions are one bucket
    _, counts = torch.unique_consecutive(doubling, return_counts=True)
    buckets, first = [], 0
    for count in counts.tolist():
        inside = lengths[first : first + count]
        longest, rows = int(inside[0]), int(inside.sum())
        cells = None
        if rows < count * longest:
            before = torch.cumsum(inside, 0) - inside
            shift = torch.arange(count) * longest - before
            cells = to_device(torch.arange(rows) + torch.repeat_interleave(shift, inside), device)
        buckets.append(Bucket(rows, count, longest, cells))
        first += count
    return buckets


class _Pad(torch.autograd.Function):
    """Packed rows (n, d) into the cells of a rectangle (b * l, d); every cell has one row, so backward is a gather."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cells: Tensor, n_cells: int) -> Tensor:
        ctx.save_for_backward(cells)
        return rows.new_zeros(n_cells, rows.shape[1]).index_copy_(0, cells, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (cells,) = ctx.saved_tensors
        return grad.index_select(0, cells), None, None


class _Unpad(torch.autograd.Function):
    """The cells of a rectangle (b * l, d) back to packed rows (n, d); the inverse of `_Pad`."""

    @staticmethod
    def forward(ctx: Any, rectangle: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(cells)
        ctx.n_cells = rectangle.shape[0]
        return rectangle.index_select(0, cells)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (cells,) = ctx.saved_tensors
        return grad.new_zeros(ctx.n_cells, grad.shape[1]).index_copy_(0, cells, grad), None


_pad: Callable[..., Tensor] = _Pad.apply
_unpad: Callable[..., Tensor] = _Unpad.apply


def pad(rows: Tensor, bucket: Bucket) -> Tensor:
    """Packed rows (rows, d) of a bucket as (b, l, d), zeros where there is no position."""
    if bucket.cells is not None:
        rows = _pad(rows, bucket.cells, bucket.sequences * bucket.length)
    return rows.view(bucket.sequences, bucket.length, -1)


def unpad(rectangle: Tensor, bucket: Bucket) -> Tensor:
    """Inverse of `pad`: (b, l, ...) to packed rows (rows, d)."""
    rows = rectangle.reshape(bucket.sequences * bucket.length, -1)
    return rows if bucket.cells is None else _unpad(rows, bucket.cells)
