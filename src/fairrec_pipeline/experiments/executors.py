"""Where trainings run: in this process one after the other, several by turns, or each in a process of its own.

Another engine fills the same places (see `Executor`); that of Ray is in `ray_executor.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, Self

import torch
from tqdm.auto import tqdm

from fairrec_pipeline.arms.record import Card
from fairrec_pipeline.arms.spec import ArmSpec
from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.experiments.processes import SPAWN, end, prepare_process, variables
from fairrec_pipeline.experiments.train_arm import environment, key_of, train_or_diverge, training_or_divergence
from fairrec_pipeline.interactions.prepared import PreparedData
from fairrec_pipeline.training.fit import resolve_device
from fairrec_pipeline.training.turns import CudaLane, Turns


class Executor(Protocol):
    """A context manager in which trainings run."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: Any) -> None: ...

    def key(self, spec: ArmSpec) -> str:
        """Key of a training where it would run: with the torch and the kind of device that are there."""

    def submit(self, spec: ArmSpec) -> Callable[[], Card]:
        """Returns what waits for the training and returns its card; that of a training that diverged says so."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns where the trainings run. After its arguments it is given data and store."""


class LocalExecutor:
    """Trains on this machine what is submitted and not yet complete.

    With `at_once` 1 a training runs when its card is asked for. With more, that many work through what is submitted in
    its order: on a GPU by turns in this process, on the CPU in processes, each with its share of the torch threads.
    What they leave in the store is what a single one would (bit for bit on the CPU with as many threads). An error or
    Ctrl-C ends them. What is complete stays, and what is not goes on from its checkpoint. joblib's workers were tried:
    they outlive a killed parent.

    `total` and `description` are those of the progress bar.
    """

    def __init__(self, data: PreparedData, store: ArmStore, *, at_once: int, total: int, description: str) -> None:
        self._data, self._store, self._at_once = data, store, at_once
        self._pool: ProcessPoolExecutor | None = None
        self._turns = Turns[Card](at_once, CudaLane)
        self._futures: dict[str, Future[Card]] = {}
        self._bar = tqdm(total=total, desc=description, unit="training", disable=total == 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._bar.close()
        self._turns.close()
        if self._pool is None:
            return
        if error is not None:
            end(self._pool)
        self._pool.shutdown(cancel_futures=True)

    def key(self, spec: ArmSpec) -> str:
        return key_of(spec, self._data)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments, self._data, self._store)

    def submit(self, spec: ArmSpec) -> Callable[[], Card]:
        key = self.key(spec)
        if known := self._store.training(key):
            return lambda: self._counted(known)
        if self._at_once == 1:
            return lambda: self._counted(train_or_diverge(spec, self._data, self._store))
        if resolve_device(spec.device).type == "cuda" and spec.train.workers == 1:
            self._turns.add(key, training_or_divergence(spec, self._data, self._store))
            return lambda: self._counted(self._turns.result(key))
        if key not in self._futures:
            with self._alive(), variables(OMP_NUM_THREADS=str(self._threads), TQDM_DISABLE="1"):
                self._futures[key] = self._started().submit(_train_here, spec, environment(spec))
        return lambda: self._counted(self._of_process(key))

    def _of_process(self, key: str) -> Card:
        with self._alive():
            return self._futures[key].result()

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Raise a FairrecError if a process was killed, which may be noticed in any use of the others."""
        try:
            yield
        except BrokenProcessPool as error:
            raise FairrecError(
                f"one of the {self._at_once} processes that train was killed; out of memory? The same command goes on "
                "from the last checkpoints, with another trials_at_once too"
            ) from error

    @property
    def _threads(self) -> int:
        return max(1, torch.get_num_threads() // self._at_once)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._at_once,
                mp_context=SPAWN,
                initializer=_start,
                initargs=(self._data, self._store, self._threads),
            )
        return self._pool

    def _counted(self, card: Card) -> Card:
        self._bar.update()
        return card


# --- in the other processes

_shared: dict[str, Any] = {}


def _start(data: PreparedData, store: ArmStore, threads: int) -> None:
    prepare_process(threads)
    _shared.update(data=data, store=store)


def _train_here(spec: ArmSpec, expected: dict[str, str]) -> Card:
    return train_expected(spec, expected, _shared["data"], _shared["store"])


def train_expected(spec: ArmSpec, expected: dict[str, str], data: PreparedData, store: ArmStore) -> Card:
    """Train in another process than the one that asks for it; the card, also of a training that diverges.

    Raises:
        FairrecError: code, torch or kind of device are not those that are expected.
    """
    if (found := environment(spec)) != expected:
        other = ", ".join(f"{name} {found[name][:12]} instead of {expected[name][:12]}" for name in expected)
        raise FairrecError(
            f"a training is not where it was planned: {other}. Code that was changed meanwhile: start the same command "
            "again. Nodes of a cluster that differ: install the same on all, or say device=cpu"
        )
    return train_or_diverge(spec, data, store)
