"""Datasets of the catalog; what they save appears whole or not at all, on every file system that fsspec knows."""

from __future__ import annotations

import itertools
import json
import zipfile
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

import duckdb
import ibis
import pandas as pd
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from kedro.io import AbstractDataset, DatasetError
from kedro_datasets.ibis import FileDataset
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import CSVDataset, ParquetDataset
from kedro_datasets.text import TextDataset
from pydantic import ValidationError

from fairrec_pipeline.interactions.engine import SharedDuckDB, engine, literal_path
from fairrec_pipeline.interactions.prepared import PreparedHistories
from fairrec_pipeline.storage import Place, as_local, mirror, write_whole

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from ibis import BaseBackend
    from kedro_datasets._typing import TablePreview

_DAMAGE = (
    pa.ArrowInvalid,
    pd.errors.EmptyDataError,
    pd.errors.ParserError,
    UnicodeError,
    json.JSONDecodeError,
    ValidationError,
    zipfile.BadZipFile,
    EOFError,
)


class Atomic:
    """Mixin of a file dataset: a killed save leaves nothing that could be loaded.

    Stands before the Kedro dataset among the bases.
    """

    @abstractmethod
    def _write(self, data: Any, path: Path) -> None:
        """Write a new local file."""

    @abstractmethod
    def _read(self, path: Path) -> Any:
        """Read a local file that exists."""

    def save(self, data: Any) -> None:
        path = str(self._get_save_path())  # type: ignore[attr-defined]
        write_whole(path, lambda local: self._write(data, local), file_system=self._file_system())

    def load(self) -> Any:
        path, fs = str(self._get_load_path()), self._file_system()  # type: ignore[attr-defined]
        if not fs.exists(path):
            raise DatasetError(f"{path} does not exist. Run the pipeline that writes it first")
        try:
            return self._load_from(fs, path)
        except Exception as error:
            if not _is_damage(error, path):
                raise
            reason = _first_line(error)
            versioned = self._version is not None  # type: ignore[attr-defined]
            damaged = PurePosixPath(path).parent if versioned else path
            raise DatasetError(
                f"{path} cannot be read ({reason}): it is damaged or was not written by this project. "
                f"Delete {damaged} and run the pipeline that writes it again"
            ) from error

    def _load_from(self, fs: Any, path: str) -> Any:
        with as_local(path, file_system=fs) as local:
            return self._read(local)

    def _file_system(self) -> Any:
        return self._fs  # type: ignore[attr-defined]

    def _exists(self) -> bool:
        self._file_system().invalidate_cache()  # of listings: another process may have written meanwhile
        found: bool = super()._exists()  # type: ignore[misc]
        return found

    def _get_versions(self) -> list[str]:
        self._file_system().invalidate_cache()
        versions: list[str] = super()._get_versions()  # type: ignore[misc]
        return versions


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'its content'}: {first['msg']}"
    return str(error).strip().partition("\n")[0]


def _is_damage(error: Exception, path: str) -> bool:
    """Whether an error says that the content of a file is not what it should be."""
    if isinstance(error, duckdb.Error):
        return PurePosixPath(path).name in str(error)
    if isinstance(error, OSError):
        return error.errno is None  # Arrow has no other error for pages that cannot be decoded
    return isinstance(error, _DAMAGE)


class IbisParquet(Atomic, FileDataset):
    """A Parquet file as an Ibis table, in the order of its rows; saves an Ibis table or a pandas frame.

    Args:
        filepath: local, or with a protocol such as `s3://`.
        credentials: options of its file system; what a database needs to be reached belongs into `connection`.
        more: arguments of Kedro's dataset.
    """

    def __init__(self, filepath: str, *, credentials: dict[str, Any] | None = None, **more: Any) -> None:
        super().__init__(filepath, fs_args={**(credentials or {}), **(more.pop("fs_args", None) or {})}, **more)

    @property
    def connection(self) -> BaseBackend:
        """The database of the process, unless the entry names another one."""
        return _connected(self._connection_config) or super().connection

    def _file_system(self) -> Any:
        return self._filesystem() if self._fs_prefix else LocalFileSystem()

    def _write(self, data: ir.Table | pd.DataFrame, path: Path) -> None:
        table = ibis.memtable(data) if isinstance(data, pd.DataFrame) else data
        table.to_parquet(path, **self._save_args)

    def _load_from(self, fs: Any, path: str) -> ir.Table:
        if isinstance(fs, LocalFileSystem):
            return self._read(Path(path))
        connection = self.connection
        if isinstance(connection, SharedDuckDB):
            return connection.read_parquet_of(fs, path)
        return connection.read_parquet(f"{self._fs_prefix}{path}", table_name=self._table_name, **self._load_args)

    def _read(self, path: Path) -> ir.Table:
        return self.connection.read_parquet(literal_path(path), table_name=self._table_name, **self._load_args)

    def preview(self, nrows: int = 5) -> TablePreview:
        """The first rows, for Kedro-Viz."""
        return self.load().limit(nrows).to_pandas().to_dict(orient="split")


