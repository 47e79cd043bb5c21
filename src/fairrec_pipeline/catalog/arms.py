"""Kedro datasets of an arm: its weights, and all arms of a dataset together."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.io import AbstractDataset, AbstractVersionedDataset, DatasetError, Version

from fairrec_pipeline.training.checkpoint import Snapshot

if TYPE_CHECKING:
    from fairrec_pipeline.comparison.comparison import TrainedArm


class ModelDataset(AbstractVersionedDataset[Snapshot, Snapshot]):
    """Weights as safetensors and, beside them, config.json: all that is needed to rebuild the model elsewhere.

    The weights are moved into place last, so that a version that can be found is complete.
    """

    def __init__(self, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None) -> None:
        self.metadata = metadata
        super().__init__(filepath=PurePosixPath(filepath), version=version)

    def save(self, data: Snapshot) -> None:
        from safetensors.torch import save_file

        path = Path(self._get_save_path())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name("config.json").write_text(json.dumps(data.description))
        partial = path.with_name(f"{path.name}.partial")
        save_file({name: tensor.contiguous() for name, tensor in data.tensors.items()}, partial)
        partial.replace(path)

    def load(self) -> Snapshot:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(self._get_load_path())
        try:
            return Snapshot(load_file(path), json.loads(path.with_name("config.json").read_text()))
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            message = f"{path} and its config.json are not a saved model ({error}); train the arm again"
            raise DatasetError(message) from error

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "version": self._version}


class TrainedArmsDataset(AbstractDataset[None, "list[TrainedArm]"]):
    """Every trained arm below a folder: the newest version of <arm>/seed-<n>/user_metrics.parquet with its run card.

    training_history.parquet, user_weights.parquet and tuning_runs.json of the same version come with it where they are.
    """

    def __init__(self, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path, self.metadata = path, metadata

    def load(self) -> list[TrainedArm]:
        newest: dict[Path, Path] = {}
        for file in sorted(Path(self._path).glob("*/seed-*/user_metrics.parquet/*/user_metrics.parquet")):
            newest[file.parents[2]] = file  # versions sort by time
        return [_trained_arm(folder, file) for folder, file in newest.items()]

    def save(self, data: None) -> None:
        message = "arms are saved one by one, by the train pipeline"
        raise DatasetError(message)

    def _exists(self) -> bool:
        return Path(self._path).exists()

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path}


def _trained_arm(folder: Path, file: Path) -> TrainedArm:
    from fairrec_pipeline.comparison.comparison import TrainedArm  # with scipy, for which no training has to wait

    version = file.parent.name
    try:
        card = json.loads((folder / "run_card.json" / version / "run_card.json").read_text())
        metrics = pd.read_parquet(file)
        history, weights = (
            pd.read_parquet(table) if (table := folder / name / version / name).exists() else None
            for name in ("training_history.parquet", "user_weights.parquet")
        )
        tuning = folder / "tuning_runs.json" / version / "tuning_runs.json"
        tuning_runs = json.loads(tuning.read_text()) if tuning.exists() else None
    except (OSError, ValueError) as error:
        message = f"{file} or what lies beside it cannot be read ({error}); train the arm again or delete {folder}"
        raise DatasetError(message) from error
    return TrainedArm(
        arm=card["arm"],
        loss=card["loss"],
        loss_groups=card["loss_groups"],
        seed=card["seed"],
        data_fingerprint=card["data_fingerprint"],
        card=card,
        user_metrics=metrics,
        history=history,
        user_weights=weights,
        tuning_runs=tuning_runs,
    )
