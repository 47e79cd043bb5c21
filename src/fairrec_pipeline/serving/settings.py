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
    """

    folder: str
    backend: Backend
    body_bytes: int
