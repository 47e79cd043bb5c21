"""The learning rate of every step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairrec_pipeline.parameters.blocks import Train


def learning_rate_at(train: Train, step: int) -> float:
    """Rises linearly over `warm_up_steps`; then constant, or falling to 0 over the budget along a half cosine.

    Steps count from 0.
    """
    risen = min(1.0, (step + 1) / max(1, train.warm_up_steps))
    if train.schedule == "constant":
        return train.learning_rate * risen
    left = train.epochs * train.steps_per_epoch - train.warm_up_steps
    share = max(0, step - train.warm_up_steps) / max(1, left)
    return train.learning_rate * risen * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
