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
        size = math.prod(shape)
        threshold = math.floor(rate * _LEVELS + self._numpy.random())  # of all masks the rate is exact
        words = self._numpy.integers(2**64, size=-(-size // 8), dtype=np.uint64)  # eight values a word
        kept = torch.from_numpy((words.view(np.uint8)[:size] >= threshold).view(np.uint8)).view(*shape)
        return kept.to(dtype).mul_(1 / (1 - rate))


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
