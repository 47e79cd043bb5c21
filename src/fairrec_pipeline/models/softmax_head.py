"""Softmax cross-entropy over the catalogue, in two phases: losses first, gradients once their weights are known.

A robust objective turns losses into weights, so the weights exist only after the forward pass. Splitting the head
there lets the backward pass touch only positions that have weight (under CVaR(0.3), three of ten users), and it never
needs the (positions, items) logits at once: the catalogue is walked in chunks.

What is kept between the phases is `exp(logit - level)`, if it fits into `keep_bytes`; the level of a position is one
number for as many chunks as it serves. A softmax is then one scale per position, which is moved onto the small factors
of the two products. Otherwise each chunk is computed again, exactly, since dropout lies outside of the head.

The target's entry becomes probability - 1 before the products. To subtract its part from a finished product would
leave nothing but rounding in bfloat16 where the probability is close to 1.

Items are the rows and positions the columns of a chunk: then the gradient of the weight, the slowest of the three
products the other way round, comes out in its layout and at the rate of the others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

KEEP_BYTES = 2**29
CHUNK = 2048
_LEVEL_SERVES_BELOW = 1e20  # sum of a chunk's exponentials: no overflow here, nor once multiplied with the weights
# A level further than this below the normaliser counts as this far: what it serves is at most 1e20 exp(-70) = 4e-11
# of the whole either way, and the target's entry, at most exp(70), is finite and so is what it is scaled with.
_DEEPEST = 70.0
# Below exp(-60) of the level an exponential is nothing beside a sum that is at least 1. It is kept there, for the
# numbers that are almost 0 slow a product on the CPU down thirty times, and exp(-inf) = 0 is slow to take.
_NOTHING_BELOW = -60.0


class SoftmaxHead:
    """Cross-entropy of `softmax(states @ weight.T)` without its logits.

    The buffer is kept from call to call: fresh memory of that size would cost as much as the product itself.

    Args:
        keep_bytes: how much of the exponentiated logits may be kept for the gradients.
        chunk: number of items at a time; None: `fitting_chunk` of the device.

    Attributes:
        buffer: for the logits; another one as soon as there are more.
    """

    def __init__(self, keep_bytes: int = KEEP_BYTES, chunk: int | None = None) -> None:
        self.keep_bytes, self._chunk = keep_bytes, chunk
        self.buffer = torch.empty(0)

    def losses(self, states: Tensor, weight: Tensor, targets: Tensor) -> SoftmaxLosses:
        """Cross-entropy of every position; its gradients can be had until the next call, which overwrites the buffer.

        Args:
            states: (n, dim).
            weight: (n_items, dim), output embedding of the catalogue.
            targets: (n,) item codes.
        """
        n, n_items = len(states), len(weight)
        chunk = min(self._chunk or fitting_chunk(states.device), n_items)
        kept = n * n_items * states.element_size() <= self.keep_bytes
        size = n * n_items if kept else n * chunk
        if self.buffer.numel() < size or self.buffer.dtype != states.dtype or self.buffer.device != states.device:
            self.buffer = states.new_empty(size)
        return self._made(states, weight, targets, self.buffer, chunk=chunk, kept=kept)

    def _made(self, *arguments: Any, **options: Any) -> SoftmaxLosses:
        return SoftmaxLosses(*arguments, **options)


class SoftmaxLosses:
    """Cross-entropies of n positions, and their gradients for any weights of the positions.

    Made by `SoftmaxHead.losses`. Where `kept`, the exponentials of all chunks stay in the memory for the gradients.

    Attributes:
        losses: (n,) in nats, float32 or wider.
        states, weight: what they are of.
    """

    def __init__(
        self, states: Tensor, weight: Tensor, targets: Tensor, memory: Tensor, *, chunk: int, kept: bool
    ) -> None:
        self.states, self.weight, self._targets = states, weight, targets
        self._memory, self._chunk, self._kept, n, n_items = memory, chunk, kept, len(states), len(weight)
        wide = torch.promote_types(states.dtype, torch.float32)
        self._levels: list[tuple[Tensor, list[int]]] = []  # with the first items of the chunks that a level serves
        totals: list[Tensor] = []
        # the target's logit comes out of the same product as the others: in bfloat16 a second one differs by far more
        # than a small loss
        target_logits = states.new_zeros(n, dtype=wide)
        for start in range(0, n_items, self._chunk):
            logits = self._logits(start, states)
            row, inside = _rows_of(targets - start, len(logits))
            target_logits = torch.where(inside, logits.gather(0, row)[0].to(wide), target_logits)
            if self._levels and states.device.type == "cpu":  # asking a GPU how large a sum is would stall it
                level, starts = self._levels[-1]
                sums = _exponentials(logits, level).sum(0, dtype=wide)
                if bool(sums.max() < _LEVEL_SERVES_BELOW):
                    totals[-1] += sums
                    starts.append(start)
                    continue
                level = torch.maximum(level, self._logits(start, states).amax(0))
            else:
                level = logits.amax(0)
            self._levels.append((level, [start]))
            totals.append(_exponentials(logits, level).sum(0, dtype=wide))
        levels = torch.stack([level for level, _ in self._levels])
        log_normaliser = torch.logsumexp(levels + torch.stack(totals).log(), dim=0)
        self._log_normaliser, target_logits = self._of_catalogue(log_normaliser, target_logits)
        self.losses = self._log_normaliser - target_logits

    def _of_catalogue(self, log_normaliser: Tensor, target_logits: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) each, of the whole catalogue; where the items here are a part of it, a target elsewhere has logit 0."""
        return log_normaliser, target_logits

    def gradients(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of `sum(coefficients * losses)` by the states (n, dim) and the weight (n_items, dim).

        Positions whose coefficient (n,) is 0 cost nothing on the CPU.
        """
        states, weight, targets = self.states, self.weight, self._targets
        log_normaliser, losses = self._log_normaliser, self.losses
        rows = self._rows_with_weight(coefficients)
        if rows is not None:
            states, targets, coefficients = states[rows], targets[rows], coefficients[rows]
            log_normaliser, losses = log_normaliser[rows], losses[rows]
        grad_states = torch.zeros_like(states, dtype=log_normaliser.dtype)  # of many chunks: rounded once, at the end
        grad_weight = torch.empty_like(weight)
        for level_of_all, starts in self._levels:
            level = level_of_all if rows is None else level_of_all[rows]
            depth = (log_normaliser - level).clamp(max=_DEEPEST)
            of_targets = (torch.exp(depth) * torch.expm1(-losses)).to(states.dtype)  # (p - 1) in their units
            scale = (coefficients * torch.exp(-depth))[:, None]
            scaled_states = (scale * states).to(states.dtype)
            stops = [min(start + self._chunk, len(weight)) for start in starts]
            # chunks that are kept as a whole lie next to each other: one product of all is faster than one of each
            whole = self._kept and rows is None
            for start, stop in [(starts[0], stops[-1])] if whole else zip(starts, stops, strict=True):
                if self._kept:
                    exponentials = self._kept_chunk(start, stop, len(self.states))
                    exponentials = exponentials if rows is None else exponentials.index_select(1, rows)
                else:
                    exponentials = _exponentials(self._logits(start, states), level)
                row, inside = _rows_of(targets - start, len(exponentials))
                exponentials.scatter_(0, row, torch.where(inside, of_targets, exponentials.gather(0, row)))
                grad_states += scale * (exponentials.T @ weight[start:stop])
                torch.mm(exponentials, scaled_states, out=grad_weight[start:stop])
        grad_states = grad_states.to(states.dtype)
        if rows is not None:
            grad_states = torch.zeros_like(self.states).index_copy_(0, rows, grad_states)
        return grad_states, grad_weight

    def _logits(self, start: int, states: Tensor) -> Tensor:
        """(chunk, n) logits of the items from `start`, in the buffer."""
        stop = min(start + self._chunk, len(self.weight))
        if self._kept:
            out = self._kept_chunk(start, stop, len(states))
        else:
            out = self._memory[: len(states) * (stop - start)].view(stop - start, len(states))
        return torch.mm(self.weight[start:stop], states.T, out=out)

    def _kept_chunk(self, start: int, stop: int, n: int) -> Tensor:
        return self._memory[n * start : n * stop].view(stop - start, n)

    @staticmethod
    def _rows_with_weight(coefficients: Tensor) -> Tensor | None:
        """Positions to go through, None for all: asking a GPU for their number would stall it."""
        if coefficients.device.type != "cpu":
            return None
        rows = coefficients.nonzero()[:, 0]
        return None if len(rows) == len(coefficients) else rows


def fitting_chunk(device: torch.device) -> int:
    """Number of items at a time that suits the device; the same for every training on it.

    On the CPU larger chunks are no faster. A GPU wants few large products: as many items as a
    sixteenth of its memory holds for 2^15 positions.
    """
    if device.type != "cuda":
        return CHUNK
    return max(CHUNK, torch.cuda.get_device_properties(device).total_memory // 16 // (4 * 2**15))


def _exponentials(logits: Tensor, level: Tensor) -> Tensor:
    """`exp(logit - level)` in place; on the CPU at least exp(-60). A GPU would pay for a pass and gain nothing."""
    below = logits.sub_(level)
    return (below.clamp_(min=_NOTHING_BELOW) if below.device.type == "cpu" else below).exp_()


def _rows_of(targets: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(1, b) row of each of b targets in a chunk of n items, moved into it, and (b,) whether it was there."""
    row = targets.clamp(0, n - 1)[None]
    return row, row[0] == targets
