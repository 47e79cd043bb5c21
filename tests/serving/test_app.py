"""The HTTP server over a real socket: the answers of the recommender, and a sentence for everything that is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from fairrec_pipeline.serving.__main__ import main
from fairrec_pipeline.serving.app import create_app
from fairrec_pipeline.serving.recommender import Recommender

BODY_BYTES = 200_000


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def ask(url: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of an answer, whatever the status."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def recommend(url: str, *inputs: dict[str, Any]) -> Any:
    return ask(f"{url}/recommend", json.dumps({"inputs": inputs}).encode())


def serve(recommender: Recommender) -> Iterator[str]:
    port = free_port()
    app = create_app(recommender, BODY_BYTES)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def recommender(folder: Path) -> Recommender:
    return Recommender.load(folder)


@pytest.fixture(scope="module")
def url(recommender: Recommender) -> Iterator[str]:
    yield from serve(recommender)


@pytest.fixture(scope="module")
def url_of_text_items(model_folder: Callable[..., Path]) -> Iterator[str]:
    yield from serve(Recommender.load(model_folder(text=True)))


def test_answers_are_those_of_the_recommender(url: str, recommender: Recommender, histories: list[list[int]]) -> None:
    status, answer = recommend(url, *({"history": history, "k": 7} for history in histories))
    assert status == 200
    for got, history in zip(answer["predictions"], histories, strict=True):
        expected = recommender.recommend(history, k=7)
        assert got["items"] == expected.items
        assert got["scores"] == pytest.approx(expected.scores, abs=1e-5)
        assert (got["known_items"], got["cold_start"]) == (expected.known_items, expected.cold_start)


def test_text_items(url_of_text_items: str) -> None:
    status, answer = recommend(url_of_text_items, {"history": ["i10", "none"], "k": 2})
    assert status == 200
    assert answer["predictions"][0]["known_items"] == 1
    assert recommend(url_of_text_items, {"history": [10]}) == (
        422, {"error": "inputs[0].history[0]: Input should be a valid string"},
    )  # fmt: skip


def test_health_and_model(url: str) -> None:
    assert ask(f"{url}/health") == (200, {"status": "ok"})
    status, model = ask(f"{url}/model")
    assert status == 200
    expected = {"arm": "cvar", "seed": 3, "dataset": "shop", "n_items": 300, "item_type": "int", "backend": "torch"}
    assert expected.items() <= model.items()
    assert model["limits"]["body_bytes"] == BODY_BYTES


def test_the_schema_names_the_fields(url: str) -> None:
    status, schema = ask(f"{url}/openapi.json")
    assert status == 200
    body = schema["paths"]["/recommend"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    query = body["properties"]["inputs"]["items"]
    assert set(query["properties"]) == {"history", "k", "exclude", "allow", "filter_seen"}
    assert query["properties"]["history"]["items"] == {"type": "integer"}


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ("", 400, "Invalid JSON: EOF"),
        ("{", 400, "Invalid JSON: EOF"),
        (b'{"inputs": [{"history": ["\xff"]}]}', 400, "Invalid JSON: invalid unicode"),
        ('{"inputs": [{"history": ["\\ud800"]}]}', 400, "Invalid JSON: unexpected end of hex escape"),
        ("[" * 100_000, 400, "Invalid JSON: recursion limit"),
        ('{"inputs": [{"history": [' + "9" * 5000 + "]}]}", 400, "Invalid JSON: number out of range"),
        ("[]", 422, "Input should be an object"),
        ("{}", 422, "inputs: Field required"),
        ('{"inputs": []}', 422, "inputs: List should have at least 1 item"),
        ('{"inputs": [{}]}', 422, "inputs[0].history: Field required"),
        ('{"inputs": [{"history": null}]}', 422, "inputs[0].history: Input should be a valid array"),
        ('{"inputs": [{"history": 10}]}', 422, "inputs[0].history: Input should be a valid array"),
        ('{"inputs": [{"history": [10, NaN]}]}', 422, "inputs[0].history[1]: Input should be a valid integer"),
        ('{"inputs": [{"history": [Infinity]}]}', 422, "inputs[0].history[0]: Input should be a valid integer"),
        ('{"inputs": [{"history": [1e400]}]}', 422, "inputs[0].history[0]: Input should be"),
        ('{"inputs": [{"history": [10.0]}]}', 422, "inputs[0].history[0]: Input should be a valid integer"),
        ('{"inputs": [{"history": ["10"]}]}', 422, "inputs[0].history[0]: Input should be a valid integer"),
        ('{"inputs": [{"history": [true]}]}', 422, "inputs[0].history[0]: Input should be a valid integer"),
        ('{"inputs": [{"history": [[10]]}]}', 422, "inputs[0].history[0]: Input should be a valid integer"),
        ('{"inputs": [{"history": [10], "k": 0}]}', 422, "inputs[0].k: Input should be greater than or equal to 1"),
        ('{"inputs": [{"history": [10], "k": 1001}]}', 422, "inputs[0].k: Input should be less than or equal to 1000"),
        ('{"inputs": [{"history": [10], "k": NaN}]}', 422, "inputs[0].k: Input should be a valid integer"),
        ('{"inputs": [{"history": [10], "k": "5"}]}', 422, "inputs[0].k: Input should be a valid integer"),
        ('{"inputs": [{"history": [10], "allow": []}]}', 422, "inputs[0].allow: List should have at least 1 item"),
        ('{"inputs": [{"history": [10], "filter_seen": 1}]}', 422, "inputs[0].filter_seen: Input should be a valid"),
        ('{"inputs": [{"history": [10], "top": 5}]}', 422, "inputs[0].top: Extra inputs are not permitted"),
        ('{"inputs": [{"history": [10]}], "k": 5}', 422, "k: Extra inputs are not permitted"),
        ('{"inputs": [{"history": [' + "1," * 20_000 + "1]}]}", 422, "inputs[0].history: List should have at most 20"),
        ('{"inputs": [' + '{"history": []},' * 256 + '{"history": []}]}', 422, "inputs: List should have at most 256"),
        ('{"inputs": [{"history": [], "' + "x" * 100_000 + '": 1}]}', 422, "inputs[0].xxxx"),
    ],
)  # fmt: skip
def test_bad_bodies(body: str | bytes, status: int, sentence: str, url: str) -> None:
    got, answer = ask(f"{url}/recommend", body if isinstance(body, bytes) else body.encode())
    assert (got, answer.keys()) == (status, {"error"})
    assert answer["error"].startswith(sentence)
    assert len(answer["error"]) < 200


def test_bodies_that_are_too_large(url: str) -> None:
    """Also where their length is not announced."""
    too_large = (413, {"error": f"the body should have at most {BODY_BYTES} bytes; send fewer histories at a time"})
    assert ask(f"{url}/recommend", b" " * (BODY_BYTES + 1)) == too_large
    request = urllib.request.Request(f"{url}/recommend", iter([b" " * 1000] * 1000), method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 413


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_without_end_is_not_awaited(announced: bool, url: str) -> None:
    """A gigabyte is announced, or sent piece by piece until the server has had enough."""
    head = "Content-Length: 1000000000" if announced else "Transfer-Encoding: chunked"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(f"POST /recommend HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        if not announced:
            piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            for _ in range(8 * BODY_BYTES // 0x10000 + 1):
                connection.sendall(piece)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_other_addresses(url: str) -> None:
    known = "there are POST /recommend, GET /health, GET /model, GET /docs"
    assert ask(f"{url}/nothing") == (404, {"error": f"there is no /nothing; {known}"})
    assert ask(f"{url}/recommend") == (405, {"error": f"/recommend has no GET; {known}"})


def test_a_fault_of_the_server_shows_no_traceback(recommender: Recommender) -> None:
    class Broken(Recommender):
        def answer(self, queries: Any) -> Any:
            message = "secret"
            raise RuntimeError(message)

    for url in serve(Broken(recommender.config, recommender._scores)):
        assert recommend(url, {"history": []}) == (500, {"error": "the server failed; its log says why"})


def test_two_workers_of_the_command(folder: Path, recommender: Recommender) -> None:
    """Ready, answered by both, ended by a signal, and nothing on standard error but what is served."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "fairrec_pipeline.serving",
        "--model",
        folder,
        "--port",
        str(port),
        "--workers",
        "2",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    assert ask(f"http://127.0.0.1:{port}/health")[0] == 200
                    break
                except urllib.error.URLError:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            _, answer = recommend(f"http://127.0.0.1:{port}", {"history": [10, 13]})
            assert answer["predictions"][0]["items"] == recommender.recommend([10, 13]).items
        finally:
            process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert said == f"Serving cvar (seed 3) on shop: http://127.0.0.1:{port}/recommend, 2 workers, backend torch\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nowhere"], "nowhere/config.json: there is no such file; --model is a folder with config.json"),
        (["--model", "models:/none@champion"], "models:/none@champion: cannot be fetched from sqlite:///"),
    ],
)
def test_models_that_are_not_there(
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    assert main(options) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_that_cannot_be_loaded_ends_the_command_with_one_line(folder: Path, workers: int) -> None:
    """What the header of the weights does not say: here that there is no export. No worker is started again."""
    command = [sys.executable, "-m", "fairrec_pipeline.serving", "--model", folder, "--port", str(free_port())]
    options = ["--backend", "onnx", "--workers", str(workers)]
    ended = subprocess.run([*command, *options], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    served, *said = ended.stderr.splitlines()
    assert served.startswith("Serving cvar (seed 3) on shop")
    assert [line.partition(": ")[2].partition(";")[0] for line in said] == ["there is no such file"]
    assert said[0].startswith(f"{folder}/model.onnx")
    assert ended.returncode == 2


@pytest.mark.parametrize(
    ("name", "value"), [("--port", "0"), ("--port", "70000"), ("--workers", "0"), ("--workers", "x")]
)
def test_options_out_of_range(name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model", "x", name, value])
    assert f"argument {name}: should be a whole number from 1 to" in capsys.readouterr().err


def test_settings_reach_the_workers_by_the_environment_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command listens on loopback unless it is told otherwise, and says so when it does not."""
    called: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: called.update(options, app=app))
    monkeypatch.setenv("FAIRREC_SERVING", "")
    assert main(["--model", str(folder)]) == 0
    assert (called["host"], called["workers"]) == ("127.0.0.1", 1)
    assert json.loads(os.environ["FAIRREC_SERVING"]) == {
        "folder": str(folder), "backend": "torch", "body_bytes": 4 * 2**20, "refusal": None,
    }  # fmt: skip


def test_a_public_address_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: None)
    monkeypatch.setenv("FAIRREC_SERVING", "")
    main(["--model", str(folder), "--host", "0.0.0.0"])
    assert "0.0.0.0 is reachable from other machines" in capsys.readouterr().err
    main(["--model", str(folder), "--host", "localhost"])
    assert "reachable" not in capsys.readouterr().err
