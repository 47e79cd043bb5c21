"""Several trainings in one thread, by turns: while a GPU works for one, Python prepares and looks at another.

A training is a generator that pauses wherever the device has an epoch to do. On CUDA each has a stream, so that the
small kernels of several overlap, and random numbers of its own, so that it draws what it would alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")
Work = Generator[None, None, T]


def finished(work: Work[T]) -> T:
    """What a generator returns, without turns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class Turns(Generic[T]):
    """Works through generators in the order in which they are added, some at once.

    Args:
        at_once: so many take turns.
        lane: makes what one of them works in, entered for each of its turns.
    """

    def __init__(self, at_once: int, lane: Callable[[], Callable[[], AbstractContextManager[Any]]]) -> None:
        self._at_once, self._lane = at_once, lane
        self._waiting: dict[str, Work[T]] = {}
        self._running: dict[str, tuple[Work[T], Callable[[], AbstractContextManager[Any]]]] = {}
        self._ended: dict[str, T | Exception] = {}

    def add(self, key: str, work: Work[T]) -> None:
        """Add a generator, unless there is one of this key; nothing happens yet."""
        if key not in self._running and key not in self._ended:
            self._waiting.setdefault(key, work)

    def result(self, key: str) -> T:
        """What the generator of this key returned; until it has, all that run take turns. Raises what it raised."""
        while key not in self._ended:
            while self._waiting and len(self._running) < self._at_once:
                first = next(iter(self._waiting))
                self._running[first] = self._waiting.pop(first), self._lane()
            for name, (work, lane) in list(self._running.items()):
                try:
                    with lane():
                        next(work)
                except StopIteration as end:
                    self._ended[name] = end.value
                except Exception as error:
                    self._ended[name] = error
                if name in self._ended:
                    del self._running[name]
        ended = self._ended[key]
        if isinstance(ended, Exception):
            raise ended
        return ended

    def close(self) -> None:
        """Give up what is not finished."""
        for work, _ in self._running.values():
            work.close()


class CudaLane:
    """A stream of the current GPU, and a state of its random numbers."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._random = torch.Generator("cuda")

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """What is launched goes to the stream; a graph that is recorded keeps the state."""
        default = torch.cuda.default_generators[torch.cuda.current_device()]
        before = default.graphsafe_get_state()
        default.graphsafe_set_state(self._random)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            default.graphsafe_set_state(before)
