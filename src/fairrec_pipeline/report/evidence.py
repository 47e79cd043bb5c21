"""Everything a report is made from, as tidy tables."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pandas as pd

from fairrec_pipeline.metrics.by_group import GROUP, N_USERS, SPLIT

MOST_GROUPS = 12
"""Groups of one split that a report shows; the nine intersections of pop33 and seq33 are fewer."""


@dataclass(frozen=True)
class Evidence:
    """The tables of one comparison; each may be without rows but for the first.

    Attributes:
        comparison: from `comparison.compare_arms`.
        trainings: from `trainings.trainings`.
        curves: from `trainings.training_curves`.
        shares: from `user_weights.weight_shares`.
        rules: from `user_weights.weight_rules`.
        slices: from `bad_slices.bad_slices`.
        audit: from `audit.audit`.
    """

    comparison: pd.DataFrame
    trainings: pd.DataFrame
    curves: pd.DataFrame
    shares: pd.DataFrame
    rules: pd.DataFrame
    slices: pd.DataFrame = field(default_factory=pd.DataFrame)
    audit: pd.DataFrame = field(default_factory=pd.DataFrame)

    def shortened(self) -> Evidence:
        """The same with no more than `MOST_GROUPS` groups a split, the largest ones; the split's name then says so."""
        return replace(self, comparison=_largest_groups(self.comparison), shares=_largest_groups(self.shares))


def _largest_groups(table: pd.DataFrame) -> pd.DataFrame:
    groups = table.drop_duplicates([SPLIT, GROUP])[[SPLIT, GROUP, N_USERS]]
    numbers = groups[SPLIT].value_counts()
    long = numbers[numbers > MOST_GROUPS]
    if long.empty:
        return table
    largest = groups.sort_values(N_USERS, ascending=False, kind="stable").groupby(SPLIT).head(MOST_GROUPS)
    kept = pd.MultiIndex.from_frame(table[[SPLIT, GROUP]]).isin(pd.MultiIndex.from_frame(largest[[SPLIT, GROUP]]))
    names = {split: f"{split} ({MOST_GROUPS} largest of {number} groups)" for split, number in long.items()}
    shown = table[kept]
    return shown.assign(**{SPLIT: shown[SPLIT].replace(names)})
