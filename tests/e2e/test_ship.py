"""From a trained arm to answers over HTTP, and on to a better one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

pytestmark = pytest.mark.e2e

URI = "models:/fairrec-synthetic@champion"
FAST = [sys.executable, "-m", "fairrec_pipeline.serving", "--model", URI, "--port"]
MLFLOW = [
    str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", URI, "--env-manager", "local",
    "-h", "127.0.0.1", "-p",
]  # fmt: skip
QUERY = {"inputs": [{"history": [3, 5, 3], "k": 5}, {"history": []}]}


def run_pipeline(project: Path, name: str, **runtime: Any) -> Any:
    bootstrap_project(project)
    with KedroSession.create(project, env="test", runtime_params=runtime) as session:
        return session.run(pipeline_names=[name])


@contextlib.contextmanager
def server(project: Path, command: list[str], health: str) -> Iterator[str]:
    """The address of a server that answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    # MLflow looks for uvicorn on the PATH
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{project / 'mlflow.db'}", "PATH": path}
    with (project / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, str(port)], cwd=project, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while not answers(f"{address}/{health}"):
            assert process.poll() is None, (project / "server.log").read_text()
            assert time.monotonic() < deadline, "not ready"
            time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # MLflow's server has a child
        process.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def asked(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_the_champion_is_served_and_a_restarted_server_serves_the_next_one(project: Path) -> None:
    run_pipeline(project, "train", loss="cvar")
    run_pipeline(project, "promote")
    with server(project, FAST, "health") as address:
        assert asked(f"{address}/model")["arm"] == "cvar"
        first = asked(f"{address}/recommend", QUERY)["predictions"]
    assert [len(answer["items"]) for answer in first] == [5, 20]
    with server(project, MLFLOW, "ping") as address:
        same = asked(f"{address}/invocations", QUERY)["predictions"]
    assert [answer["items"] for answer in same] == [answer["items"] for answer in first]
    run_pipeline(project, "train", loss="erm", train={"epochs": 12})
    run_pipeline(project, "promote")
    with server(project, FAST, "health") as address:
        assert asked(f"{address}/model")["arm"] == "erm"
        assert asked(f"{address}/recommend", QUERY)["predictions"] != first
