"""`python -m benchmarks.startup`: seconds from `kedro run` to the first node, as `name=value`, best of several.

What a user waits for before anything happens: imports, parameters, catalogue, MLflow. Measured from outside, on a copy
of the project in a temporary folder, from the start of the process to Kedro's line about its first node. The best
counts: other work on the machine can only add.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PIPELINES = ("data", "train")
_NEEDED = ("conf", "src", "pyproject.toml", ".telemetry")
_FIRST_NODE = "Running node:"


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        _copy_project(Path(__file__).parents[1], project)
        # makes bytecode, MLflow's database and the data that `train` reads; none of that is a usual start
        first = seconds_to_first_node(project, "data", to_the_end=True)
        print(f"first_ever_seconds_to_first_node={first:.2f}")
        for pipeline in options.pipelines:
            seconds = [seconds_to_first_node(project, pipeline) for _ in range(options.rounds)]
            print(f"{pipeline}_seconds_to_first_node={min(seconds):.2f}")


def seconds_to_first_node(project: Path, pipeline: str, *, to_the_end: bool = False) -> float:
    """Seconds from starting `kedro run` to the first node.

    Args:
        project: a folder that may be written to.
        to_the_end: let the run finish; else it is killed once its first node has begun.

    Raises:
        RuntimeError: it ended without a node, or failed; with what it printed.
    """
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "kedro", "run", f"--pipelines={pipeline}"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project / "src"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    printed, seconds = [], None
    with process:
        for line in process.stdout:
            printed.append(line)
            if seconds is None and _FIRST_NODE in line:
                seconds = time.perf_counter() - begun
                if not to_the_end:
                    process.kill()
    if seconds is None or (to_the_end and process.returncode):
        message = f"kedro run --pipelines={pipeline} ended with {process.returncode}:\n" + "".join(printed)
        raise RuntimeError(message)
    return seconds


def _copy_project(source: Path, target: Path) -> None:
    for name in _NEEDED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "local"))
        else:
            shutil.copy(source / name, target / name)
    (target / "conf" / "local").mkdir(exist_ok=True)  # a user's own settings would be measured too


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="starts of each pipeline (default %(default)s)")
    parser.add_argument("--pipelines", nargs="+", default=PIPELINES, help="which (default %(default)s)")
    return parser


if __name__ == "__main__":
    main()
