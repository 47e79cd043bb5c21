"""Tables of a comparison for readers: arms down, groups across, marked as in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fairrec_pipeline.metrics.by_group import (
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
from fairrec_pipeline.comparison.paper.published import published_noise, published_rows
from fairrec_pipeline.comparison.paper.stars import published_stars
from fairrec_pipeline.comparison.trainings import budgets

EVERY_ARM_SPLITS = (OVERALL, *STANDARD_SPLITS, TARGET)
"""What the first table of a report shows; the other splits have tables of their own."""


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
        corner: name of the first column.
    """

    splits: tuple[tuple[str, int], ...]
    header: tuple[str, ...]
    rows: tuple[Row, ...]
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


def paper_tables(comparison: pd.DataFrame, dataset: str) -> dict[str, Table]:
    """The paper's tables by name, as ours / published (difference, in standard deviations of the noise).

    Args:
        comparison: from `comparison.compare_arms`.
        dataset: name by which published numbers are looked up.

    Returns:
        By name (`Table 2`), those that hold a number of ours; the untrained arms stand below.
    """
    rows = comparison[comparison[METRIC] == HEADLINE_METRIC]
    ours = {(row.loss, _text(row.loss_groups), row.split, row.group): row.value for row in records(rows)}
    noise = published_noise(dataset).set_index([SPLIT, GROUP])["published_noise"].to_dict()
    untrained = [arm for arm, trained in arms(comparison) if not trained]
    found = {}
    for table, cells in published_rows(dataset).groupby("table"):
        texts: dict[tuple[str, str, str], str] = {}
        known = False
        for row in records(cells):
            panel_has_arm = pd.isna(row.loss_groups) or row.panel == row.loss_groups
            name = row.loss if panel_has_arm else f"{row.loss}-{row.loss_groups}"
            value = ours.get((row.loss, _text(row.loss_groups), row.split, row.group))
            known |= value is not None
            spread = noise.get((row.split, row.group))
            texts[name, row.panel, row.group] = _beside(value, row.published, row.published_significant, spread)
            for arm in untrained:
                own = ours.get((arm, "", row.split, row.group))
                texts[arm, row.panel, row.group] = "-" if own is None else number(own)
        if not known:
            continue
        places = list(dict.fromkeys((panel, group) for _, panel, group in texts))
        panels = list(dict.fromkeys(panel for panel, _ in places))
        names = [name for name in dict.fromkeys(name for name, _, _ in texts) if name not in untrained]
        found[f"Table {table}"] = Table(
            splits=tuple((panel, sum(place[0] == panel for place in places)) for panel in panels),
            header=tuple(group for _, group in places),
            rows=tuple(
                Row(name, name not in untrained, tuple(Cell(texts.get((name, *place), "-")) for place in places))
                for name in [*names, *untrained]
            ),
        )
    return found


def difference_table(comparison: pd.DataFrame, *, significance: float, metric: str = HEADLINE_METRIC) -> Table:
    """Difference from erm overall with its intervals, its size and every test.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: level of the star.
        metric: name of the metric.
    """
    rows = comparison[(comparison[SPLIT] == OVERALL) & (comparison[METRIC] == metric)].dropna(subset="delta_vs_erm")
    return Table(
        splits=(),
        header=(
            *("difference", "t interval", "bootstrap interval", "percent", "d_z", "p", "p corrected", "p Wilcoxon"),
            *("p over seeds", "p users and seeds", "corrected", "seeds"),
        ),
        rows=tuple(
            Row(
                row.arm,
                row.n_seeds > 0,
                (
                    Cell(f"{row.delta_vs_erm:+.4f}", **_tests(row, significance)),
                    Cell(f"{row.delta_ci_low:+.4f} to {row.delta_ci_high:+.4f}"),
                    Cell(f"{row.delta_bootstrap_low:+.4f} to {row.delta_bootstrap_high:+.4f}"),
                    Cell(f"{row.relative_change:+.1f}"),
                    Cell(f"{row.effect_size:+.3f}"),
                    *(
                        Cell(p_text(p))
                        for p in (
                            *(row.p_value, row.p_adjusted, row.p_wilcoxon, row.p_value_seeds),
                            *(row.p_users_seeds, row.p_users_seeds_adjusted),
                        )
                    ),
                    Cell(str(row.n_seeds) if row.n_seeds else "untrained"),
                ),
            )
            for row in records(rows)
        ),
    )


