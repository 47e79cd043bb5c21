"""The folder of a trained arm, `model.safetensors` and `config.json`: read and checked without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, StrictBool, ValidationError, field_validator, model_validator

from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.parameters.blocks import Count, Model
from fairrec_pipeline.serving.requests import first_error

FORMAT = 2
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_TRAIN_AGAIN = "train the arm again: kedro run --pipeline=train"


class ModelFolderError(FairrecError):
    """A folder that cannot be served; the message names the file and the next step."""


class Backbone(Model):
    """Arguments of `SASRec`."""

    n_items: Count


class Config(BaseModel):
    """What `config.json` says of a model; keys that are not known here are ignored.

    Attributes:
        format: version of this file.
        architecture: of the model.
        arm, seed, dataset, data_fingerprint: the training; None where the file does not say.
        filter_seen: whether items of the history are left out, unless a request says otherwise.
        backbone: arguments of the architecture.
        catalogue: (n_items,) item id of every code, all integers or all text.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    format: int
    architecture: str
    arm: str | None = None
    seed: int | None = None
    dataset: str | None = None
    data_fingerprint: str | None = None
    filter_seen: StrictBool
    backbone: Backbone
    catalogue: list[int] | list[str]

    @field_validator("catalogue", mode="before")
    @classmethod
    def _one_type(cls, value: Any) -> Any:
        types = {type(item) for item in value} if isinstance(value, list) else set()
        if types not in ({int}, {str}):
            raise ValueError("should be a list of integers or of texts, with at least one")
        return value

    @model_validator(mode="after")
    def _one_item_a_code(self) -> Config:
        distinct = len(set(self.catalogue))
        if not distinct == len(self.catalogue) == self.backbone.n_items:
            raise ValueError(
                f"the catalogue has {len(self.catalogue)} items, {distinct} of them distinct, "
                f"and backbone.n_items is {self.backbone.n_items}"
            )
        return self

    @property
    def item_type(self) -> type[int] | type[str]:
        return type(self.catalogue[0])

    @property
    def label(self) -> str:
        """For people: arm, seed and dataset."""
        return f"{self.arm or 'an unnamed arm'} (seed {self.seed}) on {self.dataset or 'an unnamed dataset'}"

    def summary(self) -> dict[str, Any]:
        """All but the catalogue, of which the size and the type of the ids are left."""
        items = {"n_items": len(self.catalogue), "item_type": self.item_type.__name__}
        return self.model_dump(exclude={"catalogue"}) | items


class ModelFolder(NamedTuple):
    """A folder whose configuration is valid.

    Attributes:
        path: the folder.
        config: its configuration.
    """

    path: Path
    config: Config

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS


def open_folder(path: str | Path) -> ModelFolder:
    """Check that a folder holds a model of this format, whole; the weights themselves are not loaded.

    Args:
        path: a local folder.

    Raises:
        ModelFolderError: a file is missing, damaged, older or newer, or the two do not belong together.
    """
    folder = Path(path)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            message = f"{folder / name}: there is no such file; --model is a folder with {CONFIG} and {WEIGHTS}"
            raise ModelFolderError(message)
    config = _config(folder / CONFIG)
    stored = _shapes(folder / WEIGHTS)
    table = stored.get("item_embedding.weight")
    expected = (config.backbone.n_items + 1, config.backbone.dim)
    if table != expected:
        found = "no such tensor" if table is None else f"{table}"
        raise ModelFolderError(
            f"{folder / WEIGHTS}: item_embedding.weight should be {expected} by {CONFIG}, got {found}; "
            f"the two files are of different trainings, {_TRAIN_AGAIN}"
        )
    return ModelFolder(folder, config)


def _config(path: Path) -> Config:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path}: cannot be read as JSON ({error}); {_TRAIN_AGAIN}") from error
    if not isinstance(content, Mapping):
        raise ModelFolderError(f"{path}: should be a JSON object, got {type(content).__name__}; {_TRAIN_AGAIN}")
    version, architecture = content.get("format"), content.get("architecture")
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        step = "update this project" if newer else f"an older version wrote it: {_TRAIN_AGAIN}"
        message = f"{path}: format should be {FORMAT}, got {'none' if version is None else repr(version)}; {step}"
        raise ModelFolderError(message)
    if architecture != "SASRec":
        message = (
            f"{path}: architecture should be SASRec, got {architecture!r}; serve it with the project that wrote it"
        )
        raise ModelFolderError(message)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ModelFolderError(f"{path}: {first_error(error)}; {_TRAIN_AGAIN}") from error


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, from the header of the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{path}: is damaged or not readable ({error}); {_TRAIN_AGAIN}") from error
