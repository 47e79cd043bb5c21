"""The least time a training step can take: its products at the rate of this machine, its bytes at its bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fairrec_pipeline.models.softmax_head import CHUNK

_ROWS, _ITEMS = 1600, 16_384


def step_flops(lengths: list[int], n_items: int, backbone: Mapping[str, Any]) -> float:
    """Multiplications and additions that the products of a training step need, forward and backward, no padding.

    Args:
        lengths: real positions of each sequence of the batch.
        n_items: size of the catalogue.
        backbone: dim, feed_forward, blocks.

    Returns:
        3 (forward, and two products backward) x 2 x positions x (blocks (4 dim^2 + 2 dim feed_forward) + dim n_items)
        for the linear layers and the head, and 3 x 2 x blocks x dim x sum length (length + 1) for causal attention.
    """
    dim, blocks = backbone["dim"], backbone["blocks"]
    linear = blocks * (4 * dim**2 + 2 * dim * backbone["feed_forward"]) + dim * n_items
    attention = blocks * dim * sum(length * (length + 1) for length in lengths)
    return 6.0 * (sum(lengths) * linear + attention)


def step_bytes(lengths: list[int], n_items: int, backbone: Mapping[str, Any]) -> float:
    """Bytes of single-precision weights that must pass through memory, caches aside.

    Adam reads weight, gradient and two moments and writes back three of them, the backward pass writes the gradient: 8
    per weight. The head reads the output embedding forward and backward: 2 more per weight of it.
    """
    dim = backbone["dim"]
    layers = backbone["blocks"] * (4 * dim**2 + 2 * dim * backbone["feed_forward"])
    output = n_items * dim
    return 4.0 * (8 * (2 * output + layers + backbone["max_length"] * dim) + 2 * output)


class Machine:
    """Rates of the machine, measured with as many threads as torch uses.

    The product is that of the softmax head, a block of states with a chunk of the catalogue, which is where most of
    the work is; it runs faster than one product with the whole catalogue.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._states, self._items = torch.randn(_ROWS, 256), torch.randn(_ITEMS, 256)
        self._out = torch.empty(CHUNK, _ROWS)
        self._from, self._to = torch.ones(2**24), torch.empty(2**24)

    def matmul_rates(self) -> tuple[float, float]:
        """FLOP/s of single-precision products: of several in a row, about as long as a step takes, and of the best.

        A step meets whatever slows the machine down for a moment, and so does the first; the best does not.
        """
        flops, seconds = 2 * self._states.numel() * _ITEMS, _timed(self._products, times=5)
        return len(seconds) * flops / sum(seconds), flops / min(seconds)

    def copy_rate(self) -> float:
        """Bytes/s read plus written by a copy of 64 MiB."""
        return 2 * 4 * self._from.numel() / min(_timed(lambda: self._to.copy_(self._from), times=3))

    def _products(self) -> None:
        for chunk in self._items.split(CHUNK):
            torch.mm(chunk, self._states.T, out=self._out)


def _timed(work: Callable[[], object], times: int) -> list[float]:
    """Seconds of each run."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return seconds
