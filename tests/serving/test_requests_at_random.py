"""Whatever is asked of the server: an answer or a sentence, never a failure of the server."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fairrec_pipeline.serving.app import create_app
from fairrec_pipeline.serving.recommender import Recommender

REQUESTS = int(os.environ.get("FAIRREC_EXAMPLES", "300"))
BODY_BYTES = 20_000


def ask(app: FastAPI, body: bytes, path: str = "/recommend", method: str = "POST") -> tuple[int, Any]:
    """Status and JSON of an answer, without a socket."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode("utf-8",
        "replace"),
        "query_string": b"", "headers": [(b"content-type", b"application/json")], "scheme": "http",
        "server": ("localhost", 80), "client": ("localhost", 1),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


@pytest.fixture(scope="session", params=[False, True], ids=["numbers", "texts"])
def app(model_folder: Callable[..., Path], request: pytest.FixtureRequest) -> FastAPI:
    return create_app(Recommender.load(model_folder(text=request.param)), BODY_BYTES)


plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.integers(10, 40),
    st.sampled_from(["i10", "i13", "history", "inputs", "\ud800", "\0", 10**400, -(2**63), 2**63, 1e308, ""]),
)  # fmt: skip
anything = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
items = st.one_of(st.integers(10, 40), st.integers(), st.sampled_from(["i10", "i13", "x"]), plain)
queries = st.fixed_dictionaries(
    {"history": st.lists(items, max_size=30) | anything},
    optional={
        name: anything | st.integers(-1, 400) | st.lists(items, max_size=5)
        for name in ("k", "exclude", "candidates", "filter_seen", "user", "x")
    },
)
bodies = st.one_of(
    st.fixed_dictionaries(
        {"inputs": st.lists(queries, max_size=4) | anything}, optional={"params": anything, "x": anything}
    ).map(lambda body: json.dumps(body).encode()),
    anything.map(lambda body: json.dumps(body).encode()),
    st.binary(max_size=40),
)


@settings(max_examples=REQUESTS, deadline=None, suppress_health_check=list(HealthCheck), derandomize=REQUESTS == 300)
@given(body=bodies)
@example(body=b"")
@example(body=b"[" * 15_000)
@example(body=b'{"inputs": [{"history": [' + b"9" * 10_000 + b"]}]}")
@example(body=b'{"inputs": [{"history": [1e999]}]}')
@example(body=b'{"inputs": [{"history": [NaN, Infinity]}]}')
@example(body=b'{"inputs": [{"history": ["\xff"]}]}')
@example(body=b'{"inputs": [{"history": ["\\ud800"]}]}')
@example(body=b'{"inputs": [{"history": []}], "inputs": 5}')
def test_a_request_is_answered_or_refused(app: FastAPI, body: bytes) -> None:
    status, answer = ask(app, body)
    assert status in (200, 400, 413, 422)
    assert set(answer) == ({"predictions"} if status == 200 else {"error"})


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(path=st.text(max_size=20), method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "X"]))
def test_a_path_there_is_not_is_a_sentence(app: FastAPI, path: str, method: str) -> None:
    status, answer = ask(app, b"", f"/{path}x", method)
    assert 400 <= status < 500
    assert set(answer) == {"error"}
