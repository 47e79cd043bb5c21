"""Batches, the one training loop, and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairrec_pipeline.training.fit import Fitted


def trainer_of(loss: str) -> Callable[..., Fitted]:
    """What trains a method: `training.fit.fit`, or another function with the same arguments.

    Args:
        loss: a name of `parameters.methods.METHODS`.
    """
    from fairrec_pipeline.parameters.methods import METHODS  # needs pydantic, which a training does not

    trainer: Callable[..., Fitted] = resolve_name(f"fairrec_pipeline.{METHODS[loss].trainer}")
    return trainer
