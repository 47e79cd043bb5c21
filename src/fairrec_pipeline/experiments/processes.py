"""Processes that this one starts: what they inherit, and that none outlives it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection

import torch

SPAWN = multiprocessing.get_context("spawn")
"""A forked process could not use CUDA."""


def prepare_process(threads: int) -> None:
    """Called in a started process before anything else: it has so many torch threads, and ends with its parent."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends its own
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """A training whose parent was killed would go on beside the one that the next command starts."""
    connection.wait([sentinel])
    os._exit(1)


def end(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool in the middle of their work."""
    for child in list(pool._processes.values()):  # before Python 3.14 no other way leads to them
        child.terminate()


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Environment that processes started meanwhile inherit; read there when torch and tqdm are imported."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
