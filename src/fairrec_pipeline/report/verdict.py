"""Which method, which groups, how good: the answer of a comparison, in two sentences and a table of a few rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from fairrec_pipeline.comparison.comparison import LEAST_SEEDS, REFERENCE
from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import GROUP, HEADLINE_METRIC, METRIC, OVERALL, SPLIT, VALUE
from fairrec_pipeline.report.tables import Cell, Row, Table, cells_of_arms, extremes_of_arms, is_untrained, number

MOST_ROWS = 8
_MOST_NAMES = 3


@dataclass(frozen=True)
class Answer:
    """What the sentences and the table are made from.

    Attributes:
        comparison: from `comparison.compare_arms`.
        significance: level of the tests.
    """

    comparison: pd.DataFrame
    significance: float

    @cached_property
    def overall(self) -> pd.DataFrame:
        """NDCG@20 overall by arm, the highest first."""
        return self._cells(OVERALL).sort_values(VALUE, ascending=False, kind="stable")

    @property
    def trained(self) -> pd.DataFrame:
        return self.overall[self.overall["n_seeds"] > 0]

    @property
    def untrained(self) -> pd.DataFrame:
        return self.overall[is_untrained(self.overall)]

    @cached_property
    def worst(self) -> dict[str, float]:
        """By arm, its lowest value among the groups of the balanced splits; empty without such splits."""
        return {arm: found.worst for arm, found in extremes_of_arms(self.comparison).items()}

    @cached_property
    def worst_group(self) -> tuple[str, pd.DataFrame]:
        """Name and cells, by arm, of the group that erm serves worst; needs erm and the balanced splits."""
        group = extremes_of_arms(self.comparison)[REFERENCE].worst_group
        (split,) = {split for split in STANDARD_SPLITS if group in set(self._cells(split)[GROUP])}
        cells = self._cells(split)
        return group, cells[cells[GROUP] == group]

    @property
    def has_worst_group(self) -> bool:
        return REFERENCE in self.trained.index and REFERENCE in self.worst

    def differs(self, row: Any) -> bool:
        """Whether a row differs from erm after the correction: over users and seeds where there are enough seeds."""
        if pd.isna(row.p_users_seeds_adjusted):
            return bool(row.significant)
        return bool(row.p_users_seeds_adjusted < self.significance)

    def _cells(self, split: str) -> pd.DataFrame:
        rows = self.comparison[(self.comparison[METRIC] == HEADLINE_METRIC) & (self.comparison[SPLIT] == split)]
        return rows.set_index("arm")


def _value(cells: pd.DataFrame, arm: str, column: str = VALUE) -> float:
    return float(cells[column].to_dict()[arm])


def verdict(comparison: pd.DataFrame, *, significance: float) -> list[str]:
    """At most two sentences: who is best overall, and who serves erm's worst group better or worse.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: level of the tests, which are corrected.
    """
    answer = Answer(comparison, significance)
    if answer.trained.empty:
        best = answer.untrained.iloc[0]
        return [
            f"No arm was trained on this dataset yet; of the untrained ones {best.name} is best overall "
            f"(NDCG@20 {number(best.value)})."
        ]
    sentences = [_best_overall(answer)]
    if REFERENCE not in answer.trained.index:
        sentences.append("There is no erm arm, so no arm has a difference or a test. Train it with loss=erm.")
    elif answer.has_worst_group:
        sentences.append(_worst_group(answer))
    return sentences


def verdict_line(comparison: pd.DataFrame, *, significance: float) -> str:
    """The verdict as one sentence, for a terminal."""
    first, *others = verdict(comparison, significance=significance)
    return "; ".join([first.removesuffix("."), *(other[0].lower() + other[1:] for other in others)])


def summary_table(comparison: pd.DataFrame, *, significance: float) -> Table:
    """At most `MOST_ROWS` arms: erm, the best of the others by erm's worst group, the best untrained one.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: level of the star.
    """
    answer = Answer(comparison, significance)
    named = _shown_arms(answer)
    overall = cells_of_arms(answer.overall.reset_index(), significance)
    header, columns = ["overall", "to erm"], [overall, _changes(answer.overall)]
    if answer.has_worst_group:
        group, cells = answer.worst_group
        header += [group, "to erm"]
        columns += [cells_of_arms(cells.reset_index(), significance), _changes(cells)]
    if answer.worst:
        found = extremes_of_arms(comparison)
        header.append("worst group")
        columns.append({arm: Cell(f"{number(one.worst)} {one.worst_group}") for arm, one in found.items()})
    rows = [
        Row(arm, arm in answer.trained.index, tuple(replace(column[arm], second=False) for column in columns))
        for arm in named
    ]
    return Table(header, rows)


def left_out_in_words(comparison: pd.DataFrame, *, significance: float) -> str:
    """How many arms `summary_table` leaves to the tables below; empty if none."""
    answer = Answer(comparison, significance)
    more = len(answer.overall) - len(_shown_arms(answer))
    return f"{more} more arms: NDCG@20 by group, below." if more else ""


def _best_overall(answer: Answer) -> str:
    best, words = answer.trained.iloc[0], []
    if best.name != REFERENCE and REFERENCE in answer.trained.index:
        relation = "better than" if answer.differs(best) else "not distinguishable from"
        words.append(f"{relation} erm ({number(_value(answer.overall, REFERENCE))})")
    if not answer.untrained.empty:
        top = answer.untrained.iloc[0]
        if best.ci_low > top.ci_high:
            words.append(f"above every untrained one (at most {number(top.value)}, {top.name})")
        else:
            relation = "but below" if best.ci_high < top.ci_low else "but no better than"
            words.append(f"{relation} {top.name} ({number(top.value)}), which was not trained")
    return ", ".join([f"Overall, {best.name} is the best trained arm (NDCG@20 {number(best.value)})", *words]) + "."


def _worst_group(answer: Answer) -> str:
    group, cells = answer.worst_group
    start = f"The group that erm serves worst, {group} ({number(_value(cells, REFERENCE))}),"
    trained = cells[cells["n_seeds"] > 0].sort_values(VALUE, ascending=False, kind="stable")
    others = trained.drop(index=REFERENCE)
    if others.empty:
        return f"{start} can be lifted by no other arm yet: none was trained."
    differing = others[[answer.differs(row) for row in others.itertuples()]]
    lifted = [
        arm
        for arm, row in differing.iterrows()
        if row["delta_vs_erm"] > 0 and answer.worst[str(arm)] > answer.worst[REFERENCE]
    ]
    lowered = list(differing.index[differing["delta_vs_erm"] < 0])
    words = [
        f"{start} is lifted by {_listed(answer, lifted)}" if lifted else f"{start} is lifted by no arm beyond chance"
    ]
    if lowered:
        words.append(f"served worse by {', '.join(lowered)}")
    untrained = cells[is_untrained(cells)]
    if not untrained.empty and untrained[VALUE].max() > trained[VALUE].max():
        words.append(f"and served best by the untrained {untrained[VALUE].idxmax()} ({number(untrained[VALUE].max())})")
    seeds = int(trained["n_seeds"].min())
    tested = (
        f"tested over users and {seeds} seeds"
        if seeds >= LEAST_SEEDS
        else f"tested over users; with {seeds} seed{'s' if seeds > 1 else ''} another training may differ"
    )
    return f"{', '.join(words)} ({tested})."


def _listed(answer: Answer, arms: Sequence[Any]) -> str:
    """The first few arms with their value in erm's worst group and what they cost or gain overall."""
    _, cells = answer.worst_group
    shown = [
        f"{arm} ({number(_value(cells, arm))}; overall {_value(answer.overall, arm, 'delta_vs_erm'):+.4f})"
        for arm in arms[:_MOST_NAMES]
    ]
    if len(arms) > _MOST_NAMES:
        shown.append(f"{len(arms) - _MOST_NAMES} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _shown_arms(answer: Answer) -> list[str]:
    ranked = answer.overall if not answer.has_worst_group else answer.worst_group[1].sort_values(VALUE, ascending=False)
    untrained = list(answer.untrained.index[:1])
    first = [arm for arm in dict.fromkeys([REFERENCE, *answer.trained.index[:1]]) if arm in answer.trained.index]
    others = [arm for arm in ranked.index if arm in answer.trained.index and arm not in first]
    chosen = first + others[: MOST_ROWS - len(first) - len(untrained)]
    return [*sorted(chosen, key=list(answer.trained.index).index), *untrained]


def _changes(cells: pd.DataFrame) -> dict[str, Cell]:
    return {
        str(arm): Cell("" if math.isnan(change) else f"{change:+.1f} %")
        for arm, change in cells["relative_change"].items()
    }
