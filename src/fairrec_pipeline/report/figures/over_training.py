"""What happens while an arm trains."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fairrec_pipeline.report.figures.style import GROUP_COLOURS, arm_colours, cycled, finish, level_lines, note
from fairrec_pipeline.comparison.trainings import CURVE_COLUMNS, UNTRAINED, VALIDATION_NDCG

GROUP_WEIGHT = "group_weight_"


def learning_curves(curves: pd.DataFrame, trainings: pd.DataFrame, comparison: pd.DataFrame) -> go.Figure:
    """Validation NDCG@20 over optimiser steps and over seconds; the epoch whose weights were kept is marked.

    Untrained arms are dotted lines at their value, on validation as well.

    Args:
        curves: from `trainings.training_curves`.
        trainings: from `trainings.trainings`.
        comparison: from `comparison.compare_arms`.
    """
    titles = {"step": "over optimiser steps", "seconds": "over seconds (training and validation)"}
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=list(titles.values()), shared_yaxes=True, horizontal_spacing=0.04
    )
    colours = arm_colours(comparison)
    shown: set[str] = set()
    for (arm, seed), own in curves.groupby(["arm", "seed"], sort=False):
        kept = own["selected"].astype(bool).to_numpy()
        for column, axis in enumerate(titles, start=1):
            figure.add_scatter(
                x=own[axis],
                y=own[VALIDATION_NDCG],
                mode="lines+markers",
                line={"color": colours[str(arm)], "width": 2},
                marker={"size": np.where(kept, 11, 1), "symbol": "star"},
                name=str(arm),
                legendgroup=str(arm),
                showlegend=str(arm) not in shown,
                hovertemplate=f"{arm}, seed {seed}, {axis} %{{x:,.0f}}: %{{y:.4f}}<extra></extra>",
                row=1,
                col=column,
            )
            shown.add(str(arm))
    if curves.empty:
        note(figure, "no history was kept")
    else:
        level_lines(figure, trainings[trainings["kind"] == UNTRAINED].set_index("arm")[VALIDATION_NDCG])
    figure.update_yaxes(rangemode="tozero")
    return finish(figure, "Validation NDCG@20 while training", "star: the epoch that was kept; dotted: untrained arms")


def group_weights(curves: pd.DataFrame) -> go.Figure:
    """Group weights over training, one panel per arm that keeps them.

    Args:
        curves: from `trainings.training_curves`.
    """
    columns = [name for name in curves.columns if name.startswith(GROUP_WEIGHT)]
    colours = dict(zip(columns, cycled(GROUP_COLOURS, len(columns)), strict=True))
    panels = list(curves[curves[columns].notna().any(axis=1)].groupby("arm", sort=False))
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        subplot_titles=[str(arm) for arm, _ in panels],
        shared_yaxes=True,
        horizontal_spacing=0.03,
    )
    shown: set[str] = set()
    for place, (_, own) in enumerate(panels, start=1):
        for seed, run in own.groupby("seed"):
            for name in (name for name in columns if run[name].notna().any()):
                group = name.removeprefix(GROUP_WEIGHT)
                figure.add_scatter(
                    x=run["step"].fillna(run["epoch"]),
                    y=run[name],
                    mode="lines",
                    line={"color": colours[name], "width": 2},
                    name=group,
                    legendgroup=group,
                    showlegend=group not in shown,
                    hovertemplate=f"{group}, seed {seed}, step %{{x:,.0f}}: %{{y:.3f}}<extra></extra>",
                    row=1,
                    col=place,
                )
                shown.add(group)
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(rangemode="tozero")
    return finish(figure, "Group weights while training", "after each epoch; a line per seed", height=500)


def method_columns(curves: pd.DataFrame, comparison: pd.DataFrame) -> go.Figure:
    """Whatever else methods tell of themselves while training, one panel per quantity.

    Args:
        curves: from `trainings.training_curves`.
        comparison: from `comparison.compare_arms`.
    """
    columns = told(curves)
    colours = arm_colours(comparison)
    across = min(2, len(columns))
    down = -(-len(columns) // across)
    titles = [name.replace("_", " ") for name in columns]
    figure = make_subplots(rows=down, cols=across, subplot_titles=titles, vertical_spacing=0.3 / down)
    shown: set[str] = set()
    for place, name in enumerate(columns):
        for (arm, seed), run in curves[curves[name].notna()].groupby(["arm", "seed"], sort=False):
            figure.add_scatter(
                x=run["step"].fillna(run["epoch"]),
                y=run[name],
                mode="lines",
                line={"color": colours[str(arm)], "width": 2},
                name=str(arm),
                legendgroup=str(arm),
                showlegend=str(arm) not in shown,
                hovertemplate=f"{arm}, seed {seed}, step %{{x:,.0f}}: %{{y:.4g}}<extra></extra>",
                row=place // across + 1,
                col=place % across + 1,
            )
            shown.add(str(arm))
    return finish(figure, "What the methods tell of themselves", "over steps; a line per seed", height=180 + 320 * down)


def told(curves: pd.DataFrame) -> list[str]:
    """Columns that only some methods have, beside their group weights."""
    own = [name for name in curves.columns if name not in CURVE_COLUMNS and not name.startswith(GROUP_WEIGHT)]
    return [name for name in own if pd.api.types.is_numeric_dtype(curves[name]) and curves[name].notna().any()]


def training_history(history: pd.DataFrame, arm: str) -> go.Figure:
    """Training loss and validation NDCG@20 per epoch of one run; the best epoch is marked.

    Args:
        history: columns epoch, loss, validation_ndcg_at_20.
        arm: for the title.
    """
    figure = make_subplots(rows=1, cols=2, subplot_titles=["training loss (nats per position)", "validation NDCG@20"])
    for column, name in enumerate(("loss", VALIDATION_NDCG), start=1):
        figure.add_scatter(
            x=history["epoch"],
            y=history[name],
            mode="lines+markers",
            line={"color": "#222222" if name == "loss" else "#d5301f", "width": 2},
            marker={"size": 5},
            showlegend=False,
            row=1,
            col=column,
        )
    if history[VALIDATION_NDCG].notna().any():
        best = history.nlargest(1, VALIDATION_NDCG).iloc[0]
        figure.add_annotation(
            x=best["epoch"],
            y=best[VALIDATION_NDCG],
            text=f"best: {best[VALIDATION_NDCG]:.4f}, epoch {best['epoch']:.0f}",
            ay=-30,
            ax=0,
            row=1,
            col=2,
        )
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(rangemode="tozero", row=1, col=2)
    return finish(figure, f"Training of {arm}", "")
