"""`ArmSpec`: what is trained, in the very blocks of parameters that the user wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field

from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.interactions.prepared import PreparedData
from fairrec_pipeline.parameters.blocks import Block, Model, Seed, Train
from fairrec_pipeline.parameters.methods import VARIANT, Objective, arm_name


class ArmSpec(Block):
    """One training: an objective, a backbone, a budget and a seed.

    Attributes:
        point: the values of a grid that it stands for, by option: those of the loss, `model.<name>`, `train.<name>`.
            Empty if the arm is not tuned.
        variants: that its name ends in.
        backbone: those of them that change `model` or `train`, joined by @; None if none does. Arms of different
            backbones never stand in one table.
    """

    objective: Objective
    model: Model
    train: Train
    filter_seen: bool = Field(description="as in the evaluation: validation chooses the best epoch")
    seed: Seed = Field(description="of initialisation, order of users and dropout")
    device: Literal["auto", "cpu", "cuda"]
    point: dict[str, Any] = Field(default={})
    variants: tuple[str, ...] = ()
    backbone: str | None = None

    @property
    def name(self) -> str:
        """Name of the arm, such as `cvar`, `gdro-pop33` or `erm@separate`."""
        return VARIANT.join([arm_name(self.objective.loss, self.objective.groups), *self.variants])

    @property
    def label(self) -> str:
        """Name, seed and point, for people."""
        point = f" {point_name(self.point)}" if self.point else ""
        return f"{self.name} seed {self.seed}{point}"

    def with_seed(self, seed: int) -> Self:
        """The same with another seed, no longer a point of a search."""
        return self.model_copy(update={"seed": seed, "point": {}})

    def with_train(self, **changes: Any) -> Self:
        """The same with other values in its `train` block."""
        return self.model_copy(update={"train": self.train.model_copy(update=changes)})

    def parameters(self, data: PreparedData) -> dict[str, Any]:
        """Every parameter that decides the result, by block, as JSON values.

        The number of workers is none: as that of the threads, it changes the order of sums.
        """
        return {
            "dataset": data.dataset,
            "loss": self.objective.loss,
            "loss_groups": self.objective.groups,
            "seed": self.seed,
            self.objective.loss: self.objective.options.model_dump(mode="json"),
            "model": self.model.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json", exclude={"checkpoint_seconds", "workers"}),
            "evaluate": {"filter_seen": self.filter_seen},
            "split": dict(data.split),
        }

    def identity(self, data: PreparedData, environment: Mapping[str, str]) -> dict[str, Any]:
        """Everything that decides the result, as JSON values.

        Args:
            environment: fingerprint of the code, version of torch, kind of device.
        """
        return {
            "parameters": self.parameters(data),
            "data": data.fingerprint,
            "groups": data.groups_fingerprint(self.objective.groups),
            **environment,
        }

    def key(self, data: PreparedData, environment: Mapping[str, str]) -> str:
        """`<loss>-seed-<n>-<hash>`: the same if and only if the result is the same; fit for the name of a file."""
        digest = hashlib.sha256(json.dumps(self.identity(data, environment), sort_keys=True).encode()).hexdigest()
        return f"{self.objective.loss}-seed-{self.seed}-{digest[:16]}"


class Plan(Block):
    """What a run trains.

    Attributes:
        name: for people.
        specs: with the first of the seeds. Several of one name are the points of that arm's grid: the best on
            validation becomes the arm, and is trained with the other seeds.
        seeds: the first one tunes.
        problems: why it cannot be run. A run is refused for the problems of its own plan alone: the grids of an
            experiment that is not asked for need not fit the other parameters.
    """

    name: str
    specs: tuple[ArmSpec, ...] = ()
    seeds: tuple[Seed, ...] = ()
    problems: tuple[str, ...] = ()

    def require_runnable(self) -> None:
        """Raise one FairrecError that names all problems, if there are any."""
        if self.problems:
            listed = "\n".join(f"  - {problem}" for problem in self.problems)
            message = f"what {self.name} trains cannot be run:\n{listed}\nNames and values: conf/base/parameters*.yml"
            raise FairrecError(message)

    @property
    def arms(self) -> dict[str, list[ArmSpec]]:
        """The points of every arm by its name, in the order of the plan; one point if it is not tuned."""
        found: dict[str, list[ArmSpec]] = {}
        for spec in self.specs:
            found.setdefault(spec.name, []).append(spec)
        return found


def point_name(point: Mapping[str, Any]) -> str:
    """`alpha=0.3`, several joined by `-`; `only` for a point without values."""
    return "-".join(f"{option}={value}" for option, value in point.items()) or "only"
