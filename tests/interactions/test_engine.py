"""The database of the process under threads and forks."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import pytest

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.engine import engine

FRAME = pd.DataFrame({"user_id": range(1000), "item_id": [n % 7 for n in range(1000)]})


def test_threads_read_join_and_cache_at_the_same_time(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "a.parquet")
    few = ibis.memtable(pd.DataFrame({"item_id": [1, 2]}))
    shared = engine().read_parquet(tmp_path / "a.parquet").filter(ibis._.user_id < 500).cache()

    def work(_: int) -> int:
        table = engine().read_parquet(tmp_path / "a.parquet").join(few, "item_id")
        return len(table.join(shared.select("user_id"), "user_id").cache().order_by("user_id").to_pandas())

    expected = (FRAME.item_id.isin([1, 2]) & (FRAME.user_id < 500)).sum()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(64))) == {expected}


def test_what_one_thread_makes_another_can_read(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "a.parquet")
    with ThreadPoolExecutor(1) as pool:
        table = pool.submit(lambda: engine().read_parquet(tmp_path / "a.parquet").head(3).cache()).result()
    assert len(table.join(ibis.memtable(FRAME)[["user_id"]], "user_id").to_pandas()) == 3


def test_times_have_one_zone_in_every_thread() -> None:
    zone = "SELECT current_setting('TimeZone')"
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: engine().con.execute(zone).fetchone()).result() == ("UTC",)
    assert engine().con.execute(zone).fetchone() == ("UTC",)


def test_a_forked_process_has_a_database_of_its_own() -> None:
    before = engine()
    child = os.fork()
    if child == 0:
        os._exit(0 if engine() is not before and ibis.memtable(FRAME).count().execute() == 1000 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert engine() is before is ibis.get_backend()


def test_settings_are_those_of_every_thread() -> None:
    limit = "SELECT current_setting('memory_limit')"
    (before,) = engine().con.execute(limit).fetchone() or ()
    try:
        backend = engine(memory_limit="300MiB", temp_directory=None)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: backend.con.execute(limit).fetchone()).result() == ("300.0 MiB",)
    finally:
        engine(memory_limit=before)


def test_a_cached_table_does_not_keep_those_it_was_made_of() -> None:
    first = ibis.memtable(FRAME).cache()
    name = first.get_name()
    second = first.filter(ibis._.user_id < 3).cache()
    del first
    assert name not in engine().list_tables()
    assert len(second.to_pandas()) == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"memory_limt": "6GiB"}, r"engine has memory_limt: 6GiB, which DuckDB refuses: .*memory_limit.* globals\.yml"),
        ({"memory_limit": "much"}, r"engine has memory_limit: much, which DuckDB refuses: .*must have a number"),
        ({"preserve_insertion_order": False}, "engine has preserve_insertion_order"),
    ],
)
def test_a_setting_that_cannot_be_is_a_mistake_and_no_bug(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        engine(**settings)
