"""Kedro datasets of an experiment: all trainings of a dataset, and the results of arms, one arm and seed at a time."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError, Version

from fairrec_pipeline.catalog.arms import ModelDataset
from fairrec_pipeline.catalog.files import Json, Parquet
from fairrec_pipeline.experiments.train_arm import Trials
from fairrec_pipeline.experiments.run import ArmResult, SavedArm

LAST = "user_metrics"
"""An arm is found by its user metrics, so they are saved when all else is there."""


class TrialsDataset(AbstractDataset[None, Trials]):
    """Hands out the folder where trainings keep their checkpoints and cards."""

    def __init__(self, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path, self.metadata = path, metadata

    def load(self) -> Trials:
        return Trials(Path(self._path))

    def save(self, data: None) -> None:
        message = "a training writes its checkpoint itself"
        raise DatasetError(message)

    def _exists(self) -> bool:
        return True  # a training without a checkpoint starts afresh

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path}


class ArmResultsDataset(AbstractDataset[ArmResult, dict[tuple[str, int], SavedArm]]):
    """Saves what an arm and seed leave behind, in the files of the train pipeline; loads what is there of all of them.

    Args:
        models: {path: folder of the weights of a dataset}.
        outputs: {path: folder of everything else}.
        version: of the session, for every file.
    """

    def __init__(
        self,
        models: dict[str, str],
        outputs: dict[str, str],
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._models, self._outputs = Path(models["path"]), Path(outputs["path"])
        self._version, self.metadata = version, metadata

    def save(self, data: ArmResult) -> None:
        folder = Path(data.run_card["arm"], f"seed-{data.run_card['seed']}")
        ModelDataset(filepath=str(self._models / folder / "model.safetensors"), version=self._version).save(data.model)
        names = [field.name for field in fields(data) if field.name not in ("model", LAST)]
        for name in (*names, LAST):
            value = getattr(data, name)
            if value is None:
                continue
            dataset, suffix = (Json, "json") if isinstance(value, dict | list) else (Parquet, "parquet")
            path = self._outputs / folder / f"{name}.{suffix}"
            dataset(filepath=str(path), version=self._version).save(value)

    def load(self) -> dict[tuple[str, int], SavedArm]:
        newest: dict[Path, Path] = {}
        for file in sorted(self._outputs.glob(f"*/seed-*/{LAST}.parquet/*/{LAST}.parquet")):
            newest[file.parents[2]] = file.parent
        saved = {}
        for folder, version in newest.items():
            card = _json(folder / "run_card.json" / version.name / "run_card.json")
            runs = _json(folder / "tuning_runs.json" / version.name / "tuning_runs.json")
            if card is not None:
                tried = None if runs is None else [run["card"].get("training") for run in runs]
                saved[card["arm"], card["seed"]] = SavedArm(card, tried)
        return saved

    def _exists(self) -> bool:
        return self._outputs.exists()

    def _describe(self) -> dict[str, Any]:
        return {"models": str(self._models), "outputs": str(self._outputs), "version": self._version}


def _json(path: Path) -> Any:
    """Content of a file; None if there is none that can be read, since it can be made again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
