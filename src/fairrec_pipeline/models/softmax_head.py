"""Softmax cross-entropy over the catalogue, in two phases: losses first, gradients once their weights are known.

A robust objective turns losses into weights, so the weights exist only after the forward pass. Splitting the head
there lets the backward pass touch only positions that have weight (under CVaR(0.3), three of ten users), and it never
needs the (positions, items) logits at once: the catalogue is walked in chunks.

What is kept between the phases is `exp(logit - chunk maximum)`, if it fits into `keep_bytes`; a softmax is then one
scale per row, which is moved onto the small factors of the two products. Otherwise each chunk is computed again,
exactly, since dropout lies outside of the head.
"""

from __future__ import annotations

import torch
from torch import Tensor

KEEP_BYTES = 2**29
CHUNK = 512


class SoftmaxHead:
    """Cross-entropy of `softmax(states @ weight.T)` without its logits.

    Buffers are kept from call to call: fresh memory of that size would cost as much as the product itself.

    Args:
        keep_bytes: how much of the exponentiated logits may be kept for the gradients.
        chunk: number of items at a time.
    """

    def __init__(self, keep_bytes: int = KEEP_BYTES, chunk: int = CHUNK) -> None:
        self.keep_bytes, self.chunk = keep_bytes, chunk
        self._buffer = torch.empty(0)

    def losses(self, states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of every position, in nats.

        Args:
            states: (n, dim).
            weight: (n_items, dim), output embedding of the catalogue.
            targets: (n,) item codes.

        Returns:
            (n,) losses, float32 or wider.
        """
        n, n_items = len(states), len(weight)
        starts = range(0, n_items, self.chunk)
        self._kept = n * n_items * states.element_size() <= self.keep_bytes
        size = n * n_items if self._kept else n * self.chunk
        if self._buffer.numel() < size or self._buffer.dtype != states.dtype or self._buffer.device != states.device:
            self._buffer = states.new_empty(size)
        self._states, self._weight, self._targets = states, weight, targets
        wide = torch.promote_types(states.dtype, torch.float32)
        maxima, sums = states.new_empty(len(starts), n, dtype=wide), states.new_empty(len(starts), n, dtype=wide)
        for i, start in enumerate(starts):
            logits = self._logits(start, states)
            highest = logits.amax(1)
            exponentials = logits.sub_(highest[:, None]).exp_()
            maxima[i], sums[i] = highest, exponentials.sum(1, dtype=wide)
        self._maxima = maxima
        self._log_normaliser = torch.logsumexp(maxima + sums.log(), dim=0)
        return self._log_normaliser - (states * weight[targets]).sum(1, dtype=wide)

    def gradients(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of `sum(coefficients * losses)` by the states (n, dim) and the weight (n_items, dim).

        Args:
            coefficients: (n,) one factor a position; positions with 0 cost nothing on the CPU.
        """
        states, weight, targets = self._states, self._weight, self._targets
        rows = self._rows_with_weight(coefficients)
        if rows is not None:
            states, targets, coefficients = states[rows], targets[rows], coefficients[rows]
        log_normaliser = self._log_normaliser if rows is None else self._log_normaliser[rows]
        grad_states, grad_weight = torch.zeros_like(states), torch.empty_like(weight)
        for i, start in enumerate(range(0, len(weight), self.chunk)):
            stop = min(start + self.chunk, len(weight))
            maxima = self._maxima[i] if rows is None else self._maxima[i, rows]
            if self._kept:
                exponentials = self._kept_chunk(start, stop, len(self._states))
                exponentials = exponentials if rows is None else exponentials[rows]
            else:
                exponentials = self._logits(start, states).sub_(maxima[:, None]).exp_()
            scale = (coefficients * torch.exp(maxima - log_normaliser)).to(states.dtype)[:, None]
            grad_states += scale * (exponentials @ weight[start:stop])
            torch.mm(exponentials.T, scale * states, out=grad_weight[start:stop])
        own = coefficients.to(states.dtype)[:, None]
        grad_states -= own * weight[targets]
        grad_weight.index_add_(0, targets, own * states, alpha=-1)
        if rows is not None:
            grad_states = torch.zeros_like(self._states).index_copy_(0, rows, grad_states)
        return grad_states, grad_weight

    def _logits(self, start: int, states: Tensor) -> Tensor:
        """(n, chunk) logits of the items from `start`, in the buffer."""
        stop = min(start + self.chunk, len(self._weight))
        if self._kept:
            out = self._kept_chunk(start, stop, len(states))
        else:
            out = self._buffer[: len(states) * (stop - start)].view(len(states), stop - start)
        return torch.mm(states, self._weight[start:stop].T, out=out)

    def _kept_chunk(self, start: int, stop: int, n: int) -> Tensor:
        return self._buffer[n * start : n * stop].view(n, stop - start)

    @staticmethod
    def _rows_with_weight(coefficients: Tensor) -> Tensor | None:
        """Positions to go through, None for all: asking a GPU for their number would stall it."""
        if coefficients.device.type != "cpu":
            return None
        rows = coefficients.nonzero()[:, 0]
        return None if len(rows) == len(coefficients) else rows
