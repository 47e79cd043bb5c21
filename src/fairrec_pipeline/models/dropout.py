"""Dropout whose masks can be seeded, and cost little on the CPU.

`torch.nn.functional.dropout` draws one Bernoulli number at a time on the CPU: 0.1 s for the 4.6 million weights of an
output embedding, a fifth of a training step. Eight random bits a value are enough and over ten times cheaper to
draw: what a rate lacks to a multiple of 1/256 is made up by chance, from mask to mask.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_LEVELS = 2**8
_WORDS_AT_ONCE = 2**20


class MaskSource:
    """Random numbers for dropout masks on the CPU, a function of the seed words alone; on CUDA torch draws them."""

    def __init__(self, *seed: int) -> None:
        self._numpy = np.random.Generator(np.random.SFC64(seed))

    def dropout(self, x: Tensor, rate: float) -> Tensor:
        """Zero elements of x with the given rate and scale the rest, so that the expectation stays x."""
        if rate == 0:
            return x
        if x.device.type != "cpu":
            return torch.nn.functional.dropout(x, rate)
        return x * self.factors(x.shape, rate, x.dtype)

    def factors(self, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
        """What dropout on the CPU multiplies with: 0 or 1 / (1 - rate).

        The share of zeros is the rate over many masks; within one, it is a multiple of 1/256 next to it.
        """
        return self.kept(shape, rate).to(dtype).mul_(1 / (1 - rate))

    def kept(self, shape: Sequence[int], rate: float) -> Tensor:
        """The next mask, uint8: 1 for what is kept."""
        size = math.prod(shape)
        threshold = math.floor(rate * _LEVELS + self._numpy.random())  # of all masks the rate is exact
        words = self._numpy.integers(2**64, size=-(-size // 8), dtype=np.uint64)  # eight values a word
        return torch.from_numpy((words.view(np.uint8)[:size] >= threshold).view(np.uint8)).view(*shape)

    def kept_rows(self, shape: tuple[int, int], rate: float, rows: range) -> Tensor:
        """`kept(shape, rate)[rows]` in the memory of these rows."""
        threshold = math.floor(rate * _LEVELS + self._numpy.random())
        first, last = (row * shape[1] for row in (rows.start, rows.stop))
        words, drawn, parts = -(-math.prod(shape) // 8), 0, []
        while drawn < words:
            some = self._numpy.integers(2**64, size=min(_WORDS_AT_ONCE, words - drawn), dtype=np.uint64)
            values = some.view(np.uint8)[max(0, first - 8 * drawn) : max(0, last - 8 * drawn)]
            parts.append((values >= threshold).view(np.uint8))
            drawn += len(some)
        return torch.from_numpy(np.concatenate(parts)).view(-1, shape[1])


class TorchMasks(MaskSource):
    """Masks that torch draws, on the CPU too: for functions that are compiled, which has no way to ours."""

    def __init__(self) -> None:
        super().__init__(0)

    def dropout(self, x: Tensor, rate: float) -> Tensor:
        return torch.nn.functional.dropout(x, rate)


class MasksOfPart(MaskSource):
    """Masks of a whole batch, of which a process needs those of its own sequences.

    It draws all of them and keeps its own, so that a sequence has the same masks whichever process it is in.

    Args:
        source: of the whole batch; what it draws next is that of the whole batch, too.
        rows: (n,) ascending, which of the positions of the whole batch are its own.
        n_rows: number of positions of the whole batch.
        buckets: number of sequences and padded length of each bucket of the whole batch.
        sequences: which of them are its own, for each of these buckets, counted within it.
    """

    def __init__(
        self,
        source: MaskSource,
        rows: Tensor,
        n_rows: int,
        buckets: Sequence[tuple[int, int]],
        sequences: Sequence[Tensor],
    ) -> None:
        self._source, self._rows, self._n_rows = source, rows, n_rows
        self._buckets, self._sequences = buckets, sequences
        self._waiting: list[Tensor] = []  # masks of attention for the next buckets

    def kept(self, shape: Sequence[int], rate: float) -> Tensor:
        if len(shape) == 2:
            return self._source.kept((self._n_rows, shape[1]), rate)[self._rows]
        if not self._waiting:  # the first bucket of a block
            for (count, length), inside in zip(self._buckets, self._sequences, strict=True):
                mask = self._source.kept((count, shape[1], length, length), rate)
                if len(inside):
                    self._waiting.append(mask[inside])
        return self._waiting.pop(0)[..., : shape[-2], : shape[-1]]  # the longest of its own may be shorter


class KeptMasks(MaskSource):
    """Masks of a source that are kept, for a second pass of some of the sequences."""

    def __init__(self, source: MaskSource) -> None:
        self._source, self._drawn = source, list[Tensor]()

    def factors(self, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
        self._drawn.append(self._source.factors(shape, rate, dtype))
        return self._drawn[-1]

    def of_some(self, rows: Tensor, sequences: Sequence[Tensor]) -> MaskSource:
        """The same masks once more, cut down to some `rows` and `sequences` (see `batches.Part`); only once."""
        by_bucket = itertools.cycle(sequences)
        kept = [(mask, rows if mask.dim() == 2 else next(by_bucket)) for mask in self._drawn]
        self._drawn.clear()
        return _CutMasks([mask[rows] for mask, rows in kept if len(rows)])


class _CutMasks(MaskSource):
    def __init__(self, masks: Sequence[Tensor]) -> None:
        self._masks = iter(masks)

    def factors(self, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
        return next(self._masks)[..., : shape[-2], : shape[-1]]  # what is left of a bucket may be shorter
