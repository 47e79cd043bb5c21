"""The HTTP server of a model folder; FastAPI, one model a process, JSON in and out."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pydantic_core
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from fairrec_pipeline.serving.model_folder import ModelFolderError
from fairrec_pipeline.serving.recommender import Recommender
from fairrec_pipeline.serving.requests import MAX_QUERIES, Predictions, Queries, RequestError, first_error
from fairrec_pipeline.serving.settings import SETTINGS, Settings
from fairrec_pipeline.serving.together import Together

_DRAINED = 8
"""Up to so many times the limit, a body is read to its end before it is refused."""


def create_app(recommender: Recommender, body_bytes: int) -> FastAPI:
    """The application on a loaded model.

    `POST /recommend` takes `Queries` and answers `Predictions`; `GET /model` says what is served; `GET /health` answers
    once the model is loaded. A bad request gets a 4xx and a sentence under `error`; nothing of the input is repeated.

    Args:
        recommender: the model.
        body_bytes: largest body of a request.
    """
    together = Together(recommender)
    app = FastAPI(title="fairrec_pipeline", description=f"Recommendations of {recommender.config.label}")
    queries_of_model = Queries[recommender.config.item_type]  # type: ignore[name-defined]
    body = {"required": True, "content": {"application/json": {"schema": _schema(queries_of_model)}}}

    @app.post("/recommend", response_model=Predictions, openapi_extra={"requestBody": body})
    async def recommend(request: Request) -> Response:
        # not in a thread: on one core threads would only wait for each other
        try:
            queries = queries_of_model.model_validate_json(await _body(request, body_bytes))
            answers = await together.answer(queries.inputs)
        except ValidationError as error:
            malformed = error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid"
            return _refusal(400 if malformed else 422, first_error(error))
        except RequestError as error:
            return _refusal(422, str(error))
        predictions = Predictions.model_construct(predictions=answers)
        return Response(predictions.__pydantic_serializer__.to_json(predictions), media_type="application/json")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/model")
    async def model() -> dict[str, Any]:
        limits = {"body_bytes": body_bytes, "queries": MAX_QUERIES}
        return recommender.config.summary() | {"backend": recommender.backend, "limits": limits}

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        known = "POST /recommend, GET /health, GET /model, GET /docs"
        reasons = {404: f"there is no {request.url.path}", 405: f"{request.url.path} has no {request.method}"}
        message = f"{reasons[error.status_code]}; there are {known}" if error.status_code in reasons else error.detail
        return _refusal(error.status_code, message, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _refusal(500, "the server failed; its log says why")

    return app


def app_of_worker() -> FastAPI:
    """The application of a worker process, which runs on one thread; its settings are in the environment.

    Raises:
        ModelFolderError: the model cannot be loaded, and there is no other process.
        SystemExit: it cannot, and the process that started this one is asked to end.
    """
    settings = Settings.model_validate_json(os.environ[SETTINGS])
    if settings.backend == "torch":
        import torch

        torch.set_num_threads(1)  # two threads of two workers on two cores wait for each other, spinning
    try:
        recommender = Recommender.load(settings.folder, settings.backend)
    except ModelFolderError as error:
        if settings.refusal is None:
            raise
        Path(settings.refusal).write_text(str(error), encoding="utf-8")
        os.kill(os.getppid(), signal.SIGTERM)  # it would start another worker in the place of this one, without end
        raise SystemExit(2) from error
    return create_app(recommender, settings.body_bytes)


async def _body(request: Request, limit: int) -> bytes:
    """The body, of which no more is kept than the limit.

    What is a little too large is read to its end, for a client that still sends would not see the refusal.

    Raises:
        HTTPException: it is larger.
    """
    too_large = HTTPException(413, f"the body should have at most {limit} bytes; send fewer histories at a time")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > _DRAINED * limit:
        raise too_large
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            body += chunk
        elif size > _DRAINED * limit:
            raise too_large
    if size > limit:
        raise too_large
    return bytes(body)


def _refusal(status: int, message: str, headers: Any = None) -> Response:
    content = pydantic_core.to_json({"error": message})
    return Response(content, status, headers, media_type="application/json")


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema without references, for a body that FastAPI does not parse itself."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    (schema["properties"]["inputs"]["items"],) = definitions.values()
    return schema
