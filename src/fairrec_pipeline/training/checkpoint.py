"""Checkpoints and weights as safetensors: one atomic file each, no pickle."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """Tensors by name and a JSON-able description of them."""

    tensors: dict[str, Tensor]
    description: dict[str, Any]

    def section(self, name: str) -> dict[str, Tensor]:
        """The tensors whose name starts with `name/`, without that prefix."""
        return {
            key.removeprefix(f"{name}/"): value for key, value in self.tensors.items() if key.startswith(f"{name}/")
        }


def sections(**parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Several named dicts of tensors as one, with the section as prefix of the name."""
    return {f"{name}/{key}": value for name, part in parts.items() for key, value in part.items()}


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write atomically: whoever reads sees the old file or the new one, also after kill -9."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in snapshot.tensors.items()}
    save_file(tensors, partial, metadata={"description": json.dumps(snapshot.description)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def load_snapshot(path: Path) -> Snapshot:
    """Read what `save_snapshot` wrote.

    Raises:
        ValueError: the file is not a snapshot.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads(file.metadata()["description"])
            return Snapshot({name: file.get_tensor(name) for name in file.keys()}, description)  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        message = f"{path} is not a checkpoint of this project or is damaged ({error}); delete it to start afresh"
        raise ValueError(message) from error


@dataclass(frozen=True)
class CheckpointStore:
    """The one checkpoint of an arm.

    A checkpoint belongs to a training: it is continued only if everything that decides the result is the same. That of
    a complete training holds its result, so that the same command does not train it again.
    """

    path: Path

    def load(self, training: Mapping[str, Any]) -> Snapshot | None:
        """The checkpoint of this training; None if there is none or it is of another one.

        Args:
            training: JSON-able, everything that decides the result (parameters, data fingerprint, seed, device).
        """
        if not self.path.exists():
            return None
        snapshot = load_snapshot(self.path)
        same = snapshot.description.get("training") == json.loads(json.dumps(training))
        logger.info("%s %s", "Continuing from" if same else "Of another training, so it is not continued:", self.path)
        return snapshot if same else None

    def save(self, snapshot: Snapshot, training: Mapping[str, Any]) -> None:
        save_snapshot(self.path, Snapshot(snapshot.tensors, {**snapshot.description, "training": training}))

    def beside(self, name: str) -> CheckpointStore:
        """A checkpoint in the same folder, of a training that others share."""
        return CheckpointStore(self.path.with_name(f"{name}{self.path.suffix}"))


@cache
def code_fingerprint() -> str:
    """SHA-256 over the code that decides what a training results in: a checkpoint of other code is not continued."""
    package = Path(__file__).parents[1]
    folders = ("interactions", "models", "objectives", "training")
    files = sorted(file for folder in folders for file in (package / folder).glob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
