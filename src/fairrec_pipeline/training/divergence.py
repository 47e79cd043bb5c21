"""Trainings whose numbers are not finite: where that happened, and what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.training.cuda_graphs import EpochOutcome

if TYPE_CHECKING:
    from fairrec_pipeline.arms.spec import ArmSpec

_NAMED_USERS = 5


class DivergenceError(FairrecError, RuntimeError):
    """A loss, a weight or a score is not finite."""


def check_epoch(outcome: EpochOutcome, first: int, spec: ArmSpec, users: np.ndarray) -> None:
    """Look at the losses and the weights of an epoch, whose `first` step counts from 0; users (n_users,) are ids.

    Raises:
        DivergenceError: one of them is not finite. It names the first such step, its users and what to change.
    """
    bad_losses, bad_weights = (~torch.isfinite(x) for x in (outcome.losses, outcome.weights))
    if not bool((bad_losses | bad_weights).any()):
        return
    step = int((bad_losses | bad_weights).any(1).nonzero()[0, 0])
    bad = bad_losses[step] if bool(bad_losses[step].any()) else bad_weights[step]
    named = users[outcome.users[step][bad].cpu().numpy()]
    where = (
        f"in epoch {first // spec.train.steps_per_epoch + 1}, step {first + step + 1}, for users "
        f"{named[:_NAMED_USERS].tolist()}{' ...' if len(named) > _NAMED_USERS else ''}"
    )
    if bool(bad_losses[step].any()):
        message = f"the loss is not finite {where}. {advice(spec)}"
    else:  # no learning rate can do that
        options = _numbers(spec)
        cause = f"Try values nearer to the defaults of {options}" if options else "The objective itself is at fault"
        message = f"the weights of {spec.objective.loss} are not finite {where}, whose losses are. {cause}"
    raise DivergenceError(message)


def advice(spec: ArmSpec) -> str:
    """What to change where a model is no longer finite."""
    changes = [f"a smaller train.learning_rate than {spec.train.learning_rate:g}"]
    if spec.train.precision != "fp32":
        changes.append("train.precision=fp32")
    if options := _numbers(spec):
        changes.append(f"values nearer to the defaults of {options}")
    return f"Try {' or '.join(changes)}"


def _numbers(spec: ArmSpec) -> str:
    """The options of the loss that are numbers, as a user writes them."""
    objective = spec.objective
    return ", ".join(
        f"{objective.loss}.{name}={value:g}"
        for name, value in vars(objective.options).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
