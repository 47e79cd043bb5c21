"""`python -m benchmarks.preparation`: seconds and peak memory of preparing generated logs, by stage.

Users and items follow power laws, about 15 events a user and 100 an item; the log is a Parquet file in the order of
time. Every size is a run of the data pipeline in a process of its own, with the catalog of conf/ and its checks. A
stage is a node, or the saving of what it made: with DuckDB that is when a table is worked out. Peak memory is resident,
of the process and what it has started; Python and the libraries are in it.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from kedro.framework.hooks import hook_impl

from benchmarks.__main__ import RESULTS, _commit, _device, _versions

ROOT = Path(__file__).parents[1]
NAME = "generated"
EVENTS_OF_A_USER, EVENTS_OF_AN_ITEM = 15, 100
_EXPONENT_OF_USERS, _EXPONENT_OF_ITEMS = 2, 4
_ROWS_AT_ONCE = 2_000_000
BLOCK = {"adapter": "table", "interactions": "log.parquet", "user": "user", "item": "item", "timestamp": "at"}


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.one:
        print(json.dumps(prepare(Path(options.one), options.env)))
        return
    command = " ".join(["python -m benchmarks.preparation", *(sys.argv[1:] if arguments is None else arguments)])
    record: dict[str, Any] = {"date": datetime.date.today().isoformat(), "commit": _commit(), "command": command}
    record |= {"device": _device(len(os.sched_getaffinity(0))), "versions": _versions() | _more_versions()}
    record |= {"engine": yaml.safe_load(options.engine), "spark": os.environ.get("PYSPARK_SUBMIT_ARGS")}
    record |= {"load_average": os.getloadavg(), "sizes": []}
    for n_events in options.events:
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            project = Path(temporary)
            write_project(project, n_events, record["engine"])
            arguments = [sys.executable, "-m", "benchmarks.preparation", "--one", temporary, "--env", options.env]
            environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{temporary}/mlflow.db"}
            done = subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.PIPE, env=environment)
            result = json.loads(done.stdout.splitlines()[-1])
        record["sizes"].append({"n_events": n_events, **result})
        _print(n_events, result)
    record["load_average_after"] = os.getloadavg()
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=1) + "\n")
        print(f"record: {options.output}")


def _more_versions() -> dict[str, str]:
    found = {}
    for name in ("duckdb", "ibis-framework", "kedro", "pandas", "pyspark"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def write_project(folder: Path, n_events: int, engine: dict[str, Any]) -> None:
    """Configuration of the project with the generated log as a dataset, and the log."""
    shutil.copytree(ROOT / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"))
    block = yaml.safe_dump({"datasets": {NAME: BLOCK}})
    (folder / "conf/base/parameters_datasets/generated.yml").write_text(block)
    (folder / "conf/local").mkdir()
    if engine:
        (folder / "conf/local/globals.yml").write_text(yaml.safe_dump({"engine": engine}))
    raw = folder / "data/01_raw" / NAME
    raw.mkdir(parents=True)
    write_log(raw / "log.parquet", n_events)


def write_log(path: Path, n_events: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    n_users, n_items = n_events // EVENTS_OF_A_USER, n_events // EVENTS_OF_AN_ITEM
    schema = pa.schema([(BLOCK[name], pa.int64()) for name in ("user", "item", "timestamp")])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, n_events, _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, n_events))
            users = (n_users * rng.random(len(rows)) ** _EXPONENT_OF_USERS).astype(np.int64)
            items = (n_items * rng.random(len(rows)) ** _EXPONENT_OF_ITEMS).astype(np.int64)
            writer.write_table(pa.table([users, items, 1_600_000_000 + rows // 3], schema=schema))


class Stages:
    """Hook that notes the seconds and the peak memory of every node and every saving."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []
        self._open("start")

    @hook_impl
    def before_node_run(self, node: Any) -> None:
        self._open(node.name)

    @hook_impl
    def before_dataset_saved(self, dataset_name: str) -> None:
        self._open(f"save {dataset_name}")

    @hook_impl
    def after_dataset_saved(self) -> None:
        self._open("between")

    def _open(self, name: str) -> None:
        self.close()
        _forget_peaks()
        self._name, self._begun, self._cpu = name, time.perf_counter(), _cpu_seconds()

    def close(self) -> None:
        if hasattr(self, "_name"):
            seconds = time.perf_counter() - self._begun
            cpu = _cpu_seconds() - self._cpu
            row = {"stage": self._name, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2)}
            self.done.append(row | {"peak_mib": round(_peaks() / 2**20)})


def prepare(folder: Path, env: str) -> dict[str, Any]:
    """Run the data pipeline on a project that `write_project` made."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(ROOT)
    runtime = {"dataset": NAME, "data_root": str(folder / "data")}
    begun, stages = time.perf_counter(), Stages()
    with KedroSession.create(ROOT, env=env, conf_source=str(folder / "conf"), runtime_params=runtime) as session:
        session._hook_manager.register(stages)
        session.run(pipeline_names=["data"])
    stages.close()
    (statistics,) = folder.rglob("dataset_statistics.json/*/dataset_statistics.json")
    counts = json.loads(statistics.read_text())
    files = {path.name: sum(x.stat().st_size for x in (path.rglob("*") if path.is_dir() else [path]))
             for path in sorted(folder.glob("data/*/*/*/*/*"))}  # fmt: skip
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_mib": max(stage["peak_mib"] for stage in stages.done),
        **{name: counts[name] for name in ("n_interactions", "n_users", "n_items", "fingerprint")},
        "stages": [stage for stage in stages.done if stage["stage"] != "between" or stage["seconds"] > 1],
        "bytes": files | {"raw": sum(path.stat().st_size for path in folder.glob("data/01_raw/*/*"))},
    }


def _processes() -> Iterator[Path]:
    """Of this process and of all that it started, folders in /proc."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    known = {os.getpid()}
    while more := {process for process, parent in parents.items() if parent in known} - known:
        known |= more
    yield from (Path("/proc", str(process)) for process in known)


def _forget_peaks() -> None:
    for process in _processes():
        with suppress(OSError):
            (process / "clear_refs").write_text("5")  # the peak begins anew at what is held now


def _peaks() -> int:
    """Sum of what the processes held at most since `_forget_peaks`, in bytes."""
    total = 0
    for process in _processes():
        with suppress(OSError):
            lines = (process / "status").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return total


def _cpu_seconds() -> float:
    """Of all processes since they began."""
    ticks = 0
    for process in _processes():
        with suppress(OSError):
            ticks += sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _print(n_events: int, result: dict[str, Any]) -> None:
    print(
        f"\n{n_events:,} events, {result['n_interactions']:,} kept: {result['seconds']} s, {result['peak_mib']:,} MiB"
    )
    for stage in result["stages"]:
        seconds = f"{stage['seconds']:9.1f} s {stage['cpu_seconds']:9.1f} s of CPU"
        print(f"{stage['stage']:26} {seconds} {stage['peak_mib']:8,} MiB", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preparation", description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000], help="(default %(default)s)")
    parser.add_argument("--env", default="local", help="of Kedro; spark for Spark (default %(default)s)")
    parser.add_argument("--engine", default="{}", help="settings of DuckDB, such as '{memory_limit: 6GiB, threads: 2}'")
    parser.add_argument("--folder", help="for everything that is written, which is removed")
    parser.add_argument(
        "--output", type=Path, help=f"file of the record, such as {RESULTS}/<date>-<machine>-spark.json"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
