"""Trainings one after the other, or several at once in processes of their own."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import connection
from typing import Any, Self

import torch
from tqdm.auto import tqdm

from fairrec_pipeline.experiments.train_arm import ArmData, Card, Training, Trials, train_arm
from fairrec_pipeline.training.checkpoint import code_fingerprint
from fairrec_pipeline.training.fit import DivergenceError
from fairrec_pipeline.experiments.grid import DIVERGED


class Trainer:
    """Trains what is submitted and not yet complete; a context manager.

    With `at_once` 1 a training runs when its card is asked for. With more, that many processes take what is submitted
    in its order, each with its share of the torch threads; what they leave in `trials` is what a single process would
    (bit for bit on the CPU with as many threads). An error or Ctrl-C ends the processes; what is complete stays, and
    what is not goes on from its checkpoint.

    Args:
        data: of all trainings.
        trials: where they are kept.
        at_once: number of trainings that run side by side.
        total: length of the progress bar.
        description: its label.
    """

    def __init__(self, data: ArmData, trials: Trials, *, at_once: int, total: int, description: str) -> None:
        self._data, self._trials, self._at_once = data, trials, at_once
        self._pool: ProcessPoolExecutor | None = None
        self._futures: dict[str, Future[Card]] = {}
        self._others = set(multiprocessing.active_children())
        self._bar = tqdm(total=total, desc=description, unit="training")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._bar.close()
        if self._pool is None:
            return
        if error is not None:
            for child in set(multiprocessing.active_children()) - self._others:
                child.terminate()
        self._pool.shutdown(cancel_futures=True)

    def submit(self, training: Training, description: str) -> Callable[[], Card]:
        """Returns what waits for the training and returns its card; that of a training that diverged says so."""
        name = training.name(self._data)
        known = self._trials.card(name)
        if known is not None:
            return lambda: self._counted(known)
        if self._at_once == 1:
            return lambda: self._counted(_outcome(training, self._data, self._trials, description))
        if name not in self._futures:
            with _environment(OMP_NUM_THREADS=str(self._threads), TQDM_DISABLE="1"):
                self._futures[name] = self._started().submit(_train_here, training, code_fingerprint(), description)
        return lambda: self._counted(self._futures[name].result())

    @property
    def _threads(self) -> int:
        return max(1, torch.get_num_threads() // self._at_once)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._at_once,
                mp_context=multiprocessing.get_context("spawn"),  # a forked process could not use CUDA
                initializer=_start,
                initargs=(self._data, self._trials, self._threads),
            )
        return self._pool

    def _counted(self, card: Card) -> Card:
        self._bar.update()
        return card


def _outcome(training: Training, data: ArmData, trials: Trials, description: str) -> Card:
    """Train and return the card; a training that diverges has a card without a result."""
    started = datetime.now(UTC)
    try:
        return train_arm(training, data, trials, description).card
    except DivergenceError as error:
        finished = datetime.now(UTC)
        return {
            **training.card(data),
            "started": started.isoformat(),
            "finished": finished.isoformat(),
            "seconds": (finished - started).total_seconds(),
            "epochs": 0,
            "best_epoch": 0,
            "validation_ndcg_at_20": math.nan,
            DIVERGED: str(error),
        }


# --- in the other processes

_shared: dict[str, Any] = {}


def _start(data: ArmData, trials: Trials, threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends its own
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _shared.update(data=data, trials=trials)


def _end_with(sentinel: int) -> None:
    """A training whose parent was killed would go on beside the one that the next command starts."""
    connection.wait([sentinel])
    os._exit(1)


def _train_here(training: Training, code: str, description: str) -> Card:
    if code_fingerprint() != code:
        message = "the code was changed while trainings were running; start the same command again"
        raise RuntimeError(message)
    return _outcome(training, _shared["data"], _shared["trials"], description)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment that processes started meanwhile inherit; read there when torch and tqdm are imported."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
