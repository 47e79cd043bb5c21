"""Which method, which groups, how good: the answer of a comparison, in two sentences and a table of a few rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from fairrec_pipeline.comparison.comparison import LEAST_SEEDS, REFERENCE
from fairrec_pipeline.comparison.trainings import UNTRAINED
from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import GROUP, VALUE
from fairrec_pipeline.report.evidence import TRAINED, Evidence, records
from fairrec_pipeline.report.tables import Cell, Row, Table, marked, number

MOST_ROWS = 8
_MOST_NAMES = 3


def verdict(evidence: Evidence) -> list[str]:
    """At most two sentences: who is best overall, and who serves erm's worst group better or worse."""
    if evidence.trained.empty:
        best = evidence.untrained.iloc[0]
        return [
            f"No arm was trained on this dataset yet; of the untrained ones {best.name} is best overall "
            f"(NDCG@20 {number(best.value)})."
        ]
    sentences = [_best_overall(evidence)]
    if REFERENCE not in evidence.trained.index:
        sentences.append("There is no erm arm, so no arm has a difference or a test. Train it with loss=erm.")
    elif evidence.extremes:
        sentences.append(_worst_group(evidence))
    return sentences


def verdict_line(evidence: Evidence) -> str:
    """The verdict as one sentence, for a terminal."""
    first, *others = verdict(evidence)
    return "; ".join([first.removesuffix("."), *(other[0].lower() + other[1:] for other in others)])


def summary_table(evidence: Evidence) -> Table:
    """At most `MOST_ROWS`: erm, the best others by erm's worst group, the best untrained and the best foreign arm."""
    worst = _cells_of_worst_group(evidence)
    columns = [("overall", marked(evidence.overall, evidence.significance)), ("to erm", _changes(evidence.overall))]
    if not worst.empty:
        columns += [(worst[GROUP].iloc[0], marked(worst, evidence.significance)), ("to erm", _changes(worst))]
    if evidence.extremes:
        named = {arm: Cell(f"{number(each.worst)} {each.worst_group}") for arm, each in evidence.extremes.items()}
        columns.append(("worst group", named))
    return Table(
        header=[name for name, _ in columns],
        rows=[
            Row(arm, tuple(replace(cells[arm], second=False) for _, cells in columns), evidence.origins[arm])
            for arm in _shown_arms(evidence)
        ],
    )


def left_out_in_words(evidence: Evidence) -> str:
    """How many arms `summary_table` leaves to the tables below; empty if none."""
    more = len(evidence.overall) - len(_shown_arms(evidence))
    return f"{more} more arms: NDCG@20 by group, below." if more else ""


def _best_overall(evidence: Evidence) -> str:
    trained, best = evidence.trained, evidence.trained.iloc[0]
    words = [f"Overall, {best.name} is the best trained arm (NDCG@20 {number(best.value)})"]
    if best.name != REFERENCE and REFERENCE in trained.index:
        relation = "better than" if _differs(best, evidence) else "not distinguishable from"
        words.append(f"{relation} erm ({number(trained[VALUE][REFERENCE])})")
    if not evidence.untrained.empty:
        top = evidence.untrained.iloc[0]
        if best.ci_low > top.ci_high:
            words.append(f"above every untrained one (at most {number(top.value)}, {top.name})")
        else:
            relation = "but below" if best.ci_high < top.ci_low else "but no better than"
            words.append(f"{relation} {top.name} ({number(top.value)}), which was not trained")
    return ", ".join(words) + "."


def _worst_group(evidence: Evidence) -> str:
    cells, worst = _cells_of_worst_group(evidence), evidence.extremes
    trained, untrained = (cells[cells["origin"] == origin] for origin in (TRAINED, UNTRAINED))
    start = f"The group that erm serves worst, {cells[GROUP].iloc[0]} ({number(cells[VALUE][REFERENCE])}),"
    others = [row for row in records(trained) if row.arm != REFERENCE]
    if not others:
        return f"{start} can be lifted by no other arm yet: none was trained."
    differing = [row for row in others if _differs(row, evidence)]
    lifted = [row for row in differing if row.delta_vs_erm > 0 and worst[row.arm].worst > worst[REFERENCE].worst]
    lowered = [row.arm for row in differing if row.delta_vs_erm < 0]
    words = [f"{start} is lifted by {_listed(lifted, evidence) if lifted else 'no arm beyond chance'}"]
    if lowered:
        words.append(f"served worse by {', '.join(lowered)}")
    if untrained[VALUE].max() > trained[VALUE].max():
        top = untrained.iloc[0]
        words.append(f"and served best by the untrained {top.name} ({number(top.value)})")
    seeds = int(trained["n_seeds"].min())
    tested = (
        f"tested over users and {seeds} seeds"
        if seeds >= LEAST_SEEDS
        else f"tested over users; with {seeds} seed{'s' if seeds > 1 else ''} another training may differ"
    )
    return f"{', '.join(words)} ({tested})."


def _cells_of_worst_group(evidence: Evidence) -> pd.DataFrame:
    """NDCG@20 of the group that erm serves worst, by arm, the highest first; empty without erm or balanced splits."""
    cells = evidence.cells(*STANDARD_SPLITS).sort_values(VALUE, ascending=False, kind="stable")
    erm = evidence.extremes.get(REFERENCE)
    return cells[cells[GROUP] == erm.worst_group] if erm else cells.iloc[:0]


def _differs(row: Any, evidence: Evidence) -> bool:
    """Whether a row differs from erm after the correction: over users and seeds where there are enough seeds."""
    if pd.isna(row.p_users_seeds_adjusted):
        return bool(row.significant)
    return bool(row.p_users_seeds_adjusted < evidence.significance)


def _listed(rows: Sequence[Any], evidence: Evidence) -> str:
    """The first few arms with their value in erm's worst group and what they cost or gain overall."""
    overall = evidence.overall["delta_vs_erm"]
    shown = [f"{row.arm} ({number(row.value)}; overall {overall[row.arm]:+.4f})" for row in rows[:_MOST_NAMES]]
    if len(rows) > _MOST_NAMES:
        shown.append(f"{len(rows) - _MOST_NAMES} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _shown_arms(evidence: Evidence) -> list[str]:
    trained = list(evidence.trained.index)
    others = [arm for rows in (evidence.untrained, evidence.foreign) for arm in rows.index[:1]]
    worst = _cells_of_worst_group(evidence)
    first = [arm for arm in dict.fromkeys([REFERENCE, *trained[:1]]) if arm in trained]
    by_worst_group = [arm for arm in (trained if worst.empty else worst.index) if arm in trained and arm not in first]
    chosen = first + by_worst_group[: MOST_ROWS - len(first) - len(others)]
    return [*sorted(chosen, key=trained.index), *others]


def _changes(cells: pd.DataFrame) -> dict[str, Cell]:
    return {
        str(arm): Cell("" if math.isnan(change) else f"{change:+.1f} %")
        for arm, change in cells["relative_change"].items()
    }
