"""Trainings as tasks of a Ray cluster: each with its share of cores and GPUs, begun again when its node dies."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import torch
from tqdm.auto import tqdm

import fairrec_pipeline
from fairrec_pipeline.arms.code import COMMIT, code_fingerprint, commit
from fairrec_pipeline.arms.record import DIVERGED, Card
from fairrec_pipeline.arms.spec import ArmSpec
from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.cluster import HEAD, LOCAL, cause_of, connected
from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.experiments.executors import train_expected
from fairrec_pipeline.experiments.memory import training_memory
from fairrec_pipeline.experiments.train_arm import environment
from fairrec_pipeline.interactions.prepared import PreparedData
from fairrec_pipeline.parameters.blocks import Ray
from fairrec_pipeline.training.progress import followed_by

logger = logging.getLogger(__name__)

_SHOW = 2.0  # seconds between two looks at how far the trainings are


class RayExecutor:
    """Trains on a cluster what is submitted and not yet complete.

    The data are put into the cluster once. A task writes checkpoint and card into the store, which all nodes have to
    see. If its worker or node dies, it starts again elsewhere and goes on from its checkpoint. Evaluations are tasks,
    too: the driver needs neither a GPU nor the memory of a training. On the CPU the result is what one process leaves,
    bit for bit with as many threads.

    Args:
        options: address of the cluster, and the share and retries of a training.
        total, description: of the progress bar.
    """

    def __init__(self, data: PreparedData, store: ArmStore, options: Ray, *, total: int, description: str) -> None:
        self._data, self._store, self._options = data, store, options
        self._environments: dict[tuple[str, str], dict[str, str]] = {}
        self._tasks: dict[str, Any] = {}
        self._pending: dict[Any, str] = {}
        self._known = 0
        self._bar = tqdm(total=total, desc=description, unit="training", disable=total == 1)
        self._context = ExitStack()

    def __enter__(self) -> Self:
        with self._context as context:
            package = Path(fairrec_pipeline.__file__).parent
            self._ray = ray = context.enter_context(connected(self._options.address, package))
            self._shared = ray.put(self._data)
            self._progress = ray.remote(_Progress).options(num_cpus=0, resources=HEAD).remote()
            self._context = context.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        with self._context:
            for task in self._pending:  # after an error, or Ctrl-C
                self._ray.cancel(task, force=True)
            self._ray.kill(self._progress)

    def key(self, spec: ArmSpec) -> str:
        return spec.key(self._data, self._environment(spec))

    def submit(self, spec: ArmSpec) -> Callable[[], Card]:
        key = self.key(spec)
        if known := self._store.training(key):
            self._known += 1
            return lambda: known
        if key not in self._tasks:
            self._tasks[key] = self._start(spec.label, spec, train_expected, spec, self._environment(spec))
        return lambda: self._card(key)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        (spec,) = (each for each in arguments if isinstance(each, ArmSpec))
        return self._wait(self._start(f"evaluate {spec.label}", spec, function, *arguments))

    def _card(self, key: str) -> Card:
        card: Card = self._wait(self._tasks[key])
        if DIVERGED not in card and self._store.training(key) is None:
            raise FairrecError(
                f"a training was complete on the cluster, but is not in {self._store.trials}: its node writes to a "
                "folder of its own. Set data_root to what all nodes see, a shared folder or s3://bucket/prefix"
            )
        return card

    def _environment(self, spec: ArmSpec) -> dict[str, str]:
        """Code, torch and kind of device where a training runs, which may not be those of the driver."""
        asked = (spec.objective.loss, spec.device)
        if asked not in self._environments:
            found: dict[str, str] = self._wait(self._start("environment", None, _environment, spec))
            if found["code"] != code_fingerprint(spec.objective.loss):
                raise FairrecError(
                    "the cluster runs other code than this process: its fingerprint is "
                    f"{found['code'][:12]} instead of {code_fingerprint(spec.objective.loss)[:12]}. Install the same "
                    "version of fairrec_pipeline on all nodes"
                )
            self._environments[asked] = found
        return self._environments[asked]

    def _start(self, label: str, spec: ArmSpec | None, function: Callable[..., Any], *arguments: Any) -> Any:
        """Have a function called in a task that has the share of a training; returns the reference of its result."""
        options = self._options
        needs: dict[str, Any] = {"num_cpus": options.cpus, "num_gpus": options.gpus}
        if spec is not None and not options.gpus:
            needs["memory"] = sum(training_memory(spec, self._data).values())
        self._require_a_node(needs)
        origin = {"argv": sys.argv, "commit": commit(), "threads": options.cpus, "task": label}
        quiet = {"env_vars": {"TQDM_DISABLE": "1"}}  # read there when tqdm is imported
        task = self._ray.remote(_in_worker).options(name=label, max_retries=options.retries, runtime_env=quiet, **needs)
        reference = task.remote(function, arguments, self._shared, self._store, origin, self._progress)
        self._pending[reference] = label
        return reference

    def _require_a_node(self, needs: Mapping[str, Any]) -> None:
        """Whatever no node has would be waited for without end. Another cluster than the local one may grow."""
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        wanted = {names[name]: amount for name, amount in needs.items() if amount}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            return
        most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in wanted}
        listed = ", ".join(
            f"{name} {amount:g} (the most of a node is {most[name]:g})" for name, amount in wanted.items()
        )
        message = f"no node of the cluster has what a training takes: {listed}. Lower ray.cpus, ray.gpus or the model"
        if self._options.address == LOCAL:
            raise FairrecError(message)
        logger.warning("%s, or add a node: the trainings wait for one", message)

    def _wait(self, task: Any) -> Any:
        """The result of a task; meanwhile the bar shows how far the others are."""
        while not self._ray.wait([task], timeout=_SHOW)[0]:
            self._show()
        self._show()
        label, retries = self._pending.pop(task, "a training"), self._options.retries
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            raise cause_of(error) from None
        except self._ray.exceptions.RayError as error:
            raise FairrecError(
                f"{label}: its worker or node died more often than ray.retries={retries} "
                f"({type(error).__name__}). What is complete is kept: the same command goes on"
            ) from error

    def _show(self) -> None:
        if self._bar.disable:
            return
        tasks = list(self._tasks.values())
        complete = self._ray.wait(tasks, num_returns=len(tasks), timeout=0, fetch_local=False)[0] if tasks else []
        with suppress(self._ray.exceptions.RayError):
            running = self._ray.get(self._progress.running.remote(), timeout=_SHOW)
            self._bar.set_postfix_str(", ".join(running), refresh=False)
        self._bar.n = self._known + len(complete)
        self._bar.refresh()


class _Progress:
    """An actor that knows how far the tasks are that train."""

    def __init__(self) -> None:
        self._running: dict[str, str] = {}

    def report(self, task: str, progress: str) -> None:
        self._running[task] = progress

    def end(self, task: str) -> None:
        self._running.pop(task, None)

    def running(self) -> list[str]:
        return list(self._running.values())


def _in_worker(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    data: PreparedData,
    store: ArmStore,
    origin: Mapping[str, Any],
    progress: Any,
) -> Any:
    """A function of data and store in a process of the cluster, where a card says what it would say in the driver."""
    sys.argv, os.environ[COMMIT] = list(origin["argv"]), origin["commit"]
    torch.set_num_threads(origin["threads"])
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # shared memory; nobody writes to it
    task = origin["task"]

    def follow(label: str, epoch: int, epochs: int) -> None:
        progress.report.remote(task, f"{label} {epoch}/{epochs}")

    try:
        with followed_by(follow):
            return function(*arguments, data, store)
    finally:
        progress.end.remote(task)


def _environment(spec: ArmSpec, *_: Any) -> dict[str, str]:
    return environment(spec)