def stars_table(comparison: pd.DataFrame, *, significance: float) -> Table:
    """Every published star that we can look at, and what became of it.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: see `stars.published_stars`.
    """
    words = {True: "yes", False: "no"}
    rows = published_stars(comparison, significance=significance)
    return Table(
        splits=(),
        header=("split", "group", "paper's difference", "beyond its noise", "our difference", "in our runs"),
        rows=tuple(
            Row(
                row.arm,
                True,
                (
                    Cell(row.split),
                    Cell("" if row.split == OVERALL else row.group),
                    Cell(f"{row.published_delta:+.4f}"),
                    Cell("not repeated" if pd.isna(row.beyond_noise) else words[bool(row.beyond_noise)]),
                    Cell(f"{row.delta_vs_erm:+.4f}"),
                    Cell(row.verdict),
                ),
            )
            for row in records(rows)
        ),
    )


def budget_table(trainings: pd.DataFrame, comparison: pd.DataFrame) -> Table:
    """What every arm cost, how far it was tuned, and what came out.

    Args:
        trainings: from `trainings.trainings`.
        comparison: from `comparison.compare_arms`.
    """
    rows = comparison[(comparison[SPLIT] == OVERALL) & (comparison[METRIC] == HEADLINE_METRIC)]
    values = rows.set_index("arm")[VALUE].to_dict()
    return Table(
        splits=(),
        header=("NDCG@20", "seconds per run", "runs", "tuning points", "seconds in all", "warm-start steps", "device"),
        rows=(
            *(
                Row(
                    row.arm,
                    True,
                    (
                        Cell(number(values[row.arm])),
                        Cell(_seconds(row.seconds)),
                        Cell(str(row.runs)),
                        Cell(str(row.points)),
                        Cell(_seconds(row.total_seconds)),
                        Cell(str(row.warm_start_steps)),
                        Cell(row.device),
                    ),
                )
                for row in records(budgets(trainings).rename_axis("arm").reset_index())
            ),
            *(
                Row(arm, False, (Cell(number(values[arm])), *[Cell("-")] * 6))
                for arm, trained in arms(comparison)
                if not trained
            ),
        ),
    )


def shares_table(shares: pd.DataFrame) -> Table:
    """Share of draws, share of weight and lift of every group over the whole training, per arm.

    Args:
        shares: from `trained_on.weight_shares`.
    """
    rows = shares[shares["window"].isna()]
    names = list(dict.fromkeys(rows["arm"]))
    texts = {
        (row.arm, row.split, row.group): f"{100 * row.weight_share:.1f} % ({row.lift:.2f})" for row in records(rows)
    }
    return Table(
        splits=(),
        header=("group", "users", "share of draws", *(f"{name}: share of weight (lift)" for name in names)),
        rows=tuple(
            Row(
                row.split,
                True,
                (
                    Cell(row.group),
                    Cell(f"{row.n_users:,}"),
                    Cell(f"{100 * row.draw_share:.1f} %"),
                    *(Cell(texts.get((name, row.split, row.group), "-")) for name in names),
                ),
            )
            for row in records(rows.drop_duplicates([SPLIT, GROUP]))
        ),
        corner="split",
    )


def rules_table(rules: pd.DataFrame) -> Table:
    """The users whom each arm weighs above erm, as rules.

    Args:
        rules: from `trained_on.found_users`.
    """
    return Table(
        splits=(),
        header=("users with", "users", "of them above erm", "of all above erm", "draws", "weight", "lift", "accuracy"),
        rows=tuple(
            Row(
                row.arm,
                True,
                (
                    Cell(row.rule),
                    Cell(f"{row.n_users:,}"),
                    *(
                        Cell(f"{100 * share:.1f} %")
                        for share in (row.above_erm, row.above_erm_overall, row.draw_share, row.weight_share)
                    ),
                    Cell(f"{row.lift:.2f}"),
                    Cell(f"{row.accuracy:.2f}"),
                ),
            )
            for row in records(rules)
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


def _tests(row: Any, significance: float) -> dict[str, bool]:
    return {
        "starred": bool(row.p_value < significance),
        "corrected": bool(row.significant),
        "over_seeds": bool(row.p_users_seeds_adjusted < significance),
    }


def _beside(value: float | None, published: float, starred: Any, noise: float | None) -> str:
    """Ours / published (difference, in units of the paper's noise)."""
    theirs = number(published).removesuffix("0") + ("" if pd.isna(starred) or not starred else "*")
    if value is None:
        return f"- / {theirs}"
    difference = value - published
    units = "" if noise is None else f", {difference / noise:+.1f} sd"
    return f"{number(value)} / {theirs} ({difference:+.3f}{units})"


def _text(name: Any) -> str:
    return "" if pd.isna(name) else str(name)


def _seconds(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:,.0f}"


def _column(rows: pd.DataFrame, significance: float) -> dict[str, Cell]:
    trained = rows["n_seeds"] > 0
    untrained_best = rows.loc[~trained, VALUE].max()
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
