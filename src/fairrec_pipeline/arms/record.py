"""`ArmRecord`: what a trained arm leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from fairrec_pipeline.parameters.methods import VARIANT

T = TypeVar("T")

Card = dict[str, Any]
"""JSON-able description of a training: its parameters, data, device, times and validation NDCG@20."""

DIVERGED = "diverged"
"""Key of a card that says why its training has no result."""

FOREIGN = "foreign"
"""The loss of an arm that is a file of another system's recommendations."""


class SavedModel(NamedTuple):
    """Weights by name (tensors on the CPU), and all else that is needed to rebuild the model (JSON-able)."""

    weights: Mapping[str, Any]
    config: Mapping[str, Any]


class _Entry(cached_property[T]):
    """A value of the card of a record."""

    def __init__(self) -> None:
        super().__init__(lambda record: record.card.get(self.attrname))


class _Part(cached_property[T]):
    """A part of a record, opened when it is first asked for."""

    def __init__(self) -> None:
        super().__init__(lambda record: record.open_part(self.attrname))


@dataclass(frozen=True)
class ArmRecord:
    """What an arm leaves behind for one seed; an untrained arm has the same shape, without a seed.

    Attributes:
        card: arm, loss, loss_groups, seed, dataset, data_fingerprint, groups_fingerprint, parameters (by block),
            device, started, finished (ISO times), seconds, epochs, best_epoch, validation_ndcg_at_20, command,
            commit, ...
        open_part: opens a part by its name (see `PARTS`); None if the arm has no such part.
    """

    card: Card
    open_part: Callable[[str], Any]

    @classmethod
    def of(cls, card: Card, **parts: Any) -> ArmRecord:
        """A record whose parts are in memory."""
        return cls(card, parts.get)

    arm = _Entry[str]()
    loss = _Entry[str]()
    loss_groups = _Entry[str | None]()
    seed = _Entry[int | None]()
    """Of the training; None for an untrained arm."""
    backbone = _Entry[str | None]()
    """Variants of the backbone that its name ends in; None if there are none."""

    def without_backbone(self) -> ArmRecord:
        """The same record under the name that it has among arms of its own backbone."""
        others = [part for part in self.arm.split(VARIANT) if part not in (self.backbone or "").split(VARIANT)]
        return ArmRecord({**self.card, "arm": VARIANT.join(others)}, self.open_part)

    @property
    def label(self) -> str:
        return self.arm if self.seed is None else f"{self.arm} (seed {self.seed})"

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the training with dots in their names, without the seed."""
        return {name: value for name, value in flat(self.card.get("parameters", {})).items() if name != "seed"}

    model = _Part[SavedModel | None]()
    """Weights of the epoch with the best validation NDCG@20; None for an untrained arm."""
    training_history = _Part[pd.DataFrame | None]()
    """One row per epoch: epoch, loss, validation_ndcg_at_20, seconds and what the method reports of itself."""
    user_weights = _Part[pd.DataFrame | None]()
    """Whom the arm trained on: user_id, window (0 to 9, a tenth of the budget each), drawn (how often), weight (mean; 1
    as in erm)."""
    user_metrics = _Part[pd.DataFrame]()
    """One row per test user (see `metrics.ranking.user_metrics`); no record is without."""
    validation_user_metrics = _Part[pd.DataFrame | None]()
    """The same of every validation user, ranked with the weights that are kept; None for an untrained arm."""
    group_metrics = _Part[pd.DataFrame | None]()
    """Mean of every metric over every group (see `metrics.by_group.group_metrics`)."""
    item_metrics = _Part[pd.DataFrame | None]()
    """What the arm's lists do to the items (see `metrics.item_side.item_metrics`)."""
    tuning_runs = _Part[list[dict[str, Any]] | None]()
    """Every point of the grid that the arm was chosen from: point, options, seed, card, history and test_ndcg_at_20
    ({overall, <split>/<group>, ...}); None where it was not tuned."""


PARTS = tuple(name for name, value in vars(ArmRecord).items() if isinstance(value, _Part))
"""What a record may hold beside its card."""


def flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in parameters.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return leaves
