"""Everything a report is made from, as tidy tables."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Evidence:
    """The tables of one comparison; each may be without rows but for the first.

    Attributes:
        comparison: from `comparison.compare_arms`.
        trainings: from `trainings.trainings`.
        curves: from `trainings.training_curves`.
        shares: from `trained_on.weight_shares`.
        rules: from `trained_on.found_users`.
    """

    comparison: pd.DataFrame
    trainings: pd.DataFrame
    curves: pd.DataFrame
    shares: pd.DataFrame
    rules: pd.DataFrame
