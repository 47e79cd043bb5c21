"""Tables of a comparison for readers: arms down, groups across, marked as in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fairrec_pipeline.evaluation.group_metrics import (
    GROUP,
    HEADLINE_METRIC,
    METRIC,
    OVERALL,
    SPLIT,
    STANDARD_SPLITS,
    TARGET,
    VALUE,
    gaps,
    worst_groups,
)

EVERY_ARM_SPLITS = (OVERALL, *STANDARD_SPLITS, TARGET)
"""What the first table of a report shows; the other splits have tables of their own."""


@dataclass(frozen=True)
class Cell:
    """One value, as text and with its marks.

    Attributes:
        text: the number, or what stands for a missing one.
        starred: differs from erm, uncorrected (the paper's star).
        corrected: still differs after the correction.
        best: highest among the trained arms.
        second: second highest among the trained arms.
        below_untrained: a trained arm's value below that of the best untrained arm.
    """

    text: str
    starred: bool = False
    corrected: bool = False
    best: bool = False
    second: bool = False
    below_untrained: bool = False

    @property
    def marks(self) -> str:
        return "*" * self.starred + "†" * self.corrected + "↓" * self.below_untrained


@dataclass(frozen=True)
class Row:
    """One arm."""

    arm: str
    trained: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Arms down, groups across.

    Attributes:
        splits: (name, number of columns) of each split, for a header above the header.
        header: name of each column.
        rows: arms in the order of the comparison.
    """

    splits: tuple[tuple[str, int], ...]
    header: tuple[str, ...]
    rows: tuple[Row, ...]


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
    rows = comparison[comparison[SPLIT].isin(splits) & (comparison[METRIC] == metric)]
    places = rows[[SPLIT, GROUP]].drop_duplicates()
    places = places.sort_values(SPLIT, key=lambda names: names.map({s: i for i, s in enumerate(splits)}), kind="stable")
    columns = {
        (split, group): _column(rows[(rows[SPLIT] == split) & (rows[GROUP] == group)], significance)
        for split, group in records(places)
    }
    widths = places.groupby(SPLIT, sort=False).size()
    return Table(
        splits=tuple((str(split), int(width)) for split, width in widths.items()),
        header=tuple("" if split == OVERALL else group for split, group in columns),
        rows=tuple(
            Row(arm, trained, tuple(column[arm] for column in columns.values())) for arm, trained in arms(comparison)
        ),
    )


def headline_table(comparison: pd.DataFrame, *, significance: float) -> Table:
    """NDCG@20 overall, in the balanced splits and by kind of target; then the worst group and the gaps.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: level of the star.
    """
    table = group_table(comparison, EVERY_ARM_SPLITS, significance=significance)
    extremes: dict[str, dict[str, Any]] = extreme_groups(comparison).to_dict("index")  # type: ignore[assignment]
    if not extremes:
        return table
    columns = next(iter(extremes.values()))
    splits = [column.removeprefix("gap ") for column in columns if column.startswith("gap ")]
    return Table(
        splits=(*table.splits, ("worst group", 1), ("gap", len(splits))),
        header=(*table.header, "", *splits),
        rows=tuple(
            Row(
                row.arm,
                row.trained,
                (
                    *row.cells,
                    Cell(f"{number(extremes[row.arm]['worst'])} {extremes[row.arm]['worst group']}"),
                    *(Cell(number(extremes[row.arm][f"gap {split}"])) for split in splits),
                ),
            )
            for row in table.rows
        ),
    )


def extreme_groups(comparison: pd.DataFrame, metric: str = HEADLINE_METRIC) -> pd.DataFrame:
    """Worst group over the balanced splits, and the gap of each, per arm.

    Args:
        comparison: from `comparison.compare_arms`.
        metric: name of the metric.

    Returns:
        Index arm; columns `worst` (value), `worst group`, and `gap <split>` for each balanced split that is there.
    """
    rows = comparison[comparison[SPLIT].isin(STANDARD_SPLITS) & (comparison[METRIC] == metric)]
    found = {}
    for arm, own in rows.groupby("arm", sort=False):
        worst = worst_groups(own).sort_values(VALUE).iloc[0]
        by_split = gaps(own).set_index(SPLIT)["gap"].add_prefix("gap ")
        found[arm] = {"worst": worst[VALUE], "worst group": worst[GROUP], **by_split.to_dict()}
    return pd.DataFrame.from_dict(found, orient="index")


def published_table(comparison: pd.DataFrame, splits: Sequence[str]) -> Table | None:
    """Ours / published (difference) of NDCG@20, where a published cell exists.

    Args:
        comparison: from `comparison.compare_arms`.
        splits: in the order of the columns.

    Returns:
        None if nothing is published for these splits.
    """
    rows = comparison[comparison[SPLIT].isin(splits) & comparison["published"].notna()]
    if rows.empty:
        return None
    texts = {
        (row.arm, row.split, row.group): (
            f"{number(row.value)} / {number(row.published).removesuffix('0')}"
            f"{'*' if row.published_significant is True else ''} ({row.value - row.published:+.3f})"
        )
        for row in records(rows)
    }
    places = [place for split in splits for place in dict.fromkeys((s, g) for _, s, g in texts if s == split)]
    widths = {split: sum(place[0] == split for place in places) for split in splits}
    return Table(
        splits=tuple((split, width) for split, width in widths.items() if width),
        header=tuple("" if split == OVERALL else group for split, group in places),
        rows=tuple(
            Row(str(arm), True, tuple(Cell(texts.get((arm, *place), "-")) for place in places))
            for arm in rows["arm"].unique()
        ),
    )


def difference_table(comparison: pd.DataFrame, *, significance: float, metric: str = HEADLINE_METRIC) -> Table:
    """Difference from erm overall with its interval and every test.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: level of the star.
        metric: name of the metric.
    """
    rows = comparison[(comparison[SPLIT] == OVERALL) & (comparison[METRIC] == metric)].dropna(subset="delta_vs_erm")
    return Table(
        splits=(),
        header=("difference", "interval", "percent", "p", "p corrected", "p over seeds", "seeds"),
        rows=tuple(
            Row(
                row.arm,
                row.n_seeds > 0,
                (
                    Cell(f"{row.delta_vs_erm:+.4f}", starred=row.p_value < significance, corrected=row.significant),
                    Cell(f"{row.delta_ci_low:+.4f} to {row.delta_ci_high:+.4f}"),
                    Cell(f"{row.relative_change:+.1f}"),
                    Cell(p_text(row.p_value)),
                    Cell(p_text(row.p_adjusted)),
                    Cell(p_text(row.p_value_seeds)),
                    Cell(str(row.n_seeds) if row.n_seeds else "untrained"),
                ),
            )
            for row in records(rows)
        ),
    )


def records(rows: pd.DataFrame) -> list[Any]:
    """Rows as named tuples; their fields are what the columns hold, which no type checker can know."""
    return list(rows.itertuples(index=False))


def arms(comparison: pd.DataFrame) -> list[tuple[str, bool]]:
    """(arm, whether it was trained), in the order of the comparison."""
    each = comparison.drop_duplicates("arm")
    return list(zip(each["arm"].tolist(), (each["n_seeds"] > 0).tolist(), strict=True))


def number(value: float) -> str:
    """A metric with four decimals."""
    return f"{value:.4f}"


def p_text(p_value: float) -> str:
    """A p-value short enough for a table."""
    if pd.isna(p_value):
        return "-"
    return "<.0001" if p_value < 1e-4 else f"{p_value:.4f}".removeprefix("0")


def _column(rows: pd.DataFrame, significance: float) -> dict[str, Cell]:
    trained = rows["n_seeds"] > 0
    untrained_best = rows.loc[~trained, VALUE].max()
    ranking = sorted(rows.loc[trained, VALUE].unique(), reverse=True) if trained.sum() > 1 else []
    return {
        row.arm: Cell(
            number(row.value),
            starred=bool(row.p_value < significance) and row.n_seeds > 0,
            corrected=bool(row.significant) and row.n_seeds > 0,
            best=row.n_seeds > 0 and ranking[:1] == [row.value],
            second=row.n_seeds > 0 and ranking[1:2] == [row.value],
            below_untrained=row.n_seeds > 0 and bool(row.value < untrained_best),
        )
        for row in records(rows)
    }
