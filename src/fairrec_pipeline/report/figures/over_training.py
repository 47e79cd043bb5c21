"""What happens while an arm trains."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fairrec_pipeline.comparison.trainings import CURVE_COLUMNS, UNTRAINED, VALIDATION_NDCG
from fairrec_pipeline.report.figures.style import (
    GROUP_COLOURS,
    arm_colours,
    cycled,
    finish,
    height_of,
    level_lines,
    note,
    panels,
)

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
    figure, at = panels(list(titles.values()), shared_yaxes=True, horizontal_spacing=0.04)
    colours = arm_colours(comparison)
    for (arm, seed), epochs in curves.groupby(["arm", "seed"], sort=False):
        kept = epochs["selected"].astype(bool).to_numpy()
        for axis, of_axis in zip(titles, at, strict=True):
            figure.add_scatter(
                x=epochs[axis],
                y=epochs[VALIDATION_NDCG],
                mode="lines+markers",
                line={"color": colours[str(arm)], "width": 2},
                marker={"size": np.where(kept, 11, 1), "symbol": "star"},
                name=str(arm),
                hovertemplate=f"{arm}, seed {seed}, {axis} %{{x:,.0f}}: %{{y:.4f}}<extra></extra>",
                **of_axis,
            )
    if curves.empty:
        note(figure, "no history was kept")
    else:
        level_lines(figure, trainings[trainings["kind"] == UNTRAINED].set_index("arm")[VALIDATION_NDCG].dropna())
    figure.update_yaxes(rangemode="tozero")
    return finish(figure, "Validation NDCG@20 while training", "star: the epoch that was kept; dotted: untrained arms")


def group_weights(curves: pd.DataFrame) -> go.Figure:
    """Group weights over training, one panel per arm that keeps them.

    Args:
        curves: from `trainings.training_curves`.
    """
    columns = [name for name in curves.columns if name.startswith(GROUP_WEIGHT)]
    colours = dict(zip(columns, cycled(GROUP_COLOURS, len(columns)), strict=True))
    by_arm = dict(list(curves[curves[columns].notna().any(axis=1)].groupby("arm", sort=False)))
    figure, at = panels([str(arm) for arm in by_arm], across=4, shared_yaxes=True)
    for of_arm, epochs in zip(at, by_arm.values(), strict=True):
        for seed, run in epochs.groupby("seed"):
            for name in (name for name in columns if run[name].notna().any()):
                group = name.removeprefix(GROUP_WEIGHT)
                figure.add_scatter(
                    x=run["step"].fillna(run["epoch"]),
                    y=run[name],
                    mode="lines",
                    line={"color": colours[name], "width": 2},
                    name=group,
                    hovertemplate=f"{group}, seed {seed}, step %{{x:,.0f}}: %{{y:.3f}}<extra></extra>",
                    **of_arm,
                )
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(rangemode="tozero")
    return finish(
        figure, "Group weights while training", "after each epoch; a line per seed", height=height_of(at, 320)
    )


def method_columns(curves: pd.DataFrame, comparison: pd.DataFrame) -> go.Figure:
    """Whatever else methods report of themselves while training, one panel per quantity.

    Args:
        curves: from `trainings.training_curves`.
        comparison: from `comparison.compare_arms`.
    """
    columns = reported_columns(curves)
    colours = arm_colours(comparison)
    figure, at = panels([name.replace("_", " ") for name in columns])
    for of_column, name in zip(at, columns, strict=True):
        for (arm, seed), run in curves[curves[name].notna()].groupby(["arm", "seed"], sort=False):
            figure.add_scatter(
                x=run["step"].fillna(run["epoch"]),
                y=run[name],
                mode="lines",
                line={"color": colours[str(arm)], "width": 2},
                name=str(arm),
                hovertemplate=f"{arm}, seed {seed}, step %{{x:,.0f}}: %{{y:.4g}}<extra></extra>",
                **of_column,
            )
    subtitle = "over steps; a line per seed"
    return finish(figure, "What the methods report of themselves", subtitle, height=height_of(at, 320))


def reported_columns(curves: pd.DataFrame) -> list[str]:
    """Columns that only some methods have, beside their group weights."""
    of_methods = [name for name in curves.columns if name not in CURVE_COLUMNS and not name.startswith(GROUP_WEIGHT)]
    return [name for name in of_methods if pd.api.types.is_numeric_dtype(curves[name]) and curves[name].notna().any()]


def training_history(history: pd.DataFrame, arm: str) -> go.Figure:
    """Training loss and validation NDCG@20 per epoch of one training; the best epoch is marked.

    Args:
        history: columns epoch, loss, validation_ndcg_at_20.
        arm: for the title.
    """
    figure, at = panels(["training loss (nats per position)", "validation NDCG@20"])
    for of_column, name in zip(at, ("loss", VALIDATION_NDCG), strict=True):
        figure.add_scatter(
            x=history["epoch"],
            y=history[name],
            mode="lines+markers",
            line={"color": "#222222" if name == "loss" else "#d5301f", "width": 2},
            marker={"size": 5},
            showlegend=False,
            **of_column,
        )
    if history[VALIDATION_NDCG].notna().any():
        best = history.nlargest(1, VALIDATION_NDCG).iloc[0]
        figure.add_annotation(
            x=best["epoch"],
            y=best[VALIDATION_NDCG],
            text=f"best: {best[VALIDATION_NDCG]:.4f}, epoch {best['epoch']:.0f}",
            ay=-30,
            ax=0,
            **at[1],
        )
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(rangemode="tozero", **at[1])
    return finish(figure, f"Training of {arm}", "")
