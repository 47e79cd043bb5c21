"""Our numbers beside the paper's, and what became of its stars."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from fairrec_pipeline.comparison.paper.published import published_noise, published_rows
from fairrec_pipeline.comparison.paper.stars import published_stars
from fairrec_pipeline.comparison.trainings import UNTRAINED
from fairrec_pipeline.metrics.by_group import GROUP, HEADLINE_METRIC, METRIC, OVERALL, SPLIT, VALUE
from fairrec_pipeline.report.evidence import TRAINED, Evidence, grouped, records
from fairrec_pipeline.report.tables import Row, Table, number


def paper_tables(evidence: Evidence, dataset: str) -> dict[str, Table]:
    """The paper's tables of a dataset by name (`Table 2`): ours / published (difference, in sd of the paper's noise).

    Those without a number of ours are left out. The untrained arms stand below.
    """
    ours = evidence.comparison[evidence.comparison[METRIC] == HEADLINE_METRIC]
    key = ["loss", "loss_groups", SPLIT, GROUP]
    published = published_rows(dataset).merge(ours[[*key, VALUE]], how="left", on=key)
    published = published.merge(published_noise(dataset), how="left", on=[SPLIT, GROUP])
    said_by_panel = published["loss_groups"].isna() | (published["panel"] == published["loss_groups"])
    published["arm"] = published["loss"].where(said_by_panel, published["loss"] + "-" + published["loss_groups"])
    values = ours.set_index(["arm", SPLIT, GROUP])[VALUE].to_dict()
    untrained = [arm for arm, origin in evidence.origins.items() if origin == UNTRAINED]
    tables = {}
    for name, cells in grouped(published, "table"):
        if cells[VALUE].isna().all():
            continue
        columns = {}
        for (panel, split, group), column in grouped(cells, "panel", SPLIT, GROUP):
            texts = {row.arm: _beside(row) for row in records(column)}
            texts |= {arm: number(values[arm, split, group]) for arm in untrained if (arm, split, group) in values}
            columns[panel, group] = texts
        origins = dict.fromkeys(cells["arm"], TRAINED) | dict.fromkeys(untrained, UNTRAINED)
        tables[f"Table {name}"] = Table(
            header=[group for _, group in columns],
            rows=[
                Row.of(arm, *(texts.get(arm, "-") for texts in columns.values()), origin=origin)
                for arm, origin in origins.items()
            ],
            splits=list(Counter(panel for panel, _ in columns).items()),
        )
    return tables


def stars_table(evidence: Evidence) -> Table:
    """Every published star of an arm that is here, and what became of it."""
    words = {True: "yes", False: "no"}
    return Table(
        header=["split", "group", "paper's difference", "beyond its noise", "our difference", "in our runs"],
        rows=[
            Row.of(
                *(row.arm, row.split, "" if row.split == OVERALL else row.group, f"{row.published_delta:+.4f}"),
                "not repeated" if pd.isna(row.beyond_noise) else words[bool(row.beyond_noise)],
                *(f"{row.delta_vs_erm:+.4f}", row.verdict),
            )
            for row in records(published_stars(evidence.comparison, significance=evidence.significance))
        ],
    )


def _beside(cell: Any) -> str:
    """Ours / published (difference, in units of the paper's noise)."""
    starred = not pd.isna(cell.published_significant) and cell.published_significant
    published = number(cell.published).removesuffix("0") + "*" * bool(starred)
    if pd.isna(cell.value):
        return f"- / {published}"
    difference = cell.value - cell.published
    units = "" if pd.isna(cell.published_noise) else f", {difference / cell.published_noise:+.1f} sd"
    return f"{number(cell.value)} / {published} ({difference:+.3f}{units})"
