"""The embedded DuckDB on which every table is worked out, fit for threads."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any, cast

import duckdb
import ibis
import ibis.expr.types as ir
from ibis import BaseBackend
from ibis.backends.duckdb import Backend

from fairrec_pipeline.errors import DataError


class _OfThread(threading.local):
    """What every thread has for itself, made when it first asks."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self.con = database.cursor()
        self.con.execute("SET TimeZone = 'UTC'").execute("SET python_enable_replacements = false")
        self.memtables = weakref.WeakSet[Any]()


class SharedDuckDB(Backend):
    """Ibis' DuckDB backend with one database, and one connection to it for every thread.

    A DuckDB connection holds one query at a time, so threads that share it close each other's results. What one thread
    makes (views of files, cached tables) lies in the database and not in its connection: the others can read it.
    """

    @property
    def con(self) -> duckdb.DuckDBPyConnection:
        """Connection of the calling thread."""
        return self._of_thread.con

    @con.setter
    def con(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._of_thread = _OfThread(connection)

    @property
    def _memtables(self) -> weakref.WeakSet[Any]:
        """Tables in memory that the connection of the calling thread knows."""
        return self._of_thread.memtables

    @_memtables.setter
    def _memtables(self, known: weakref.WeakSet[Any]) -> None:
        """Ibis sets one for all threads."""

    def read_parquet_of(self, file_system: Any, path: str) -> ir.Table:
        """A Parquet file of a file system of fsspec as a table, which is read when it is worked out.

        Ibis and DuckDB would download DuckDB's own extension for `s3://`, and take no credentials of fsspec.

        Args:
            file_system: stays registered with the database, so that it knows one of each protocol: a later one with
                other options takes the place of the former.
            path: on the file system, without a protocol.
        """
        protocol = self._register(file_system)
        name = ibis.util.gen_name("read_parquet")
        source = f"{protocol}://{path}".replace("'", "''")
        self.raw_sql(f"CREATE TEMP VIEW {name} AS SELECT * FROM read_parquet('{source}')")  # noqa: S608
        return self.table(name)

    def _register(self, file_system: Any) -> str:
        """Have DuckDB read by a file system of fsspec; returns the protocol by which it knows it."""
        protocol = file_system.protocol if isinstance(file_system.protocol, str) else file_system.protocol[0]
        options = (type(file_system), file_system.storage_options)
        with _registering:
            registered: dict[str, Any] = self.__dict__.setdefault("_registered", {})
            if registered.get(protocol) != options:
                if protocol in registered:
                    self.con.unregister_filesystem(protocol)
                self.con.register_filesystem(file_system)
                registered[protocol] = options
        return str(protocol)

    def set(self, **settings: Any) -> None:
        """Set options of the database, such as memory_limit="6GiB" or temp_directory; None leaves one as it is.

        Raises:
            DataError: DuckDB refuses one, or preserve_insertion_order is among them, which the numbers of the rows of a
                file rest on.
        """
        if "preserve_insertion_order" in settings:
            raise DataError("engine has preserve_insertion_order: leave it out, the order of rows is counted on")
        known: dict[str, Any] = self.__dict__.setdefault("_settings", {})
        for name, value in settings.items():
            if value is not None and known.get(name) != value:
                text = str(value).replace("'", "''")
                try:
                    self.con.execute(f"SET GLOBAL {name} = '{text}'")
                except duckdb.Error as error:
                    reason = " ".join(str(error).split())
                    raise DataError(
                        f"engine has {name}: {value}, which DuckDB refuses: {reason}. Settings stand in globals.yml, "
                        "such as memory_limit: 6GiB"
                    ) from error
                known[name] = value

    def _cached_table(self, table: ir.Table) -> ir.CachedTable:
        """Ibis would remember what a cached table was made of, and so keep the tables before it in memory."""
        kept = self._create_cached_table(ibis.util.gen_name("cached"), table).op()
        weakref.finalize(kept, self._finalize_cached_table, kept.name).atexit = False
        return ir.CachedTable(kept)

    def _finalize_cached_table(self, name: str) -> None:
        self._drop_cached_table(name)

    def _create_cached_table(self, name: str, expr: ir.Table) -> ir.Table:
        return self.create_table(name, expr, schema=expr.schema())

    def _create_temp_view(self, table_name: str, source: Any) -> None:
        view = self._get_temp_view_definition(table_name, source)
        view.set("properties", None)
        with self._safe_raw_sql(view):
            pass


_making, _registering = threading.Lock(), threading.Lock()


def engine(**settings: Any) -> SharedDuckDB:
    """The database of this process, with these settings from now on; it is the default of Ibis."""
    with _making:
        backend = ibis.options.default_backend
        if not isinstance(backend, SharedDuckDB):
            backend = SharedDuckDB().connect()
            ibis.set_backend(backend)
        backend.set(**settings)
        return cast(SharedDuckDB, backend)


def moved(table: ir.Table, to: BaseBackend) -> ir.Table:
    """A table of DuckDB in another engine, by way of a file; the table itself where DuckDB is that engine."""
    if isinstance(to, SharedDuckDB):
        return table
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.parquet")
        table.to_parquet(path)
        return to.read_parquet(path).cache()


def literal_path(path: Path) -> str:
    """The path as DuckDB needs it: it takes names for patterns, and would read log1.csv for log[1].csv."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def _forget() -> None:
    """A forked process has a copy of the database without the threads that work for it."""
    global _making, _registering
    _making, _registering = threading.Lock(), threading.Lock()
    if isinstance(ibis.options.default_backend, SharedDuckDB):
        ibis.options.default_backend = None


os.register_at_fork(after_in_child=_forget)
