"""Our numbers beside the paper's, and what became of its stars."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fairrec_pipeline.arms.record import FOREIGN
from fairrec_pipeline.comparison.paper.published import published_noise, published_rows
from fairrec_pipeline.comparison.paper.stars import published_stars
from fairrec_pipeline.metrics.by_group import GROUP, HEADLINE_METRIC, METRIC, OVERALL, SPLIT
from fairrec_pipeline.report.tables import Row, Table, arms, number, origins_of, records


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
    origins = origins_of(comparison)
    untrained = [arm for arm, trained in arms(comparison) if not trained and origins[arm] != FOREIGN]
    tables = {}
    for name, cells in published_rows(dataset).groupby("table"):
        texts: dict[tuple[str, str], dict[str, str]] = {}  # by panel and group, by arm
        values = []
        for row in records(cells):
            panel_has_arm = pd.isna(row.loss_groups) or row.panel == row.loss_groups
            arm = row.loss if panel_has_arm else f"{row.loss}-{row.loss_groups}"
            values.append(ours.get((row.loss, _text(row.loss_groups), row.split, row.group)))
            column = texts.setdefault((row.panel, row.group), {})
            column[arm] = _beside(values[-1], row, noise.get((row.split, row.group)))
            for baseline in untrained:
                value = ours.get((baseline, "", row.split, row.group))
                column[baseline] = "-" if value is None else number(value)
        if all(value is None for value in values):
            continue
        panels = [panel for panel, _ in texts]
        names = dict.fromkeys(arm for column in texts.values() for arm in column if arm not in untrained)
        tables[f"Table {name}"] = Table(
            header=[group for _, group in texts],
            rows=[
                Row.of(arm, *(column.get(arm, "-") for column in texts.values()), trained=arm in names)
                for arm in [*names, *untrained]
            ],
            splits=[(panel, panels.count(panel)) for panel in dict.fromkeys(panels)],
        )
    return tables


def stars_table(comparison: pd.DataFrame, *, significance: float) -> Table:
    """Every published star of an arm that is here, and what became of it.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: see `stars.published_stars`.
    """
    words = {True: "yes", False: "no"}
    return Table(
        header=["split", "group", "paper's difference", "beyond its noise", "our difference", "in our runs"],
        rows=[
            Row.of(
                row.arm,
                row.split,
                "" if row.split == OVERALL else row.group,
                f"{row.published_delta:+.4f}",
                "not repeated" if pd.isna(row.beyond_noise) else words[bool(row.beyond_noise)],
                f"{row.delta_vs_erm:+.4f}",
                row.verdict,
            )
            for row in records(published_stars(comparison, significance=significance))
        ],
    )


def _beside(value: float | None, cell: Any, noise: float | None) -> str:
    """Ours / published (difference, in units of the paper's noise)."""
    starred = not pd.isna(cell.published_significant) and cell.published_significant
    published = number(cell.published).removesuffix("0") + "*" * bool(starred)
    if value is None:
        return f"- / {published}"
    difference = value - cell.published
    units = "" if noise is None else f", {difference / noise:+.1f} sd"
    return f"{number(value)} / {published} ({difference:+.3f}{units})"


def _text(name: Any) -> str:
    return "" if pd.isna(name) else str(name)
