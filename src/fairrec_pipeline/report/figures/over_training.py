"""What happens while an arm trains."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fairrec_pipeline.comparison.trainings import CURVE_COLUMNS, UNTRAINED, VALIDATION_NDCG
from fairrec_pipeline.report.evidence import Evidence, grouped
from fairrec_pipeline.report.figures.style import (
    GROUP_COLOURS,
    add_line,
    arm_colours,
    finish,
    height_of,
    level_lines,
    note,
    panels,
)

_GROUP_WEIGHT = "group_weight_"


def learning_curves(evidence: Evidence) -> go.Figure:
    """Validation NDCG@20 over optimiser steps and over seconds; the epoch whose weights were kept is marked.

    Untrained arms are dotted lines at their value, on validation as well.
    """
    titles = {"step": "over optimiser steps", "seconds": "over seconds (training and validation)"}
    figure, at = panels(titles, shared_yaxes=True, horizontal_spacing=0.04)
    colours, trainings = arm_colours(evidence), evidence.trainings
    for (arm, seed), epochs in grouped(evidence.curves, "arm", "seed"):
        marker = {"size": np.where(epochs["selected"].astype(bool), 11, 1), "symbol": "star"}
        for axis, of_axis in at.items():
            hover = f"{arm}, seed {seed}, {axis} %{{x:,.0f}}: %{{y:.4f}}"
            look: dict[str, Any] = {"color": colours[arm], "marker": marker}
            add_line(figure, of_axis, epochs[axis], epochs[VALIDATION_NDCG], name=arm, hover=hover, **look)
    if evidence.curves.empty:
        note(figure, "no history was kept")
    else:
        level_lines(figure, trainings[trainings["kind"] == UNTRAINED].set_index("arm")[VALIDATION_NDCG].dropna())
    figure.update_yaxes(rangemode="tozero")
    return finish(figure, "Validation NDCG@20 while training", "star: the epoch that was kept; dotted: untrained arms")


def group_weights(evidence: Evidence) -> go.Figure | None:
    """Group weights over training, one panel per arm that keeps them."""
    columns = [name for name in evidence.curves.columns if name.startswith(_GROUP_WEIGHT)]
    curves = evidence.curves[evidence.curves[columns].notna().any(axis=1)]
    if curves.empty:
        return None
    colours = dict(zip(columns, itertools.cycle(GROUP_COLOURS), strict=False))
    figure, at = panels({arm: arm for arm in curves["arm"].unique()}, across=4, shared_yaxes=True)
    for (arm, seed), run in grouped(curves, "arm", "seed"):
        for name in columns:
            if run[name].notna().any():
                group = name.removeprefix(_GROUP_WEIGHT)
                hover = f"{group}, seed {seed}, step %{{x:,.0f}}: %{{y:.3f}}"
                add_line(figure, at[arm], _steps(run), run[name], name=group, hover=hover, color=colours[name])
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(rangemode="tozero")
    height = height_of(at, 320)
    return finish(figure, "Group weights while training", "after each epoch; a line per seed", height=height)


def method_columns(evidence: Evidence) -> go.Figure | None:
    """Whatever else methods report of themselves while training, one panel per quantity."""
    curves = evidence.curves.drop(columns=list(CURVE_COLUMNS)).select_dtypes("number").dropna(axis=1, how="all")
    titles = {name: name.replace("_", " ") for name in curves.columns if not name.startswith(_GROUP_WEIGHT)}
    if not titles:
        return None
    figure, at = panels(titles)
    colours = arm_colours(evidence)
    for name, of_column in at.items():
        for (arm, seed), run in grouped(evidence.curves.dropna(subset=name), "arm", "seed"):
            hover = f"{arm}, seed {seed}, step %{{x:,.0f}}: %{{y:.4g}}"
            add_line(figure, of_column, _steps(run), run[name], name=arm, hover=hover, color=colours[arm])
    subtitle = "over steps; a line per seed"
    return finish(figure, "What the methods report of themselves", subtitle, height=height_of(at, 320))


def training_history(history: pd.DataFrame, arm: str) -> go.Figure:
    """Training loss and validation NDCG@20 per epoch of one training; the best epoch is marked.

    Args:
        history: columns epoch, loss, validation_ndcg_at_20.
        arm: for the title.
    """
    figure, at = panels({"loss": "training loss (nats per position)", VALIDATION_NDCG: "validation NDCG@20"})
    for (name, of_column), colour in zip(at.items(), ("#222222", "#d5301f"), strict=True):
        look: dict[str, Any] = {"color": colour, "marker": {"size": 5}}
        add_line(figure, of_column, history["epoch"], history[name], name=name, hover="epoch %{x}: %{y:.4f}", **look)
    of_ndcg = at[VALIDATION_NDCG]
    for best in history.dropna(subset=VALIDATION_NDCG).nlargest(1, VALIDATION_NDCG).to_dict("records"):
        text = f"best: {best[VALIDATION_NDCG]:.4f}, epoch {best['epoch']:.0f}"
        figure.add_annotation(x=best["epoch"], y=best[VALIDATION_NDCG], text=text, ay=-30, ax=0, **of_ndcg)
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(rangemode="tozero", **of_ndcg)
    return finish(figure, f"Training of {arm}", "").update_layout(showlegend=False)


def _steps(run: pd.DataFrame) -> pd.Series[float]:
    """Optimiser steps, or epochs where they are not known."""
    return run["step"].fillna(run["epoch"])
