"""Preparation on Spark gives DuckDB's rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fairrec_pipeline.interactions.core_filter import core_filter
from fairrec_pipeline.interactions.engine import engine
from fairrec_pipeline.interactions.groups import assign_groups
from fairrec_pipeline.interactions.leave_one_out import hold_out, split_roles, training_interactions
from fairrec_pipeline.interactions.prepared import PreparedHistories
from fairrec_pipeline.interactions.statistics import fingerprint

pytest.importorskip("pyspark", reason="pyspark is not installed; make test-scale has it")
if shutil.which("java") is None:
    pytest.skip("needs a Java of version 17 or later", allow_module_level=True)

SPLITS = {"pop33": (1 / 3, 1 / 3, 1 / 3), "seq1080": (0.1, 0.8, 0.1)}


def log() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events with ties in time and repeats, ids that are texts, users tied in both statistics; attributes of some."""
    random = np.random.default_rng(0)
    n = 3000
    users, items = random.integers(0, 200, n), (60 * random.random(n) ** 2).astype(np.int64)
    events = pd.DataFrame(
        {
            "user_id": np.char.mod("%03d", users).astype(object),
            "item_id": np.char.mod("i%d", items).astype(object),
            "timestamp": random.integers(0, 500, n),
            "file_row": np.arange(n),
        }
    )
    known = np.char.mod("%03d", np.arange(0, 200, 3)).astype(object)
    return events, pd.DataFrame({"user_id": known, "region": np.where(np.arange(len(known)) % 2, "a", "b")})


def prepared(backend: Any, folder: Path, ties: str) -> tuple[pd.DataFrame, pd.DataFrame, PreparedHistories]:
    """Interactions and groups by an engine, in the order of its rows, and the arrays that are streamed out of it."""
    events, attributes = (
        backend.read_parquet(folder / f"{name}.parquet", table_name=f"{name}_{ties}") for name in ("events", "users")
    )
    core = core_filter(events, 5, ties, 3)
    held_out = hold_out(core, 0.5, 42)
    groups = assign_groups(training_interactions(core, held_out), attributes, 0.8, SPLITS)
    interactions = split_roles(core, held_out)
    path = folder / f"interactions_{ties}_{backend.name}.parquet"
    interactions.to_parquet(path)
    histories = PreparedHistories.read(backend.read_parquet(path))  # Spark reads its parts in another order
    return interactions.to_pandas(), groups.to_pandas(), histories


@pytest.mark.parametrize("ties", ["file", "random"])
def test_rows_are_those_of_duckdb(ties: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairrec_pipeline.interactions.spark import spark

    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--master local[2] --conf spark.ui.enabled=false pyspark-shell")
    events, attributes = log()
    events.to_parquet(tmp_path / "events.parquet")
    attributes.to_parquet(tmp_path / "users.parquet")
    parts = {"spark.sql.shuffle.partitions": "4", "spark.sql.adaptive.coalescePartitions.enabled": "false"}
    ours, theirs = (prepared(backend, tmp_path, ties) for backend in (engine(), spark(**parts)))
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True, check_dtype=False)
    assert ours[2].fingerprint == theirs[2].fingerprint == fingerprint(ours[0])
    for part in ("train", "validation", "test"):
        for name, array in vars(getattr(ours[2], part)).items():
            np.testing.assert_array_equal(array, vars(getattr(theirs[2], part))[name])
    assert ours[1]["popularity_ratio"].duplicated().any()