class Engine(AbstractDataset[Any, "BaseBackend"]):
    """What works out the tables of the data pipeline.

    Args:
        connection: `backend` duckdb (with database ":memory:", and settings of DuckDB) or pyspark (with `spark.sql.*`).
    """

    def __init__(self, connection: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        self._connection, self.metadata = connection, metadata

    def load(self) -> BaseBackend:
        found = _connected(self._connection)
        if found is None:
            message = f"there is no engine {self._connection}. Take duckdb with database ':memory:', or pyspark"
            raise DatasetError(message)
        return found

    def save(self, data: Any) -> None:
        message = "an engine is not written by a pipeline"
        raise DatasetError(message)

    def _describe(self) -> dict[str, Any]:
        return {"connection": self._connection}


def _connected(config: Mapping[str, Any]) -> BaseBackend | None:
    """The database of the process with its settings, or Spark; None for any other."""
    if config["backend"] == "pyspark":
        return _spark(config)
    if config["backend"] == "duckdb" and config.get("database", ":memory:") == ":memory:":
        return engine(**{name: value for name, value in config.items() if name not in ("backend", "database")})
    return None


def _spark(config: Mapping[str, Any]) -> BaseBackend:
    advice = "Install it with pip install '.[spark]', and a Java of version 17 or later; or leave out --env=spark"
    try:
        from pyspark.errors import PySparkException

        from fairrec_pipeline.interactions.spark import spark
    except ImportError as error:
        raise DatasetError(f"the catalog asks for Spark, and it cannot be imported ({error}). {advice}") from error
    try:
        return spark(**{name: value for name, value in config.items() if name.startswith("spark.")})
    except PySparkException as error:
        raise DatasetError(f"the catalog asks for Spark, and it does not start ({error}). {advice}") from error


class Parquet(Atomic, ParquetDataset):
    """A Parquet file as a pandas frame."""

    def _write(self, data: pd.DataFrame, path: Path) -> None:
        data.to_parquet(path, **self._save_args)

    def _read(self, path: Path) -> pd.DataFrame:
        return pd.read_parquet(path, **self._load_args)


class ParquetFrames(Parquet):
    """A Parquet file as a pandas frame; saves any number of frames of the same columns without holding them all."""

    def _write(self, data: Iterable[pd.DataFrame], path: Path) -> None:  # type: ignore[override]
        import pyarrow.parquet as pq

        frames = iter(data)
        first = next(frames, None)
        if first is None:
            raise DatasetError(f"there is no frame to write to {self._filepath}")
        schema = _text_for_null(pa.Schema.from_pandas(first, preserve_index=False))
        with pq.ParquetWriter(path, schema, **self._save_args) as writer:
            for frame in itertools.chain([first], frames):
                writer.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False))


def _text_for_null(schema: pa.Schema) -> pa.Schema:
    """A column of texts that is empty at first has no type."""
    types = [pa.string() if pa.types.is_null(field.type) else field.type for field in schema]
    return pa.schema(list(zip(schema.names, types, strict=True)))


class Json(Atomic, JSONDataset):
    """A JSON file.

    Args:
        check: what raises an error where the content is not as it should be, as `<module of the package>:<function>`.
        arguments: those of Kedro's dataset.
    """

    def __init__(self, *, check: str | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._check = check

    def _write(self, data: Any, path: Path) -> None:
        path.write_text(json.dumps(data, **self._save_args), encoding="utf-8")

    def _read(self, path: Path) -> Any:
        content = json.loads(path.read_text(encoding="utf-8"))
        if self._check is not None:
            resolve_name(f"fairrec_pipeline.{self._check}")(content)
        return content


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


class HistoriesNpz(Atomic, TextDataset):
    """The histories of a prepared dataset as arrays of NumPy (.npz), without pickles; a path like that of a text."""

    def _write(self, data: PreparedHistories, path: Path) -> None:
        with path.open("wb") as file:  # given a name, NumPy would add a suffix to it
            data.save(file)

    def _read(self, path: Path) -> PreparedHistories:
        return PreparedHistories.load(path)


class Folder(AbstractDataset[Any, Path]):
    """The path of a folder of raw files, whatever lies in it; the folder need not exist.

    Raw files are read from the local disk, so that of another file system is copied first (see `storage.mirror`).

    Args:
        filepath: local, or with a protocol such as `s3://`.
        credentials: options of its file system.
    """

    def __init__(
        self, filepath: str, credentials: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._place = Place(filepath, credentials or {})
        self.metadata = metadata

    def load(self) -> Path:
        return mirror(self._place)

    def save(self, data: Any) -> None:
        raise DatasetError(f"{self._place} holds raw files and is not written by a pipeline")

    def _exists(self) -> bool:
        # A source may need no files (synthetic) or fetch them; the reader of the source says what is missing.
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._place)}
