"""Servers that tests start, and what they answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
