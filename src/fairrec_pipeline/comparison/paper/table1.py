"""Table 1 of the paper: how large the groups and the dataset are, beside the published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fairrec_pipeline.comparison.paper.published import published_table
from fairrec_pipeline.metrics.by_group import GROUP, SPLIT

TABLE, QUANTITY, OURS, PUBLISHED, DIFFERENCE = "table", "quantity", "ours", "published", "difference"
COLUMNS = (TABLE, SPLIT, GROUP, QUANTITY, OURS, PUBLISHED, DIFFERENCE)
_NAMES = {
    "users_percent": "users (%)",
    "interactions_percent": "training interactions (%)",
    "users": "users",
    "items": "items",
    "interactions": "interactions",
}


def table1(statistics: Mapping[str, Any], dataset: str) -> pd.DataFrame:
    """Shares of the groups (1a) and counts (1b) of the prepared data, and what the paper has for them.

    The paper rounds the shares to whole percent, but for two groups: a difference below 0.5 is none.

    Args:
        statistics: `n_users`, `n_items`, `n_interactions` and `group_shares` of the data pipeline.
        dataset: its name; the paper has retailrocket and movielens-1m, others have no published numbers.

    Returns:
        Columns table, split, group (null in 1b), quantity, ours, published, difference (ours - published).
    """
    rows = [
        {TABLE: "1a", SPLIT: split, GROUP: group, QUANTITY: f"{name}_percent", OURS: share[name]}
        for split, shares in statistics["group_shares"].items()
        for group, share in shares.items()
        for name in ("users", "interactions")
    ]
    rows += [
        {TABLE: "1b", SPLIT: None, GROUP: None, QUANTITY: name, OURS: float(statistics[f"n_{name}"])}
        for name in ("users", "items", "interactions")
    ]
    keys = dict.fromkeys((TABLE, SPLIT, GROUP, QUANTITY), "string")
    published = published_table("published_table1.csv", keys, dataset)
    both = pd.DataFrame(rows).astype(keys).merge(published, on=list(keys), how="left")
    return both.assign(difference=both[OURS] - both[PUBLISHED])[list(COLUMNS)]


def markdown(table: pd.DataFrame, dataset: str) -> str:
    """The table for people: a line a group and quantity."""
    lines = [
        f"# Table 1: {dataset}",
        "",
        "Published: Acharya and others, Table 1a (shares, rounded to whole percent but for 0.43 and 0.09) and 1b.",
        "",
        "| table | split | group | quantity | ours | published | difference |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for row in table.replace({QUANTITY: _NAMES}).to_dict("records"):
        shown = "{:.2f}" if row[TABLE] == "1a" else "{:.0f}"
        formats = {OURS: shown, PUBLISHED: "{:.10g}", DIFFERENCE: shown}
        cells = ["" if pd.isna(value) else formats.get(str(name), "{}").format(value) for name, value in row.items()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
