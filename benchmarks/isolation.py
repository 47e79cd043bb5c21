"""Objects that live in a process of their own, so that each has its own peak memory and none disturbs the others."""

from __future__ import annotations

import multiprocessing
import statistics
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class Isolated:
    """An object in a fresh process; only one of them should be at work at a time.

    Args:
        make: builds the object there; a function or a class that can be imported.
        arguments: handed to `make`.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        # processes are forked from one that has imported torch and has done nothing yet: no threads, little memory
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.step", "benchmarks.validation"])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._built = False  # several start side by side; the first call waits

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method there and wait for what it returns.

        Raises:
            RuntimeError: it raised, with its traceback, or the process died.
        """
        self.wait()
        self._connection.send((method, arguments))
        return self._answer()

    def wait(self) -> None:
        """Wait until the object is built; raises as `call` does."""
        if not self._built:
            self._answer()
            self._built = True

    def peak_memory(self) -> int:
        """Most bytes of main memory the process ever held, the interpreter and the libraries included."""
        return self.call("")

    def _answer(self) -> Any:
        try:
            failure, value = self._connection.recv()
        except EOFError:
            self._process.join()
            message = f"a benchmarked process ended with exit code {self._process.exitcode} (-9: out of memory?)"
            raise RuntimeError(message) from None
        if failure:
            raise RuntimeError(failure)
        return value

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        thing = make(*arguments)
        connection.send((None, None))
    except Exception:  # whatever it is, the parent process tells of it
        connection.send((traceback.format_exc(), None))
        return
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send((None, getattr(thing, method)(*arguments) if method else peak_memory()))
        except Exception:
            connection.send((traceback.format_exc(), None))


def peak_memory() -> int:
    """Most bytes of main memory that this process ever held."""
    # ru_maxrss is no use here: a started process inherits it from the one that started it
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    message = "/proc/self/status has no VmHWM; the benchmarks need Linux"
    raise RuntimeError(message)


# --- seconds of turns


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median_seconds": statistics.median(seconds), "min_seconds": min(seconds), "max_seconds": max(seconds)}


def ratio(above: list[float], below: list[float]) -> float:
    """Median over the rounds of above / below."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
