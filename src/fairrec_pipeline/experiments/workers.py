"""One training on several processes of this machine: `train.workers`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import torch

from fairrec_pipeline.arms.spec import ArmSpec
from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.experiments.processes import SPAWN, end, prepare_process, variables
from fairrec_pipeline.objectives.base import Objective
from fairrec_pipeline.training.checkpoint import Checkpoint
from fairrec_pipeline.training.fit import Fitted, TrainingData, fit, resolve_device
from fairrec_pipeline.training.team import joined, require_gpus

T = TypeVar("T")
_SECONDS_UNTIL_TOLD = 5.0
"""After which the end of a process is known, where the others have lost it."""


def fit_on_workers(
    spec: ArmSpec, data: TrainingData, objective: Objective, checkpoint: Checkpoint, *, description: str = ""
) -> Fitted:
    """`training.fit.fit` on `spec.train.workers` processes, which this one starts and waits for.

    What they lead to comes from the checkpoint of the complete training, which any number of workers may continue.

    Raises:
        OptionError: there are fewer GPUs than workers.
        FairrecError: a worker was killed.
        DivergenceError, CheckpointError, OSError: as `fit` does.
    """
    device = resolve_device(spec.device).type
    if device == "cuda":
        require_gpus(spec.train.workers)
    together(fit, spec.train.workers, (spec, data, objective, checkpoint), device=device, description=description)
    return fit(spec, data, objective, checkpoint, description=description)


def together(
    function: Callable[..., T], size: int, arguments: tuple[Any, ...] = (), *, device: str = "cpu", **options: Any
) -> list[T]:
    """Call a function in each of `size` new processes, which are a team (`training.team`).

    Each has its share of the torch threads. An error, Ctrl-C or the end of this process ends all of them.

    Args:
        function: can be imported; it is called with the arguments and options.

    Returns:
        What it returned in every process, by rank.

    Raises:
        FairrecError: a process was killed.
        Exception: what the function raised in one of them.
    """
    threads = max(1, torch.get_num_threads() // size)
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}
    with (
        tempfile.TemporaryDirectory() as folder,
        variables(OMP_NUM_THREADS=str(threads), **{**loopback, **_given("GLOO_SOCKET_IFNAME")}),
        ProcessPoolExecutor(size, mp_context=SPAWN, initializer=prepare_process, initargs=(threads,)) as pool,
    ):
        place = Path(folder) / "meeting"
        try:
            # none ends before all have met, so each has a process of its own
            calls = [pool.submit(_call, function, (r, size, place, device), arguments, options) for r in range(size)]
            wait(calls, return_when=FIRST_EXCEPTION)
            if errors := _errors(calls):
                raise _cause(errors, calls)
            return [call.result() for call in calls]
        except BaseException:
            end(pool)
            raise


def _call(function: Callable[..., T], member: tuple[int, int, Path, str], arguments: Any, options: Any) -> T:
    with joined(*member):
        return function(*arguments, **options)


def _errors(calls: Sequence[Future[Any]]) -> list[BaseException]:
    return [error for call in calls if call.done() and (error := call.exception())]


def _cause(errors: list[BaseException], calls: Sequence[Future[Any]]) -> BaseException:
    """What to tell of the first errors: the others of a process that is killed may be first to say that it is gone."""
    told = next((error for error in errors if isinstance(error, FairrecError)), None)
    if told is not None:
        return told
    wait(calls, timeout=_SECONDS_UNTIL_TOLD)
    if not any(isinstance(error, BrokenProcessPool) for error in _errors(calls)):
        return errors[0]
    message = (
        f"one of the {len(calls)} processes of a training was killed; out of memory? The same command goes on from "
        "the last checkpoint, with another train.workers too"
    )
    return FairrecError(message)


def _given(name: str) -> dict[str, str]:
    return {name: os.environ[name]} if name in os.environ else {}
