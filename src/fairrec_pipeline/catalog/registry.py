"""Kedro dataset of a model that is registered in MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kedro.io import AbstractDataset

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.errors import FairrecError

_WEIGHTS = "weights_sha256"


class RegistryError(FairrecError):
    """MLflow did not register or find a model; the message says why and what to do."""


@dataclass(frozen=True)
class Promotion:
    """An arm that is to be registered, and what goes with it.

    Attributes:
        arms: the store that holds its weights.
        record: of the arm.
        champion: what champion.json says of it.
        model_card: Markdown.
    """

    arms: ArmStore
    record: ArmRecord
    champion: dict[str, Any]
    model_card: str


class RegisteredModel(AbstractDataset[Promotion, dict[str, Any]]):
    """The version of a registered model that an alias names.

    Saving gives the alias to the version with these weights, which is made if there is none. Loading returns name,
    alias, version and uri.

    Args:
        name: of the registered model.
        alias: of the version.
    """

    def __init__(self, name: str, alias: str, metadata: dict[str, Any] | None = None) -> None:
        self._name, self._alias, self.metadata = name, alias, metadata

    def save(self, data: Promotion) -> None:
        with self._reachable("be written to"):
            from mlflow import MlflowClient

            client = MlflowClient()
            same = client.search_model_versions(
                f"name = '{self._name}' AND tags.{_WEIGHTS} = '{data.champion[_WEIGHTS]}'"
            )
            newest = max((int(each.version) for each in same), default=None)
            version = self._register(data) if newest is None else str(newest)
            for key, value in _tags(data.champion).items():
                client.set_model_version_tag(self._name, version, key, value)
            client.update_model_version(self._name, version, description=data.model_card)
            client.set_registered_model_alias(self._name, self._alias, version)

    def load(self) -> dict[str, Any]:
        with self._reachable("be read from"):
            from mlflow import MlflowClient

            version = MlflowClient().get_model_version_by_alias(self._name, self._alias).version
        uri = f"models:/{self._name}@{self._alias}"
        return {"name": self._name, "alias": self._alias, "version": str(version), "uri": uri}

    def _register(self, data: Promotion) -> str:
        import mlflow

        from fairrec_pipeline.serving.mlflow_model import log_model

        champion = data.champion
        tags = {key: str(champion[key]) for key in ("dataset", "arm", "seed", "data_fingerprint")}
        nested = mlflow.active_run() is not None
        with (
            data.arms.model_folder(data.record) as folder,
            mlflow.start_run(run_name=f"champion {champion['dataset']}", nested=nested, tags=tags),
        ):
            (folder / "champion.json").write_text(json.dumps(champion, indent=2), encoding="utf-8")
            (folder / "model_card.md").write_text(data.model_card, encoding="utf-8")
            mlflow.set_tag("mlflow.note.content", data.model_card)
            mlflow.log_text(data.model_card, "model_card.md")
            info = log_model(folder, champion["arm"], registered_model_name=self._name)
        return str(info.registered_model_version)

    @contextmanager
    def _reachable(self, what: str) -> Iterator[None]:
        """One sentence where MLflow cannot be reached or refuses."""
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            reason = str(error).strip().partition("\n")[0][:160]
            raise RegistryError(
                f"{self._name} cannot {what} MLflow's registry at {mlflow.get_registry_uri()} ({reason}), so "
                "champion.json is as it was: start the server or set MLFLOW_TRACKING_URI to another, and run the same "
                "command again"
            ) from error

    def _exists(self) -> bool:
        return False  # whether the champion is still the best is for the pipeline to say

    def _describe(self) -> dict[str, Any]:
        return {"name": self._name, "alias": self._alias}


def _tags(champion: dict[str, Any]) -> dict[str, str]:
    """What the table of versions in MLflow shows."""
    (judged,) = (each for each in champion["validation"] if each["arm"] == champion["arm"])
    return {
        **{key: str(champion[key]) for key in ("arm", "seed", "data_fingerprint", _WEIGHTS)},
        "rule": " ".join(f"{name}={value}" for name, value in champion["rule"].items()),
        "validation_ndcg_at_20": f"{judged['overall']:.6f}",
        "validation_worst_group": "-" if judged["worst"] is None else f"{judged['worst']:.6f} {judged['worst_group']}",
    }
