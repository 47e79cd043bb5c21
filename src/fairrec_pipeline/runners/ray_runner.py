"""A Kedro runner whose nodes are tasks of a Ray cluster; it is of use in any Kedro project.

A node may say what it takes of the cluster in its tags, `ray.<option>.<number>`: `ray.num_gpus.1`, `ray.num_cpus.2`,
`ray.max_retries.0`; any other name is a resource of the cluster. (Kedro lets a tag have neither `:` nor `=`.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import kedro.framework.project as kedro_project
from kedro.framework.hooks.manager import _NullPluginManager
from kedro.io import AbstractDataset, DataCatalog, DatasetError, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.runner import AbstractRunner
from kedro.runner.task import Task

from fairrec_pipeline.cluster import LOCAL, cause_of, connected
from fairrec_pipeline.errors import OptionError

_TAG = re.compile(r"ray\.(\w+)\.([\d.]+)")
_OPTIONS = ("num_cpus", "num_gpus", "memory", "max_retries")


class RayRunner(AbstractRunner):
    """Runs every node as a task of a Ray cluster, as soon as its inputs are there.

    What lies between nodes in memory stays in the memory of the cluster. Files have to lie where all nodes see them.
    Hooks of nodes, and `after_dataset_saved`, are called in the driver, with data that are loaded when they look at
    them. A node whose worker dies is begun again; with versioned outputs that may fail where one was saved already,
    so such a node says `ray.max_retries.0` if its run has to end at once.

    Args:
        is_async: inputs and outputs are loaded and saved by threads.
        address: of the cluster; None: that of RAY_ADDRESS, or else one of this machine that ends with the run.
    """

    def __init__(self, is_async: bool = False, address: str | None = None) -> None:
        super().__init__(is_async=is_async)
        self._address = address or os.environ.get("RAY_ADDRESS") or LOCAL

    def _get_required_workers_count(self, pipeline: Pipeline) -> int:
        return max(1, len(pipeline.nodes))  # threads that wait

    def _get_executor(self, max_workers: int) -> Executor:
        return _Driver(max_workers)

    def _validate_nodes(self, node: Any) -> None:
        for each in node:
            _options_of(each)

    def _run(self, pipeline: Pipeline, catalog: Any, hook_manager: Any = None, run_id: str | None = None) -> None:
        with connected(self._address, *_packages()):
            try:
                super()._run(pipeline, catalog, hook_manager, run_id)
            finally:
                for name in pipeline.outputs():  # which may be looked at when there is no cluster any more
                    dataset = catalog.get(name)
                    if isinstance(dataset, _InCluster) and dataset.exists():
                        catalog._datasets[name] = MemoryDataset(dataset.load())


class _InCluster(AbstractDataset[Any, Any]):
    """What a task has left in the memory of the cluster."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference
        self._EPHEMERAL = True

    @property
    def reference(self) -> Any:
        return self._reference

    def load(self) -> Any:
        import ray

        return ray.get(self._reference)

    def save(self, data: Any) -> None:
        raise DatasetError("a task of the cluster saves it")

    def _exists(self) -> bool:
        return self._reference is not None

    def _release(self) -> None:
        self._reference = None

    def _describe(self) -> dict[str, Any]:
        return {}


