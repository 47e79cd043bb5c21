"""The item side of the arms, and the arms that are files of other systems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from fairrec_pipeline.arms.record import FOREIGN
from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import GROUP, OVERALL, VALUE
from fairrec_pipeline.report.evidence import Evidence, grouped, records
from fairrec_pipeline.report.tables import Row, Table, number, p_text

NAMES = {
    "arp_at_20": "ARP (users)",
    "aplt_at_20": "APLT",
    "miuf_at_20": "MIUF (bits)",
    "coverage_at_20": "coverage",
    "gini_at_20": "Gini",
    "exposure_gini_at_20": "Gini of exposure",
    "recall_head_at_20": "recall, head targets",
    "recall_tail_at_20": "recall, tail targets",
    "recall_tail_to_head_at_20": "tail / head",
}
_BY_GROUP = ("arp_at_20", "aplt_at_20", "coverage_at_20", "recall_head_at_20", "recall_tail_at_20")
ITEM_NOTE = """Lists of 20 items. Popularity: distinct training users. Head: the fewest most popular items that hold 80
% of the training (user, item) pairs, and all items as popular as the last of them; the rest is the tail. Coverage:
share of the catalogue in somebody's list. Gini: 0 where every item is in as many lists. Coverage and Gini depend on the
number of users: compare arms, not groups. No tests: such a metric belongs to a set of lists, not to a user."""


def item_tables(evidence: Evidence) -> dict[str, Table]:
    """By caption: every metric of lists overall, then some of them by group; empty where no arm has any."""
    values = {name: evidence.cells(OVERALL, metric=metric)[VALUE] for metric, name in NAMES.items()}
    overall = {name: of_arms for name, of_arms in values.items() if not of_arms.empty}
    tables = {"Overall": _table(evidence, overall)}
    for metric in _BY_GROUP:
        by_group = grouped(evidence.cells(*STANDARD_SPLITS, metric=metric), GROUP)
        columns = {group: cells[VALUE] for group, cells in by_group}
        tables[f"{NAMES[metric]}, by group"] = _table(evidence, columns)
    return {caption: table for caption, table in tables.items() if table.header}


def foreign_in_words(evidence: Evidence) -> Iterable[str]:
    """A sentence on every arm that is a file of another system, beside erm and the best arm trained here."""
    cells = evidence.cells(OVERALL)
    for row in records(cells[cells["origin"] == FOREIGN]):
        sentence = f"{row.arm}: NDCG@20 {number(row.value)} overall"
        for best in records(evidence.trained.head(1)):
            sentence += f"; the best arm trained here is {best.arm} with {number(best.value)}"
        if pd.notna(row.p_value):
            differs = "differs" if row.p_value < evidence.significance else "does not differ"
            sentence += f"; it {differs} from erm over users ({row.delta_vs_erm:+.4f}, p {p_text(row.p_value)}"
            sentence += f", corrected {p_text(row.p_adjusted)})"
        yield f"{sentence}."


def _table(evidence: Evidence, columns: Mapping[str, pd.Series[float]]) -> Table:
    """Values by arm, with a name for each column."""
    return Table(
        header=list(columns),
        rows=[
            Row.of(arm, *(_text(values.get(arm)) for values in columns.values()), origin=origin)
            for arm, origin in evidence.origins.items()
        ],
    )


def _text(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.1f}" if value >= 10 else number(value)
