"""A pipeline waits for what it uses; and the seconds to the first node are those to the first node."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.startup import seconds_to_first_node

FREE_OF = {"data": ("torch", "scipy.stats", "plotly"), "train": ("plotly",)}


@pytest.mark.parametrize("pipeline", FREE_OF)
def test_a_pipeline_imports_what_it_uses(pipeline: str) -> None:
    code = (
        "import sys; from fairrec_pipeline.pipeline_registry import register_pipelines; "
        f"assert register_pipelines()[{pipeline!r}].nodes; print(*sys.modules)"
    )
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert f"fairrec_pipeline.pipelines.{pipeline}.nodes" in modules
    assert not set(FREE_OF[pipeline]) & set(modules)


def _fake_kedro(folder: Path, body: str) -> Path:
    """A module `kedro` that `python -m kedro` finds before the installed one."""
    source = folder / "src" / "kedro"
    source.mkdir(parents=True)
    (source / "__init__.py").touch()
    (source / "__main__.py").write_text(body)
    return folder


def test_the_clock_stops_at_the_first_node(tmp_path: Path) -> None:
    """The node is told of after half a second; what follows it, a minute, is not waited for."""
    body = "import time\ntime.sleep(0.5)\nprint('Running node: ingest')\ntime.sleep(60)\n"
    assert 0.5 <= seconds_to_first_node(_fake_kedro(tmp_path, body), "data") < 30


@pytest.mark.parametrize("body", ["print('no such pipeline')", "print('Running node: ingest')\nraise SystemExit(3)"])
def test_a_run_that_fails_is_no_measurement(body: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"--pipelines=data ended with \d:\n(no such pipeline|Running node)"):
        seconds_to_first_node(_fake_kedro(tmp_path, body), "data", to_the_end=True)
