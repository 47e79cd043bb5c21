"""`ArmStore`: the only place that knows where arms lie, and in which versions."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from fairrec_pipeline import storage
from fairrec_pipeline.arms.record import PARTS, ArmRecord, Card, SavedModel
from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.parameters.methods import arm_folder
from fairrec_pipeline.storage import Place

logger = logging.getLogger(__name__)

FORMAT = 2
"""Of a card. Cards of format 1 do not name their parts, so that nobody can know which belong together."""

_CARD = "run_card.json"
_FILES = {"model": "model.safetensors", **{name: f"{name}.json" for name in ("config", "tuning_runs", "run_card")}}
"""Of the card, and of the parts that are no tables."""


class _Identity(BaseModel):
    """What the cards of all formats have; there is more."""

    arm: str
    loss: str
    loss_groups: str | None
    seed: int | None
    data_fingerprint: str


class _Part(BaseModel):
    version: str
    sha256: str


class _Training(_Identity):
    """The card of a complete training."""

    model_config = ConfigDict(strict=True)

    training: str
    dataset: str
    groups_fingerprint: str | None
    parameters: dict[str, Any]
    device: str
    started: str
    finished: str
    seconds: FiniteFloat
    epochs: int
    best_epoch: int
    validation_ndcg_at_20: FiniteFloat


class _Card(_Training):
    """The card of an arm, which is that of its training with the parts that were saved."""

    version: str
    parts: dict[str, _Part]


class DamagedArmError(FairrecError):
    """A part of an arm is not what its card says; the message names the file and the next step."""


@dataclass(frozen=True)
class ArmStore:
    """All arms of a dataset, and the checkpoints of their trainings.

    A record is found by its card, which is written last and names every part with its version and SHA-256. So a record
    is whole or not there, whoever wrote the parts and when. A part is checked against its card when it is opened.

    Attributes:
        models, outputs: folders of weights and of everything else: `<folder>/<arm>/seed-<n>/<file>/<version>/<file>`.
        trials: folder of checkpoints and of cards of complete trainings, by their keys.
        version: of what is saved; versions sort by time.
        options: of the file system, such as credentials (see `storage.Place`).
    """

    models: str
    outputs: str
    trials: str
    version: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    # --- records

    def records(self) -> list[ArmRecord]:
        """The newest record of every arm and seed. What an earlier format has left is named in a warning."""
        newest = {}
        for card in storage.find(self._place(self.outputs), f"*/seed-*/{_CARD}/*/{_CARD}"):  # ascending
            *_, arm, seed, _, version, _ = card.split("/")
            newest[f"{arm}/{seed}"] = version
        records = {folder: self._read(folder, version) for folder, version in newest.items()}
        if older := [folder for folder, record in records.items() if record is None]:
            logger.warning(
                "%d arms below %s were written by an earlier version of this project and cannot be read; they are left "
                "out. Train them again, or delete their folders: %s",
                *(len(older), self.outputs, ", ".join(older)),
            )
        return [record for record in records.values() if record is not None]

    def find(self, name: str, seed: int, version: str | None = None) -> ArmRecord | None:
        """The newest record of an arm (`gdro-pop33`) and seed, or that of a version; None if none can be read."""
        folder = arm_folder(name, seed)
        versions = self._place(f"{self.outputs}/{folder}/{_CARD}")
        cards = storage.find(versions, f"{version or '*'}/{_CARD}")  # ascending
        return self._read(folder, Path(cards[-1]).parent.name) if cards else None

    def save(self, record: ArmRecord) -> None:
        """Write the parts of a record that there are, then its card."""
        assert self.version is not None  # who saves has given one
        assert record.seed is not None  # untrained arms are not saved
        folder, parts = arm_folder(record.arm, record.seed), {}
        for name in PARTS:
            for part, write in _writers(name, record.open_part(name)):
                digest = _write(self._path(folder, part, self.version), write)
                parts[part] = {"version": self.version, "sha256": digest}
        card = {**record.card, "format": FORMAT, "version": self.version, "parts": parts}
        storage.write_text(self._path(folder, "run_card", self.version), json.dumps(card, indent=2))

    @contextmanager
    def model_folder(self, record: ArmRecord) -> Iterator[Path]:
        """A local folder with the `model.safetensors` and `config.json` of a saved record, within the context.

        Raises:
            DamagedArmError: one of them is missing or was changed.
        """
        folder = arm_folder(record.arm, record.seed or 0)
        with TemporaryDirectory() as copies:
            for part in ("model", "config"):
                copy = Path(copies, _FILES[part])
                self._check(folder, part, record.card["parts"][part], partial(shutil.copyfile, dst=copy))
            yield Path(copies)

    def check(self, record: ArmRecord) -> None:
        """Raise a DamagedArmError if a part of a saved record is missing or was changed."""
        folder = arm_folder(record.arm, record.seed or 0)
        for part, entry in record.card["parts"].items():
            self._check(folder, part, entry)

    def _read(self, folder: str, version: str) -> ArmRecord | None:
        """The record of a card; None if it is of an earlier format."""
        path = self._path(folder, "run_card", version)
        try:
            card = json.loads(storage.read_text(path))
            older = isinstance(card, dict) and card.get("format") != FORMAT
            (_Identity if older else _Card).model_validate(card)
        except ValueError as error:
            message = f"{path} is not the card of an arm ({_cause(error)}). Delete {path.parent} or train the arm again"
            raise DamagedArmError(message) from error
        if older:
            return None
        return ArmRecord(card, partial(self._open, folder, card))

    def _open(self, folder: str, card: Card, name: str) -> Any:
        parts = card["parts"]
        if name not in parts:
            return None
        value = self._check(folder, name, parts[name], _read_part)
        return SavedModel(value, self._open(folder, card, "config")) if name == "model" else value

    def _check(self, folder: str, part: str, entry: dict[str, str], read: Callable[[Path], Any] | None = None) -> Any:
        """Make sure that a part is what its card says; returns what `read` makes of it."""
        path = self._path(folder, part, entry["version"])
        next_step = f"Train the arm again, or delete {self.outputs}/{folder}"
        try:
            with storage.as_local(path) as local:
                if storage.sha256(local) != entry["sha256"]:
                    message = (
                        f"{path} was changed after it was written: its SHA-256 is not that of its card. {next_step}"
                    )
                    raise DamagedArmError(message)
                return read(local) if read else None
        except FileNotFoundError as error:
            raise DamagedArmError(f"{path} is missing, though the card of the arm names it. {next_step}") from error

    def _place(self, path: str) -> Place:
        return Place(path, self.options)

    def _path(self, folder: str, part: str, version: str) -> Place:
        root = self.models if part in ("model", "config") else self.outputs
        file = _FILES.get(part, f"{part}.parquet")
        # config.json lies beside the weights: who serves a model takes one folder
        return self._place(f"{root}/{folder}/{_FILES['model'] if part == 'config' else file}/{version}/{file}")

    # --- trainings

    def checkpoint(self, key: str) -> Place:
        """Where the checkpoint of a training lies."""
        return self._place(f"{self.trials}/{key}.safetensors")

    def training(self, key: str) -> Card | None:
        """Card of a complete training whose checkpoint is there; None if there is none, or none that can be read."""
        path = self._place(f"{self.trials}/{key}.json")
        if not (storage.exists(path) and storage.exists(self.checkpoint(key))):
            return None
        try:
            card: Card = json.loads(storage.read_text(path))
            _Training.model_validate(card)
            if card["training"] != key:
                raise ValueError(f"it is that of {card['training']}")
        except ValueError as error:
            logger.warning("%s is damaged (%s); the training is looked up in its checkpoint", path, _cause(error))
            return None
        return card

    def keep(self, key: str, card: Card) -> Card:
        """Write the card of a training whose checkpoint is complete, and return it."""
        storage.write_text(self._place(f"{self.trials}/{key}.json"), json.dumps(card, indent=2))
        return card


def _writers(name: str, value: Any) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """The files of a part, and what writes each; none for a part that is None."""
    if isinstance(value, pd.DataFrame):
        yield name, value.to_parquet
    elif name == "model" and value is not None:
        yield "model", partial(_write_weights, value)
        yield from _writers("config", value.config)
    elif value is not None:
        yield name, lambda path: path.write_text(json.dumps(value), encoding="utf-8")


def _write(path: Place, write: Callable[[Path], object]) -> str:
    """Write a file, and return the SHA-256 of what was written: it need not come back from a store to be hashed."""
    digest = ""

    def write_and_hash(local: Path) -> None:
        nonlocal digest
        write(local)
        digest = storage.sha256(local)

    storage.write_whole(path, write_and_hash)
    return digest


def _write_weights(model: SavedModel, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in model.weights.items()}, path)
    path.chmod(0o644)  # safetensors keeps it from other users, who may serve it


def _read_part(path: Path) -> Any:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    from safetensors.torch import load_file

    return load_file(path)


def _cause(error: ValueError) -> str:
    """What is wrong with the content of a card."""
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'its content'}: {problem['msg']}"
