"""What the workers of a server are told by the process that starts them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

SETTINGS = "FAIRREC_SERVING"
"""Environment variable that holds the `Settings` as JSON."""

Backend = Literal["torch", "onnx"]


class Settings(BaseModel):
    """What a worker serves.

    Attributes:
        folder: local folder of the model.
        backend: what computes the scores.
        body_bytes: largest body of a request.
        refusal: file for what a worker says that cannot load the model; None where the command itself is the worker.
    """

    folder: str
    backend: Backend
    body_bytes: int
    refusal: str | None = None
