"""Spark as the engine of the data pipeline: Ibis' backend, whose intermediate tables are cut off from their plans."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.pyspark import Backend
from ibis.backends.pyspark.datatypes import PySparkSchema


class CuttingSpark(Backend):
    """Ibis' PySpark backend, whose `cache` keeps rows and not plans.

    The core filter goes round until nothing changes. Spark's own cache keeps the plan of a table, so every round would
    hold all rounds before it. A table in memory is registered first, and columns get the types that Ibis believes
    they have: Spark's `row_number` is 32 bits wide.
    """

    def _create_cached_table(self, name: str, expr: ir.Table) -> ir.Table:
        self._register_in_memory_tables(expr)
        schema = PySparkSchema.from_ibis(expr.schema())
        frame = self._session.sql(self.compile(expr)).to(schema).localCheckpoint(eager=True)
        frame.createOrReplaceTempView(name)
        self._cached_dataframes[name] = frame
        return self.table(name)

    def to_pyarrow_batches(
        self, expr: ir.Expr, /, *, chunk_size: int = 1_000_000, **_: Any
    ) -> pa.ipc.RecordBatchReader:
        """Rows in their order, by way of files: Ibis would hold all of them first."""
        table = expr.as_table()
        schema = table.schema().to_pyarrow()

        def batches() -> Iterator[pa.RecordBatch]:
            with tempfile.TemporaryDirectory() as folder:
                self.to_parquet(table, Path(folder, "rows"))
                for part in sorted(Path(folder, "rows").glob("part-*")):
                    for batch in pq.ParquetFile(part).iter_batches(batch_size=chunk_size):
                        yield batch.cast(schema)

        return pa.ipc.RecordBatchReader.from_batches(schema, batches())

    def _drop_cached_table(self, name: str) -> None:
        self._session.catalog.dropTempView(name)
        self._cached_dataframes.pop(name)


def spark(**settings: Any) -> CuttingSpark:
    """The Spark of this process, one for the same settings of its session (`spark.sql.*`).

    Master and memory of the driver are decided when it starts: PYSPARK_SUBMIT_ARGS says them.
    """
    return _spark(tuple(sorted(settings.items())))


@cache
def _spark(settings: tuple[tuple[str, Any], ...]) -> CuttingSpark:
    CuttingSpark.register_options()  # which Ibis does for its own
    backend = CuttingSpark()
    connected: CuttingSpark = backend.connect(**dict(settings))
    return connected
