"""Kedro datasets of arms: the store of a dataset, and one part of one arm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError, Version

from fairrec_pipeline import storage
from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.arms.store import ArmStore, DamagedArmError
from fairrec_pipeline.parameters.methods import CHAMPION, training_command
from fairrec_pipeline.storage import Place

if TYPE_CHECKING:
    from fairrec_pipeline.serving.recommender import Recommender


class _OfStore(AbstractDataset[Any, Any]):
    """A dataset that lies in the store of all arms of a dataset.

    Args:
        models, outputs, trials: {path: ...} of the folders (see `ArmStore`); local, or any that fsspec knows.
        version: of the session.
        credentials: options of their file system.
    """

    def __init__(
        self,
        models: dict[str, str],
        outputs: dict[str, str],
        trials: dict[str, str],
        version: Version | None = None,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        folders = (models["path"], outputs["path"], trials["path"])
        self._store = ArmStore(*folders, version.save if version else None, credentials or {})
        self._version, self.metadata = version.load if version else None, metadata


class ArmStoreDataset(_OfStore):
    """Loads the store; saves a record into it."""

    def load(self) -> ArmStore:
        return self._store

    def save(self, data: ArmRecord) -> None:
        self._store.save(data)

    def _exists(self) -> bool:
        # whether an arm has to be trained is for `experiments.run` to say, which looks at its parameters and data
        return False

    def _describe(self) -> dict[str, Any]:
        return {"models": self._store.models, "outputs": self._store.outputs, "version": self._store.version}


class ArmPart(_OfStore):
    """One part of the newest record of an arm and seed, or of the version that `--load-versions` names.

    Args:
        arm, seed: of the record.
        part: a name of `arms.record.PARTS`, or `run_card`.
        store: see `_OfStore`.
    """

    def __init__(self, *, arm: str, seed: int, part: str, **store: Any) -> None:
        super().__init__(**store)
        self._arm, self._seed, self._part = arm, seed, part

    def load(self) -> Any:
        try:
            record = self._record()
            if record is not None:
                return self._open(record)
        except DamagedArmError as error:
            raise DatasetError(str(error)) from error
        version = f" in version {self._version}" if self._version else ""
        raise DatasetError(
            f"{self._arm} with seed {self._seed} is not trained{version} ({self._store.outputs}). Train it first, with "
            f"the other parameters of this run: {training_command(self._arm, self._seed)}"
        )

    def save(self, data: None) -> None:
        raise DatasetError(f"{self._part} is saved with its arm, through the catalog entry trained_arms")

    def _open(self, record: ArmRecord) -> Any:
        return record.card if self._part == "run_card" else record.open_part(self._part)

    def _record(self) -> ArmRecord | None:
        return self._store.find(self._arm, self._seed, self._version)

    def _exists(self) -> bool:
        return self._record() is not None

    def _describe(self) -> dict[str, Any]:
        return {"arm": self._arm, "seed": self._seed, "part": self._part, "outputs": self._store.outputs}


class ArmRecommender(ArmPart):
    """The `Recommender` of an arm and seed.

    Args:
        champion: {path: ...} of champion.json, which says what the arm `champion` is.
        more: see `ArmPart`.
    """

    def __init__(self, champion: dict[str, str], **more: Any) -> None:
        super().__init__(**more)
        self._champion = Place(champion["path"], self._store.options)

    def load(self) -> Recommender:
        if self._arm == CHAMPION:
            self._arm, self._seed, self._version = self._promoted()
        recommender: Recommender = super().load()
        return recommender

    def _open(self, record: ArmRecord) -> Recommender:
        from fairrec_pipeline.serving.recommender import Recommender

        with self._store.model_folder(record) as folder:
            return Recommender.load(folder)

    def _promoted(self) -> tuple[str, int, str]:
        """Arm, seed and version of the champion."""
        if not storage.exists(self._champion):
            raise DatasetError(
                f"no arm is the champion yet ({self._champion}). Promote one first, with the other parameters of this "
                "run: kedro run --pipeline=promote"
            )
        try:
            champion = json.loads(storage.read_text(self._champion))
            return champion["arm"], champion["seed"], champion["version"]
        except (ValueError, LookupError, TypeError) as error:
            message = f"{self._champion} is damaged ({error}). Promote again: kedro run --pipeline=promote"
            raise DatasetError(message) from error
