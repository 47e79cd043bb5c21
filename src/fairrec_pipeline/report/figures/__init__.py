"""Figures of a comparison and of a training, for 1200 x 700 pixels."""

from __future__ import annotations

import plotly.graph_objects as go

from fairrec_pipeline.interactions.columns import ATOMIC, STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import BY_TARGET, GROUP, OVERALL, SPLIT, TARGET, is_quantile_split
from fairrec_pipeline.report.evidence import Evidence
from fairrec_pipeline.report.figures.by_group import (
    group_values,
    relative_change,
    repeat_and_new,
    split_values,
    summary,
    worst_group,
)
from fairrec_pipeline.report.figures.over_training import (
    GROUP_WEIGHT,
    group_weights,
    learning_curves,
    method_columns,
    reported_columns,
)
from fairrec_pipeline.report.figures.trade_offs import cost, option_curves, trade_off
from fairrec_pipeline.report.figures.user_weights import lifts, lifts_over_training


def draw(evidence: Evidence) -> dict[str, go.Figure]:
    """Every figure of a report by name; those that have nothing to show are left out.

    `summary`, `relative_change`, `group_values`, `repeat_and_new`, `trade_off` and `learning_curves` are always there.

    Args:
        evidence: the tables of a comparison; of a split with many groups the largest are drawn.
    """
    evidence = evidence.shortened()
    comparison, trainings, curves = evidence.comparison, evidence.trainings, evidence.curves
    groups = {str(split): rows[GROUP].unique() for split, rows in comparison.groupby(SPLIT, sort=False)}
    quantile = [name for name in groups if name not in STANDARD_SPLITS and is_quantile_split(name, groups[name])]
    by_target = [split for split in groups if split.endswith(BY_TARGET)]
    known = {OVERALL, TARGET, ATOMIC, *STANDARD_SPLITS, *quantile, *by_target}
    attributes = [split for split in groups if split not in known]
    figures = {
        "summary": summary(comparison),
        "relative_change": relative_change(comparison),
        "group_values": group_values(comparison),
        "worst_group": worst_group(comparison),
        "repeat_and_new": repeat_and_new(comparison),
        "trade_off": trade_off(trainings, comparison),
        "learning_curves": learning_curves(curves, trainings, comparison),
    }
    for name, title, splits in (
        ("by_target", "NDCG@20 of repeat and new targets by group", by_target),
        ("quantile_groups", "NDCG@20 by the unbalanced groups", quantile),
        ("intersections", "NDCG@20 where popularity and length groups meet", [s for s in groups if s == ATOMIC]),
        ("attributes", "NDCG@20 by attributes, which no loss knew of unless its name says so", attributes),
    ):
        if splits:
            figures[name] = split_values(comparison, splits, title)
    if trainings["option"].notna().any():
        figures["option_curves"] = option_curves(trainings, comparison)
    if trainings["seconds"].notna().any():
        figures["cost"] = cost(trainings, comparison)
    if any(name.startswith(GROUP_WEIGHT) for name in curves.columns):
        figures["group_weights"] = group_weights(curves)
    if reported_columns(curves):
        figures["method_columns"] = method_columns(curves, comparison)
    if not evidence.shares.empty:
        figures["lifts"] = lifts(evidence.shares)
        figures["lifts_over_training"] = lifts_over_training(evidence.shares, (*STANDARD_SPLITS, ATOMIC, *attributes))
    return figures
