"""Everything a report is made from, and what its sentences, tables and figures ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from fairrec_pipeline.arms.record import FOREIGN
from fairrec_pipeline.comparison.trainings import UNTRAINED
from fairrec_pipeline.metrics.by_group import (
    GROUP,
    HEADLINE_METRIC,
    METRIC,
    N_USERS,
    OVERALL,
    SPLIT,
    VALUE,
    Extremes,
    extremes,
    group_means,
)

MOST_GROUPS = 12
"""Groups of one split that a report shows; the nine intersections of pop33 and seq33 are fewer."""
TRAINED = "trained"


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
        significance: level of every test; the column `significant` is at that of the comparison.
    """

    comparison: pd.DataFrame
    trainings: pd.DataFrame = field(default_factory=pd.DataFrame)
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    shares: pd.DataFrame = field(default_factory=pd.DataFrame)
    rules: pd.DataFrame = field(default_factory=pd.DataFrame)
    slices: pd.DataFrame = field(default_factory=pd.DataFrame)
    audit: pd.DataFrame = field(default_factory=pd.DataFrame)
    significance: float = 0.05

    def shortened(self) -> Evidence:
        """The same with no more than `MOST_GROUPS` groups a split, the largest ones; the split's name then says so."""
        return replace(self, comparison=_largest_groups(self.comparison), shares=_largest_groups(self.shares))

    @cached_property
    def origins(self) -> dict[str, str]:
        """By arm, in the order of the comparison: `trained` here, `untrained`, or `foreign` (of another system)."""
        arms = self.comparison.drop_duplicates("arm")
        origins = np.select([arms["n_seeds"] > 0, arms["loss"] == FOREIGN], [TRAINED, FOREIGN], UNTRAINED)
        return dict(zip(arms["arm"].tolist(), origins.tolist(), strict=True))

    def cells(self, *splits: str, metric: str = HEADLINE_METRIC) -> pd.DataFrame:
        """One metric in some splits; rows are named by their arms, whose `origin` is a column."""
        rows = self.comparison[(self.comparison[METRIC] == metric) & self.comparison[SPLIT].isin(splits)]
        return rows.assign(origin=rows["arm"].map(self.origins)).set_index(rows["arm"].to_numpy())

    @cached_property
    def overall(self) -> pd.DataFrame:
        """NDCG@20 over all users by arm, the highest first."""
        return self.cells(OVERALL).sort_values(VALUE, ascending=False, kind="stable")

    @property
    def trained(self) -> pd.DataFrame:
        """Rows of `overall` of the arms that were trained here."""
        return self.overall[self.overall["origin"] == TRAINED]

    @property
    def untrained(self) -> pd.DataFrame:
        """Rows of `overall` of the untrained arms."""
        return self.overall[self.overall["origin"] == UNTRAINED]

    @property
    def foreign(self) -> pd.DataFrame:
        """Rows of `overall` of the arms of other systems."""
        return self.overall[self.overall["origin"] == FOREIGN]

    @cached_property
    def extremes(self) -> dict[str, Extremes]:
        """By arm, the worst group and the gaps of NDCG@20; empty without the balanced splits."""
        by_arm = {arm: extremes(group_means(rows)) for arm, rows in grouped(self.comparison, "arm")}
        return {arm: of_arm for arm, of_arm in by_arm.items() if of_arm is not None}


def records(rows: pd.DataFrame) -> Sequence[Any]:
    """Rows as named tuples; their fields are what the columns hold, which no type checker can know."""
    return list(rows.itertuples(index=False))


def grouped(rows: pd.DataFrame, *names: str) -> list[tuple[Any, pd.DataFrame]]:
    """The values of some columns (a tuple, if several), each with the rows that have them, in the order of the rows."""
    return list(rows.groupby(list(names) if len(names) > 1 else names[0], sort=False))


def _largest_groups(table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        return table
    groups = table.drop_duplicates([SPLIT, GROUP])[[SPLIT, GROUP, N_USERS]]
    largest = groups.sort_values(N_USERS, ascending=False, kind="stable").groupby(SPLIT).head(MOST_GROUPS)
    numbers = groups[SPLIT].value_counts()
    names = {split: f"{split} ({MOST_GROUPS} largest of {n} groups)" for split, n in numbers.items() if n > MOST_GROUPS}
    shown = table.merge(largest[[SPLIT, GROUP]])
    return shown.assign(**{SPLIT: shown[SPLIT].replace(names)})
