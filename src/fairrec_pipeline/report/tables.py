"""Tables of a comparison for readers: arms down, groups across, marked as in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from fairrec_pipeline.arms.record import FOREIGN
from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import (
    GROUP,
    HEADLINE_METRIC,
    METRIC,
    METRICS,
    OVERALL,
    SPLIT,
    TARGET,
    VALUE,
    Extremes,
    extremes,
    group_means,
)

EVERY_ARM_SPLITS = (OVERALL, *STANDARD_SPLITS, TARGET)
"""What the first table of a report shows; each other split has a table for itself."""


@dataclass(frozen=True)
class Cell:
    """One value, as text and with its marks.

    Attributes:
        text: the number, or what stands for a missing one.
        starred: differs from erm, uncorrected (the paper's star).
        corrected: still differs after the correction.
        over_seeds: differs for other users and another training, after the correction.
        best: highest among the trained arms.
        second: second highest among the trained arms.
        below_untrained: a trained arm's value below that of the best untrained arm.
    """

    text: str
    starred: bool = False
    corrected: bool = False
    over_seeds: bool = False
    best: bool = False
    second: bool = False
    below_untrained: bool = False

    @property
    def marks(self) -> str:
        return "*" * self.starred + "†" * self.corrected + "‡" * self.over_seeds + "↓" * self.below_untrained


@dataclass(frozen=True)
class Row:
    """One arm, with its value in every column; `origin` says what an arm is that was not trained here."""

    arm: str
    trained: bool
    cells: tuple[Cell, ...]
    origin: str = "untrained"

    @classmethod
    def of(cls, arm: str, *cells: Cell | str, trained: bool = True, origin: str = "untrained") -> Row:
        """A row of cells or their texts."""
        return cls(arm, trained, tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells), origin)


@dataclass(frozen=True)
class Table:
    """Arms down, groups across.

    Attributes:
        header: name of each column.
        rows: arms in the order of the comparison.
        splits: (name, number of columns) of each split, for a header above the header.
        corner: name of the first column.
    """

    header: Sequence[str]
    rows: Sequence[Row]
    splits: Sequence[tuple[str, int]] = ()
    corner: str = "arm"


def group_table(
    comparison: pd.DataFrame, splits: Sequence[str], *, significance: float, metric: str = HEADLINE_METRIC
) -> Table:
    """Values of one metric in every group of some splits.

    Args:
        comparison: from `comparison.compare_arms`.
        splits: in the order of the columns; those that the comparison does not have are left out.
        significance: level of the star.
        metric: name of the metric.
    """
    rows, origins = comparison[comparison[METRIC] == metric], origins_of(comparison)
    by_split = {split: rows[rows[SPLIT] == split] for split in splits}
    columns = {
        (split, str(group)): cells_of_arms(cells, significance)
        for split, of_split in by_split.items()
        for group, cells in of_split.groupby(GROUP, sort=False)
    }
    return Table(
        header=["" if split == OVERALL else group for split, group in columns],
        rows=[
            Row(arm, trained, tuple(column[arm] for column in columns.values()), origins[arm])
            for arm, trained in arms(comparison)
        ],
        splits=[(split, cells[GROUP].nunique()) for split, cells in by_split.items() if not cells.empty],
    )


def headline_table(comparison: pd.DataFrame, *, significance: float) -> Table:
    """NDCG@20 overall, in the balanced splits and by kind of target; then the worst group and the gaps.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: level of the star.
    """
    table = group_table(comparison, EVERY_ARM_SPLITS, significance=significance)
    of_arms = extremes_of_arms(comparison)
    if not of_arms:
        return table
    splits = list(next(iter(of_arms.values())).gaps)

    def more(arm: str) -> list[Cell]:
        worst, group, gaps = of_arms[arm]
        return [Cell(f"{number(worst)} {group}"), *(Cell(number(gaps[split])) for split in splits)]

    return Table(
        header=[*table.header, "", *splits],
        rows=[replace(row, cells=(*row.cells, *more(row.arm))) for row in table.rows],
        splits=[*table.splits, ("worst group", 1), ("gap", len(splits))],
    )


def extremes_of_arms(comparison: pd.DataFrame) -> dict[str, Extremes]:
    """By arm, the worst group and the gaps of NDCG@20; empty without the balanced splits.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    of_arms = {str(arm): extremes(group_means(rows)) for arm, rows in comparison.groupby("arm", sort=False)}
    return {arm: of_arm for arm, of_arm in of_arms.items() if of_arm is not None}


def metrics_table(comparison: pd.DataFrame, *, significance: float) -> Table:
    """Every metric, overall.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: level of the star.
    """
    tables = [group_table(comparison, [OVERALL], significance=significance, metric=metric) for metric in METRICS]
    rows = zip(*(table.rows for table in tables), strict=True)
    return Table(
        header=[metric.replace("ndcg", "NDCG").replace("recall", "Recall").replace("_at_", "@") for metric in METRICS],
        rows=[replace(same[0], cells=tuple(row.cells[0] for row in same)) for same in rows],
    )


def difference_table(comparison: pd.DataFrame, *, significance: float) -> Table:
    """Difference from erm's NDCG@20 overall with its intervals, its size and every test.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: level of the star.
    """
    rows = comparison[(comparison[SPLIT] == OVERALL) & (comparison[METRIC] == HEADLINE_METRIC)]
    origins = origins_of(comparison)
    return Table(
        header=[
            *("difference", "t interval", "bootstrap interval", "percent", "d_z", "p", "p corrected", "p Wilcoxon"),
            *("p over seeds", "p users and seeds", "corrected", "seeds"),
        ],
        rows=[
            Row.of(
                row.arm,
                Cell(f"{row.delta_vs_erm:+.4f}", **_tests(row, significance)),
                f"{row.delta_ci_low:+.4f} to {row.delta_ci_high:+.4f}",
                f"{row.delta_bootstrap_low:+.4f} to {row.delta_bootstrap_high:+.4f}",
                f"{row.relative_change:+.1f}",
                f"{row.effect_size:+.3f}",
                *map(p_text, (row.p_value, row.p_adjusted, row.p_wilcoxon, row.p_value_seeds)),
                *map(p_text, (row.p_users_seeds, row.p_users_seeds_adjusted)),
                str(row.n_seeds) if row.n_seeds else origins[row.arm],
                trained=row.n_seeds > 0,
                origin=origins[row.arm],
            )
            for row in records(rows.dropna(subset="delta_vs_erm"))
        ],
    )


def records(rows: pd.DataFrame) -> list[Any]:
    """Rows as named tuples; their fields are what the columns hold, which no type checker can know."""
    return list(rows.itertuples(index=False))


def arms(comparison: pd.DataFrame) -> list[tuple[str, bool]]:
    """(arm, whether it was trained), in the order of the comparison."""
    each = comparison.drop_duplicates("arm")
    return list(zip(each["arm"].tolist(), (each["n_seeds"] > 0).tolist(), strict=True))


def origins_of(comparison: pd.DataFrame) -> dict[str, str]:
    """By arm, what it is where it was not trained here: `foreign` for files of other systems, else `untrained`."""
    each = comparison.drop_duplicates("arm")
    return {
        arm: FOREIGN if loss == FOREIGN else "untrained" for arm, loss in zip(each["arm"], each["loss"], strict=True)
    }


def is_untrained(rows: pd.DataFrame) -> pd.Series[bool]:
    """Which rows are of baselines: neither trained here nor recommendations of another system."""
    baselines: pd.Series[bool] = (rows["n_seeds"] == 0) & (rows["loss"] != FOREIGN)
    return baselines


def number(value: float) -> str:
    """A metric with four decimals."""
    return f"{value:.4f}"


def p_text(p_value: float) -> str:
    """A p-value short enough for a table."""
    if pd.isna(p_value):
        return "-"
    return "<.0001" if p_value < 1e-4 else f"{p_value:.4f}".removeprefix("0")


def _tests(row: Any, significance: float) -> dict[str, bool]:
    return {
        "starred": bool(row.p_value < significance),
        "corrected": bool(row.significant),
        "over_seeds": bool(row.p_users_seeds_adjusted < significance),
    }


def cells_of_arms(rows: pd.DataFrame, significance: float) -> dict[str, Cell]:
    """By arm, the marked value of one group and metric.

    Args:
        rows: of a comparison, one an arm.
        significance: level of the star.
    """
    trained = rows["n_seeds"] > 0
    untrained_best = rows.loc[is_untrained(rows), VALUE].max()
    ranking = sorted(rows.loc[trained, VALUE].unique(), reverse=True) if trained.sum() > 1 else []
    return {
        row.arm: Cell(
            number(row.value),
            **(_tests(row, significance) if row.n_seeds > 0 else {}),
            best=row.n_seeds > 0 and ranking[:1] == [row.value],
            second=row.n_seeds > 0 and ranking[1:2] == [row.value],
            below_untrained=row.n_seeds > 0 and bool(row.value < untrained_best),
        )
        for row in records(rows)
    }
