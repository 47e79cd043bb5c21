"""From a trained arm to answers over HTTP, and on to a better one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.e2e.servers import asked, server
from tests.projects import run_pipeline

pytestmark = pytest.mark.e2e

URI = "models:/fairrec-synthetic@champion"
FAST = [sys.executable, "-m", "fairrec_pipeline.serving", "--model", URI, "--port"]
MLFLOW = [
    str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", URI, "--env-manager", "local",
    "-h", "127.0.0.1", "-p",
]  # fmt: skip
QUERY = {"inputs": [{"history": [3, 5, 3], "k": 5}, {"history": []}]}


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
