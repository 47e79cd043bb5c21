"""Datasets of the catalog; what they save appears whole or not at all."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ibis
import pandas as pd
from kedro.io import AbstractDataset, DatasetError
from kedro_datasets.ibis import FileDataset
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import CSVDataset, ParquetDataset
from kedro_datasets.text import TextDataset

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from ibis import BaseBackend
    from kedro_datasets._typing import TablePreview


class Atomic:
    """Mixin of a local file dataset: a killed save leaves nothing that could be loaded.

    The file is written under another name in its folder and renamed when it is complete; a version counts only when
    its file has the right name. Stands before the Kedro dataset among the bases.
    """

    @abstractmethod
    def _write(self, data: Any, path: Path) -> None:
        """Write a new file."""

    @abstractmethod
    def _read(self, path: Path) -> Any:
        """Read a file that exists."""

    def save(self, data: Any) -> None:
        path = Path(self._get_save_path())  # type: ignore[attr-defined]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            self._write(data, partial)
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            with suppress(OSError):  # other files may lie there
                path.parent.rmdir()
            raise

    def load(self) -> Any:
        path = Path(self._get_load_path())  # type: ignore[attr-defined]
        if not path.exists():
            message = f"{path} does not exist. Run the pipeline that writes it first"
            raise DatasetError(message)
        try:
            return self._read(path)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            versioned = self._version is not None  # type: ignore[attr-defined]
            damaged = path.parent if versioned else path
            message = (
                f"{path} cannot be read ({reason}): it is damaged or was not written by this project. "
                f"Delete {damaged} and run the pipeline that writes it again"
            )
            raise DatasetError(message) from error


class IbisParquet(Atomic, FileDataset):
    """A Parquet file as an Ibis table, in the order of its rows; saves an Ibis table or a pandas frame."""

    def _connect(self) -> BaseBackend:
        # The embedded DuckDB that Ibis itself falls back to: what nodes build and what the catalog loads may be joined.
        return ibis.get_backend() if self._connection_config == self.DEFAULT_CONNECTION_CONFIG else super()._connect()

    def _write(self, data: ir.Table | pd.DataFrame, path: Path) -> None:
        table = ibis.memtable(data) if isinstance(data, pd.DataFrame) else data
        table.to_parquet(path, **self._save_args)

    def _read(self, path: Path) -> ir.Table:
        return self.connection.read_parquet(path, table_name=self._table_name, **self._load_args)

    def preview(self, nrows: int = 5) -> TablePreview:
        """The first rows, for Kedro-Viz."""
        return self.load().limit(nrows).to_pandas().to_dict(orient="split")


class Parquet(Atomic, ParquetDataset):
    """A Parquet file as a pandas frame."""

    def _write(self, data: pd.DataFrame, path: Path) -> None:
        data.to_parquet(path, **self._save_args)

    def _read(self, path: Path) -> pd.DataFrame:
        return pd.read_parquet(path, **self._load_args)


class Json(Atomic, JSONDataset):
    """A JSON file."""

    def _write(self, data: Any, path: Path) -> None:
        path.write_text(json.dumps(data, **self._save_args), encoding="utf-8")

    def _read(self, path: Path) -> Any:
        return json.loads(path.read_text(encoding="utf-8"))


class Csv(Atomic, CSVDataset):
    """A CSV file as a pandas frame, without an index."""

    def _write(self, data: pd.DataFrame, path: Path) -> None:
        data.to_csv(path, **self._save_args)

    def _read(self, path: Path) -> pd.DataFrame:
        return cast(pd.DataFrame, pd.read_csv(path, **self._load_args))


class Text(Atomic, TextDataset):
    """A UTF-8 text file."""

    def _write(self, data: str, path: Path) -> None:
        path.write_text(data, encoding="utf-8")

    def _read(self, path: Path) -> str:
        return path.read_text(encoding="utf-8")


class Folder(AbstractDataset[Any, Path]):
    """The path of a folder of raw files, whatever lies in it; the folder need not exist."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Path:
        return self._filepath

    def save(self, data: Any) -> None:
        message = f"{self._filepath} holds raw files and is not written by a pipeline"
        raise DatasetError(message)

    def _exists(self) -> bool:
        # A source may need no files (synthetic) or fetch them; what is missing is told by the adapter.
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


def _sync(path: Path) -> None:
    """Have a file or the entries of a folder on disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
