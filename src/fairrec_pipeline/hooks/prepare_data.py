"""Data that a pipeline needs and that are not there, or were made from something else, are prepared first."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import AbstractVersionedDataset, DataCatalog, Version
from kedro.runner import SequentialRunner

from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.parameters.blocks import Groups, Split
from fairrec_pipeline.parameters.datasets import Source
from fairrec_pipeline.parameters.methods import folder_name

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline

logger = logging.getLogger(__name__)

PREPARED = ("interactions", "histories", "user_groups", "dataset_statistics")
"""What the data pipeline leaves for others."""


class DataPreparation:
    """Runs the data pipeline before a pipeline that reads prepared data, where that is needed.

    What a session reads is of one version. Kedro looks for the newest version of a file when the file is first read.
    Then another session may have written a newer one, from other parameters. So the versions are pinned here.
    """

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        if not run_params.get("only_missing_outputs"):  # who asks for it wants what earlier sessions have left
            _pin_what_it_writes(pipeline, catalog)
        if "dataset_statistics" not in pipeline.inputs():
            return
        pinned = run_params.get("load_versions") or {}
        reason = _why_prepare(catalog)
        if reason is not None and pinned:
            raise FairrecError(
                f"the pinned data {reason}. Leave out --load-versions to prepare them anew, or give the parameters "
                "that they were prepared with"
            )
        if reason is not None:
            with _alone(Path(run_params["project_path"]), catalog):
                if reason := _why_prepare(catalog):  # another session may have prepared them meanwhile
                    _prepare(catalog, reason)
        _pin_what_it_reads(catalog, pipeline.inputs() - set(pinned))


def _why_prepare(catalog: DataCatalog) -> str | None:
    """Why the newest data are not those that the parameters ask for; pins the version that was looked at."""
    from fairrec_pipeline.interactions.preparation import prepared_with, why_prepare

    # typed here: Kedro types the parameters of the pipeline that was asked for only
    source = Source.model_validate(catalog.load("params:source"))
    split = Split.model_validate(catalog.load("params:split"))
    groups = Groups.model_validate(catalog.load("params:groups"))
    catalog["params:source"], catalog["params:split"], catalog["params:groups"] = source, split, groups
    wanted = prepared_with(catalog.load("params:dataset"), source, split, groups)
    dataset = catalog["dataset_statistics"]
    dataset.release()  # of the version that was looked at before
    described = catalog.load("dataset_statistics").get("prepared_with", {}) if dataset.exists() else None
    return why_prepare(described, wanted, catalog.load("raw_folder"))


def _prepare(catalog: DataCatalog, reason: str) -> None:
    logger.info("The data of %s %s: running the data pipeline first", catalog.load("params:dataset"), reason)
    _pin_what_it_writes(pipelines["data"], catalog)
    SequentialRunner().run(pipelines["data"], catalog)
    for name in PREPARED:
        _pin(_versioned(catalog, name))


def _pin_what_it_writes(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """What a node of this session has written is what the others read."""
    for name in pipeline.datasets() & pipeline.all_inputs() & pipeline.all_outputs():
        dataset = catalog.get(name)
        if isinstance(dataset, AbstractVersionedDataset) and dataset._version is not None:  # `versioned: true`
            _pin(dataset)


def _pin_what_it_reads(catalog: DataCatalog, names: set[str]) -> None:
    """Prepared data are read in the version of the statistics, which are written last.

    A part that has no such version was not written by that session, which began at a later node: of the versions
    before, the newest is meant.
    """
    version = _versioned(catalog, "dataset_statistics").resolve_load_version() or ""
    for name in names & set(PREPARED):
        dataset = _versioned(catalog, name)
        older = [each for each in dataset.list_versions(full_path=False) if each <= version]
        _pin(dataset, max(older, default=version))


def _pin(dataset: AbstractVersionedDataset[Any, Any], version: str | None = None) -> None:
    """Have a dataset read in a version; None for the one that this session writes."""
    saved = dataset.resolve_save_version()
    dataset._version = Version(version or saved, saved)  # Kedro can pin only before there is a catalog


def _versioned(catalog: DataCatalog, name: str) -> AbstractVersionedDataset[Any, Any]:
    dataset = catalog[name]
    assert isinstance(dataset, AbstractVersionedDataset)  # `versioned: true` in conf/base/catalog_data.yml
    return dataset


@contextmanager
def _alone(project: Path, catalog: DataCatalog) -> Iterator[None]:
    """Of the sessions of a project one at a time prepares a dataset.

    An object store has no locks. With data there, the sessions of one project still take turns.
    """
    root = str(catalog.load("params:data_root"))
    folder = project / ("data" if "://" in root else root)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{folder_name(str(catalog.load('params:dataset')))}.lock"
    with FileLock(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # who waits for it sees that, and makes a new one
