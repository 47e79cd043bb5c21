"""Several processes that train one model: what they tell each other, by torch.distributed.

Everything that they have to agree on is a sum or comes from the first of them, so no process waits for another in a
branch of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed

from fairrec_pipeline.errors import OptionError

_SMALL = 2**16
"""Tensors of fewer elements are added up as one: each sum costs a round trip."""
_WAIT = timedelta(days=7)
"""The others wait while the first one validates. Whoever started the processes ends them when one of them dies."""


@dataclass(frozen=True)
class Team:
    """The processes that train one model together; by itself a process is a team of one, which tells nobody anything.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Team:
        """That of this process: the group that torch.distributed was initialised with, as by torchrun."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @property
    def is_first(self) -> bool:
        """Whether this process does what one has to do for all."""
        return self.rank == 0

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Make each tensor the sum of those of all processes, in place; the same bits everywhere."""
        if self.size == 1:
            return
        small, large = list[Tensor](), list[Tensor]()
        for tensor in tensors:
            (small if tensor.numel() < _SMALL else large).append(tensor)
        sums = [distributed.all_reduce(tensor, async_op=True) for tensor in large]
        if small:
            flat = torch.cat([tensor.flatten() for tensor in small])
            distributed.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in small])
            torch._foreach_copy_(small, [part.view_as(tensor) for part, tensor in zip(parts, small, strict=True)])
        for each in sums:
            each.wait()

    def follow_first(self, tensors: Iterable[Tensor]) -> None:
        """Make each tensor that of the first process, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def from_first(self, number: Callable[[], float], device: torch.device) -> float:
        """A number that only the first process works out; through a tensor on the device."""
        if self.size == 1:
            return number()
        told = torch.tensor(number() if self.is_first else 0.0, dtype=torch.float64, device=device)
        distributed.broadcast(told, 0)
        return float(told)


@contextmanager
def joined(rank: int, size: int, meeting_place: Path, device: str) -> Iterator[Team]:
    """Within this context the process is one of a team on this machine.

    Args:
        rank, size: see `Team`.
        meeting_place: a file that all processes of the team name, and that does not exist before.
        device: `cpu` talks by gloo; `cuda` by NCCL, and each process has the GPU of its rank.

    Raises:
        OptionError: there are fewer GPUs than processes.
    """
    if device == "cuda":
        require_gpus(size)
        torch.cuda.set_device(rank)
    store = distributed.FileStore(str(meeting_place), size)  # type: ignore[attr-defined]
    backend = "nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_WAIT)
    yield Team.here()
    # not after an error: the others would raise that the connection is lost, perhaps before the cause is told
    distributed.destroy_process_group()


def require_gpus(workers: int) -> None:
    """Raise an OptionError where there are fewer GPUs than workers."""
    if workers > torch.cuda.device_count():
        raise OptionError(
            f"train.workers={workers} on CUDA needs as many GPUs, and torch sees {torch.cuda.device_count()}; "
            "set train.workers to that number, or device=cpu"
        )
