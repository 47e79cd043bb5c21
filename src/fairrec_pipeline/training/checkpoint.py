"""Checkpoints of trainings: safetensors with a checksum, each one file that is whole or absent."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairrec_pipeline import storage
from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.storage import Place, Where

logger = logging.getLogger(__name__)


class CheckpointError(FairrecError, ValueError):
    """A checkpoint cannot be read: it is damaged, or of another program."""


class UnwrittenCheckpointError(FairrecError, OSError):
    """A checkpoint cannot be written, as on a full disk; what was saved before is still there."""


@dataclass(frozen=True)
class Snapshot:
    """Tensors by name, and a JSON-able description of them."""

    tensors: Mapping[str, Tensor]
    description: Mapping[str, Any]

    def section(self, name: str, wanted: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The tensors whose name starts with `name/`, without that prefix; a ValueError if others are wanted."""
        prefix = f"{name}/"
        section = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        if wanted is not None and section.keys() != set(wanted):
            raise ValueError(f"its section {name!r} has other names: {sorted(section.keys() ^ set(wanted))}")
        return section


def sections(**parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Several named dicts of tensors as one, with the section as prefix of the name."""
    return {f"{name}/{key}": value for name, part in parts.items() for key, value in part.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as tensors by `<number of the parameter>/<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, values in state.items() for name, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that `optimizer_tensors` read; a ValueError if a trained parameter has none."""
    trained = [x.requires_grad for group in optimizer.param_groups for x in group["params"]]
    if {key.partition("/")[0] for key in tensors} != {str(index) for index, used in enumerate(trained) if used}:
        raise ValueError("it lacks the state of the optimiser for some parameters")
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


@dataclass
class Checkpoint:
    """The one checkpoint of a training, which is continued only if everything that decides the result is the same.

    That of a complete training stays and holds its result, so that the same training is not done again.

    Attributes:
        path: of the file, local or with a protocol such as `s3://`; a `Place` where that takes credentials.
        identity: JSON-able, everything that decides the result (parameters, data, seed, code, kind of device).
    """

    path: Where
    identity: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Snapshot | None:
        """What was saved; None if nothing was, or something of another identity.

        Raises:
            CheckpointError: the file is damaged or no checkpoint; the message names it.
        """
        with suppress(FileNotFoundError), storage.as_local(self.path) as local, self.reading():
            with safe_open(local, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it has no iterator
            if metadata["sha256"] != _sha256(tensors, metadata["description"]):
                raise CheckpointError("its content does not have the checksum that was written with it")
            saved = json.loads(metadata["description"])
            snapshot = Snapshot(tensors, saved["description"])
            if saved["identity"] == json.loads(json.dumps(self.identity)):
                return snapshot
            logger.info("Of another training, so it is not continued: %s", self.path)
        return None

    def save(self, snapshot: Snapshot) -> None:
        """Replace what was saved before, whole or not at all, also after kill -9.

        Raises:
            UnwrittenCheckpointError: as on a full disk; what was saved before is still there.
        """
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in snapshot.tensors.items()}
        text = json.dumps({"identity": self.identity, "description": snapshot.description})
        metadata = {"description": text, "sha256": _sha256(tensors, text)}
        try:
            storage.write_whole(self.path, lambda local: save_file(tensors, local, metadata=metadata))
        except (OSError, SafetensorError) as error:
            raise UnwrittenCheckpointError(
                f"the checkpoint {self.path} cannot be written ({error}). Make room there, or see to it that it may be "
                "written; then the same command goes on from the last checkpoint that could be"
            ) from error

    def beside(self, name: str, identity: Mapping[str, Any]) -> Checkpoint:
        """A checkpoint in the same folder, of a training that others share; `name` is that of the file."""
        here = self.path if isinstance(self.path, Place) else Place(str(self.path))
        return Checkpoint(here.parent / f"{name}.safetensors", identity)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Whatever goes wrong with what the file holds becomes a CheckpointError: file, cause and what to do."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
            cause = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)
            raise CheckpointError(
                f"the checkpoint {self.path} is damaged, or is none of this version ({cause}). "
                "Delete it, and the same command trains this arm from the start"
            ) from error


def _sha256(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 over a text and the names, types, shapes and bytes of tensors on the CPU."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
