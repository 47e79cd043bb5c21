"""The item side of the arms, and the arms that are files of other systems."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from fairrec_pipeline.arms.record import FOREIGN
from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import GROUP, HEADLINE_METRIC, METRIC, OVERALL, SPLIT, VALUE
from fairrec_pipeline.metrics.item_side import ITEM_METRICS
from fairrec_pipeline.report.tables import Row, Table, arms, number, origins_of, p_text, records

NAMES = dict(
    zip(
        ITEM_METRICS,
        [
            *("ARP (users)", "APLT", "MIUF (bits)", "coverage", "Gini", "Gini of exposure"),
            *("recall, head targets", "recall, tail targets", "tail / head"),
        ],
        strict=True,
    )
)
_BY_GROUP = ("arp_at_20", "aplt_at_20", "coverage_at_20", "recall_head_at_20", "recall_tail_at_20")
ITEM_NOTE = """Lists of 20 items. Popularity: distinct training users. Head: the fewest most popular items that hold 80
% of the training (user, item) pairs, and all items as popular as the last of them; the rest is the tail. Coverage:
share of the catalogue in somebody's list. Gini: 0 where every item is in as many lists. Coverage and Gini depend on the
number of users: compare arms, not groups. No tests: such a metric belongs to a set of lists, not to a user."""


def item_tables(comparison: pd.DataFrame) -> dict[str, Table]:
    """By caption: every metric of lists overall, then some of them by group; empty where no arm has any.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    rows = comparison[comparison[METRIC].isin(ITEM_METRICS)]
    if rows.empty:
        return {}
    overall = rows[rows[SPLIT] == OVERALL]
    tables = {"Overall": _table(comparison, overall, METRIC, list(ITEM_METRICS), list(NAMES.values()))}
    for metric in _BY_GROUP:
        cells = rows[rows[SPLIT].isin(STANDARD_SPLITS) & (rows[METRIC] == metric)]
        if not cells.empty:
            groups = list(dict.fromkeys(cells[GROUP]))
            tables[f"{NAMES[metric]}, by group"] = _table(comparison, cells, GROUP, groups, groups)
    return tables


def foreign_in_words(comparison: pd.DataFrame, significance: float) -> Iterable[str]:
    """A sentence on every arm that is a file of another system, beside erm and the best arm trained here."""
    rows = comparison[(comparison[METRIC] == HEADLINE_METRIC) & (comparison[SPLIT] == OVERALL)]
    trained = rows[rows["n_seeds"] > 0].sort_values(VALUE, ascending=False)
    for row in records(rows[rows["loss"] == FOREIGN]):
        sentence = f"{row.arm}: NDCG@20 {number(row.value)} overall"
        if not trained.empty:
            best = trained.iloc[0]
            sentence += f"; the best arm trained here is {best['arm']} with {number(best[VALUE])}"
        if pd.notna(row.p_value):
            differs = "differs" if row.p_value < significance else "does not differ"
            sentence += f"; it {differs} from erm over users ({row.delta_vs_erm:+.4f}, p {p_text(row.p_value)}"
            sentence += f", corrected {p_text(row.p_adjusted)})"
        yield f"{sentence}."


def _table(comparison: pd.DataFrame, cells: pd.DataFrame, across: str, columns: list[str], names: list[str]) -> Table:
    origins = origins_of(comparison)
    texts = {(row.arm, getattr(row, across)): _text(row.value) for row in records(cells)}
    return Table(
        header=names,
        rows=[
            Row.of(arm, *(texts.get((arm, name), "-") for name in columns), trained=trained, origin=origins[arm])
            for arm, trained in arms(comparison)
        ],
    )


def _text(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.1f}" if value >= 10 else number(value)