class _Driver(ThreadPoolExecutor):
    """Has a thread wait for each task. Ray cannot be asked for data in the callback of a future."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(_drive, fn)


def _drive(task: Task) -> Node:
    """Run a task of Kedro on the cluster, with its hooks here."""
    node, catalog, hooks = task.node, task.catalog, task.hook_manager.hook  # type: ignore[union-attr]
    about = {"node": node, "catalog": catalog, "is_async": task.is_async, "run_id": task.run_id}
    inputs, outputs = _Loaded(catalog, node.inputs), _Loaded(catalog, node.outputs)
    changed: dict[str, Any] = {}
    for response in hooks.before_node_run(inputs=inputs, **about) or ():
        changed |= response or {}
    try:
        _run_on_cluster(task, changed)
    except Exception as error:
        hooks.on_node_error(error=error, inputs=inputs, **about)
        raise
    hooks.after_node_run(inputs=inputs, outputs=outputs, **about)
    if getattr(hooks.after_dataset_saved, "get_hookimpls", list)():
        for name in node.outputs:
            hooks.after_dataset_saved(dataset_name=name, data=outputs[name], node=node)
    return node


class _Loaded(Mapping[str, Any]):
    """Datasets by name, each loaded when it is looked at, once."""

    def __init__(self, catalog: Any, names: list[str]) -> None:
        self._catalog, self._data = catalog, dict.fromkeys(names, _Loaded)

    def __getitem__(self, name: str) -> Any:
        if self._data[name] is _Loaded:
            self._data[name] = self._catalog.load(name)
        return self._data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


def _run_on_cluster(task: Task, changed: Mapping[str, Any]) -> None:
    """Run a node in a worker; what it leaves in memory is then a dataset of the driver's catalog.

    Args:
        changed: inputs that a hook gives in the place of those of the catalog.
    """
    import ray

    node, catalog = task.node, cast(Any, task.catalog)
    needed = {name: catalog.get(name) for name in {*node.inputs, *node.outputs, *node.confirms}}
    files = {name: dataset for name, dataset in needed.items() if not getattr(dataset, "_EPHEMERAL", False)}
    memory = {name: _value_or_reference(needed[name]) for name in node.inputs if name not in files} | dict(changed)
    left = [name for name in node.outputs if name not in files]
    work = _Work(
        *(node, files, left, task.is_async),
        validators={name: spec for name, spec in catalog._validator_specs.items() if name in files},
        folder=os.getcwd(),  # noqa: PTH109
        package=kedro_project.PACKAGE_NAME,
        logging=dict(kedro_project.LOGGING.data),
    )
    remote = ray.remote(_run_here).options(name=node.name, num_returns=1 + len(left), **_options_of(node))
    returned = remote.remote(work, list(memory), *memory.values())
    done, *results = returned if left else [returned]
    try:
        ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise cause_of(error) from None
    for name, result in zip(left, results, strict=True):
        catalog._datasets[name] = _InCluster(result)  # catalog[name] = ... says so in a warning


def _value_or_reference(dataset: Any) -> Any:
    return dataset.reference if isinstance(dataset, _InCluster) else dataset.load()


@dataclass(frozen=True)
class _Work:
    """What a worker is to do.

    Attributes:
        files: datasets that lie outside of memory.
        left: outputs that stay in memory.
        validators: what the catalog checks of `files`.
        folder, package, logging: of the driver.
    """

    node: Node
    files: dict[str, Any]
    left: list[str]
    is_async: bool
    validators: dict[str, Any]
    folder: str
    package: str | None
    logging: dict[str, Any]


def _run_here(work: _Work, names: list[str], *values: Any) -> Any:
    """In the worker: run a node with these inputs; returns what it leaves in memory, after a None."""
    with suppress(OSError):  # on another machine the project may lie elsewhere
        os.chdir(work.folder)
    if work.package is not None:
        Task._bootstrap_subprocess(work.package, work.logging)
    memory = {name: MemoryDataset(value, copy_mode="assign") for name, value in zip(names, values, strict=True)}
    memory |= {name: MemoryDataset(copy_mode="assign") for name in work.left}
    catalog = DataCatalog(datasets={**work.files, **memory})
    catalog._validator_specs = work.validators
    no_hooks: Any = _NullPluginManager()
    Task(node=work.node, catalog=catalog, is_async=work.is_async, hook_manager=no_hooks).execute()
    results = [memory[name].load() for name in work.left]
    return (None, *results) if results else None


def _options_of(node: Node) -> dict[str, Any]:
    """What the tags of a node ask of the cluster, as options of Ray's tasks.

    Raises:
        OptionError: a tag begins with `ray.` and is none that can be read.
    """
    options: dict[str, Any] = {}
    resources: dict[str, float] = {}
    for tag in sorted(node.tags):
        if not tag.startswith("ray."):
            continue
        found = _TAG.fullmatch(tag)
        try:
            name, amount = found.groups() if found else ("", "")
            number = float(amount)
        except ValueError as error:
            raise OptionError(
                f"node {node.name}: the tag {tag!r} is not of the form ray.<option>.<number>, such as ray.num_gpus.1 "
                f"or ray.num_cpus.0.5; options are {', '.join(_OPTIONS)}, and any resource of the cluster"
            ) from error
        if name in _OPTIONS:
            options[name] = int(number) if number.is_integer() else number
        else:
            resources[name] = number
    return options | ({"resources": resources} if resources else {})


def _packages() -> list[Path]:
    """Folders of the Python packages that the tasks run: that of this runner, and of the project."""
    names = dict.fromkeys(["fairrec_pipeline", *filter(None, [kedro_project.PACKAGE_NAME])])
    return [Path(str(import_module(name).__file__)).parent for name in names]
