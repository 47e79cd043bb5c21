"""Tables of a comparison for readers: arms down, groups across, marked as in the paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from fairrec_pipeline.comparison.trainings import UNTRAINED
from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import GROUP, HEADLINE_METRIC, METRICS, OVERALL, SPLIT, TARGET, VALUE
from fairrec_pipeline.report.evidence import TRAINED, Evidence, grouped, records

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
    """One arm, with its value in every column and its origin (see `Evidence.origins`)."""

    arm: str
    cells: tuple[Cell, ...]
    origin: str = TRAINED

    @property
    def trained(self) -> bool:
        return self.origin == TRAINED

    @classmethod
    def of(cls, arm: str, *cells: Cell | str, origin: str = TRAINED) -> Row:
        """A row of cells or their texts."""
        return cls(arm, tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells), origin)


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


def group_table(evidence: Evidence, *splits: str, metric: str = HEADLINE_METRIC) -> Table:
    """Values of one metric in every group of some splits; those that the comparison does not have are left out."""
    by_group = grouped(evidence.cells(*splits, metric=metric), SPLIT, GROUP)
    columns = {group: marked(cells, evidence.significance) for group, cells in by_group}
    return Table(
        header=["" if split == OVERALL else group for split, group in columns],
        rows=[
            Row(arm, tuple(column[arm] for column in columns.values()), origin)
            for arm, origin in evidence.origins.items()
        ],
        splits=list(Counter(split for split, _ in columns).items()),
    )


def headline_table(evidence: Evidence) -> Table:
    """NDCG@20 overall, in the balanced splits and by kind of target; then the worst group and the gaps."""
    table, extremes = group_table(evidence, *EVERY_ARM_SPLITS), evidence.extremes
    if not extremes:
        return table
    more = {
        arm: (f"{number(of.worst)} {of.worst_group}", *map(number, of.gaps.values())) for arm, of in extremes.items()
    }
    gaps = list(next(iter(extremes.values())).gaps)
    return Table(
        header=[*table.header, "", *gaps],
        rows=[replace(row, cells=(*row.cells, *map(Cell, more[row.arm]))) for row in table.rows],
        splits=[*table.splits, ("worst group", 1), ("gap", len(gaps))],
    )


def metrics_table(evidence: Evidence) -> Table:
    """Every metric, overall."""
    tables = [group_table(evidence, OVERALL, metric=metric) for metric in METRICS]
    rows = zip(*(table.rows for table in tables), strict=True)
    return Table(
        header=[metric.replace("ndcg", "NDCG").replace("recall", "Recall").replace("_at_", "@") for metric in METRICS],
        rows=[replace(same[0], cells=tuple(row.cells[0] for row in same)) for same in rows],
    )


def difference_table(evidence: Evidence) -> Table:
    """Difference from erm's NDCG@20 overall with its intervals, its size and every test; without erm no rows."""
    return Table(
        header=[
            *("difference", "t interval", "bootstrap interval", "percent", "d_z", "p", "p corrected", "p Wilcoxon"),
            *("p over seeds", "p users and seeds", "corrected", "seeds"),
        ],
        rows=[
            Row.of(
                row.arm,
                Cell(f"{row.delta_vs_erm:+.4f}", **_tests(row, evidence.significance)),
                f"{row.delta_ci_low:+.4f} to {row.delta_ci_high:+.4f}",
                f"{row.delta_bootstrap_low:+.4f} to {row.delta_bootstrap_high:+.4f}",
                f"{row.relative_change:+.1f}",
                f"{row.effect_size:+.3f}",
                *map(p_text, (row.p_value, row.p_adjusted, row.p_wilcoxon, row.p_value_seeds)),
                *map(p_text, (row.p_users_seeds, row.p_users_seeds_adjusted)),
                str(row.n_seeds or row.origin),
                origin=row.origin,
            )
            for row in records(evidence.cells(OVERALL).dropna(subset="delta_vs_erm"))
        ],
    )


def marked(cells: pd.DataFrame, significance: float) -> dict[str, Cell]:
    """By arm, the value of one group and metric with its marks; `cells` are from `Evidence.cells`, one row an arm."""
    trained, untrained = (cells.loc[cells["origin"] == origin, VALUE] for origin in (TRAINED, UNTRAINED))
    ranking = sorted(trained.unique(), reverse=True) if len(trained) > 1 else []
    return {
        row.arm: Cell(
            number(row.value),
            **_tests(row, significance),
            best=ranking[:1] == [row.value],
            second=ranking[1:2] == [row.value],
            below_untrained=bool(row.value < untrained.max()),
        )
        if row.origin == TRAINED
        else Cell(number(row.value))
        for row in records(cells)
    }


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
