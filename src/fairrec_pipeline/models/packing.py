"""Packed sequences: the tokens of a batch back to back, and the few padded rectangles that attention needs.

Linear layers, norms and the head see real positions only. Attention alone needs sequences side by side; it works on
buckets of similar length, right-padded, where causality already hides the padding. A GPU has a kernel that needs no
padding there either (`Ragged`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Bucket:
    """A run of neighbouring sequences that attention treats as one padded rectangle.

    Attributes:
        rows, sequences: number of packed rows, and of sequences b.
        length: padded length l, the longest of them.
        cells: (rows,) where each packed row lies in the flattened (b * l) rectangle; None without padding.
    """

    rows: int
    sequences: int
    length: int
    cells: Tensor | None


class Cells:
    """The rectangles of all buckets one after the other, and where packed rows lie in them; on the CPU."""

    def __init__(self, buckets: list[Bucket]) -> None:
        self._buckets, self.n = list(buckets), 0
        self._indices_by_blocks: dict[int, Tensor] = {}
        cells = []
        for bucket in buckets:
            cells.append((torch.arange(bucket.rows) if bucket.cells is None else bucket.cells) + self.n)
            self.n += bucket.sequences * bucket.length
        self._cells = torch.cat(cells)
        rows = torch.arange(len(self._cells))
        self._sources = torch.zeros(self.n, dtype=torch.int64).index_copy_(0, self._cells, rows)  # rows of the cells

    def of_rows(self, rows: Tensor, blocks: int) -> Tensor:
        """(n, blocks x width) packed rows as (blocks, cells, width), zeros where there is no position."""
        cells = rows.new_zeros(blocks * self.n, rows.shape[1] // blocks)
        return cells.index_copy_(0, self._indices(blocks), rows.reshape(-1, cells.shape[1])).view(blocks, self.n, -1)

    def of_rows_unfilled(self, rows: Tensor, blocks: int) -> Tensor:
        """`of_rows` in half the time, with the first row where there is no position: causality hides it."""
        indices = (blocks * self._sources + torch.arange(blocks)[:, None]).flatten()
        return rows.reshape(blocks * len(rows), -1).index_select(0, indices).view(blocks, self.n, -1)

    def to_rows(self, cells: Tensor) -> Tensor:
        """Inverse of `of_rows`."""
        return cells.flatten(0, 1).index_select(0, self._indices(len(cells))).view(len(self._cells), -1)

    def by_bucket(self, cells: Tensor) -> list[Tensor]:
        """(heads, cells, width) as (heads, b, l, width) of every bucket."""
        sizes = [bucket.sequences * bucket.length for bucket in self._buckets]
        parts = zip(self._buckets, cells.split(sizes, dim=1), strict=True)
        return [part.unflatten(1, (bucket.sequences, bucket.length)) for bucket, part in parts]

    def _indices(self, blocks: int) -> Tensor:
        if blocks not in self._indices_by_blocks:
            self._indices_by_blocks[blocks] = (self._cells[:, None] + self.n * torch.arange(blocks)).flatten()
        return self._indices_by_blocks[blocks]


class Buckets(list[Bucket]):
    """All sequences of a batch, as the rectangles that attention works on."""

    @cached_property
    def cells(self) -> Cells:
        """Made once for all blocks of a model."""
        return Cells(self)


@dataclass(frozen=True)
class Ragged:
    """All sequences of a batch back to back, for a kernel that takes them as they are.

    Attributes:
        offsets: (sequences + 1,) int32, where each sequence begins and the last one ends; no shape depends on lengths.
        longest: none of the sequences is longer.
    """

    offsets: Tensor
    longest: int


Layout = Buckets | Ragged
"""How the sequences of a batch lie, for attention."""


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x from the CPU on the device, without waiting for what the device is doing."""
    if device.type == "cuda":
        x = x.pin_memory()  # else the copy would wait
    return x.to(device, non_blocking=True)


def buckets_of(lengths: Tensor, device: torch.device) -> Buckets:
    """Cut sequences of these lengths (int64 on the CPU, descending, at least 1 each) where the length doubles."""
    doubling = torch.ceil(torch.log2(lengths.double())).clamp(min=3)  # up to 8 positions are one bucket
    _, counts = torch.unique_consecutive(doubling, return_counts=True)
    buckets, first = Buckets(), 0
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


class _Rows(torch.autograd.Function):
    """Rows (m, d) of a table (n, d) by index, with a backward pass in one operation.

    That of autograd goes row by row. On a GPU that of `torch.nn.functional.embedding` takes many times as long: there
    one block of threads walks all indices for every few columns. Its sums have an order, these have none. Where no
    index comes twice there is nothing to add up.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, indices: Tensor, unique: bool = False) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.n, ctx.unique = len(table), unique
        return table.index_select(0, indices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        total = grad.new_zeros(ctx.n, grad.shape[1])
        return (total.index_copy_ if ctx.unique else total.index_add_)(0, indices, grad), None, None


rows_of_table: Callable[..., Tensor] = _Rows.apply


def pad(rows: Tensor, bucket: Bucket) -> Tensor:
    """Packed rows (rows, d) of a bucket as (b, l, d), zeros where there is no position."""
    if bucket.cells is not None:
        cells = rows.new_zeros(bucket.sequences * bucket.length, rows.shape[1])
        rows = cells.index_copy_(0, bucket.cells, rows)
    return rows.view(bucket.sequences, bucket.length, -1)


def unpad(rectangle: Tensor, bucket: Bucket) -> Tensor:
    """Inverse of `pad`: (b, l, ...) to packed rows (rows, d)."""
    rows = rectangle.reshape(bucket.sequences * bucket.length, -1)
    return rows if bucket.cells is None else rows_of_table(rows, bucket.cells, True)
