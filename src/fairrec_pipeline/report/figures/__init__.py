"""Figures of a comparison and of a training, for 1200 x 700 pixels."""

from __future__ import annotations

import plotly.graph_objects as go

from fairrec_pipeline.report.evidence import Evidence
from fairrec_pipeline.report.figures import by_group, over_training, trade_offs, user_weights

_FIGURES = (
    *(by_group.summary, by_group.relative_change, by_group.group_values, by_group.worst_group, by_group.repeat_and_new),
    *(trade_offs.trade_off, trade_offs.option_curves, trade_offs.cost),
    *(over_training.learning_curves, over_training.group_weights, over_training.method_columns),
    *(user_weights.lifts, user_weights.lifts_over_training),
)


def draw(evidence: Evidence) -> dict[str, go.Figure]:
    """Every figure of a report by name; those that have nothing to show are left out.

    `summary`, `relative_change`, `group_values`, `repeat_and_new`, `trade_off` and `learning_curves` are always there.

    Args:
        evidence: the tables of a comparison; of a split with many groups the largest are drawn.
    """
    evidence = evidence.shortened()
    drawn = {figure.__name__: figure(evidence) for figure in _FIGURES} | by_group.split_figures(evidence)
    return {name: figure for name, figure in drawn.items() if figure is not None}
