"""A store that cannot be written to is named before anything else happens."""

from __future__ import annotations

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog

from fairrec_pipeline import storage


class StorageCheck:
    """Refuses a run whose `data_root` is an address that cannot be reached, or not be written to."""

    @hook_impl
    def before_pipeline_run(self, catalog: DataCatalog) -> None:
        root = str(catalog.load("params:data_root"))
        if "://" in root:
            storage.require_writable(storage.Place(root, catalog.load("arms").options))
