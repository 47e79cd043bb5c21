"""Whom a method trained on: how often each user was drawn, and with which weight, in windows of a training."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import Tensor

WINDOWS = 10
"""Into so many windows of epochs the weights of the users are summed up."""


def by_user(windows: Tensor) -> pd.DataFrame:
    """(2, WINDOWS, n_users) sums as the rows of `training.fit.Fitted.user_weights`."""
    drawn, weight = windows.cpu().numpy()
    at = window, user = drawn.nonzero()
    counts = drawn[at]
    return pd.DataFrame(
        {"window": window, "user": user, "drawn": counts.astype(np.int64), "weight": weight[at] / counts}
    )
