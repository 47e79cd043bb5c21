"""Figures of a comparison and of a training run, for 1200 x 700 pixels."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fairrec_pipeline.evaluation.comparison import REFERENCE
from fairrec_pipeline.evaluation.group_metrics import (
    GROUP,
    HEADLINE_METRIC,
    METRIC,
    NEW,
    OVERALL,
    REPEAT,
    SPLIT,
    STANDARD_SPLITS,
    TARGET,
    VALUE,
)
from fairrec_pipeline.evaluation.tables import arms

WIDTH, HEIGHT = 1200, 700
VALIDATION_NDCG = "validation_ndcg_at_20"
_LOSS_COLOURS = {
    "erm": "#222222",
    "cb": "#56b4e9",
    "cb_log": "#0072b2",
    "ipw": "#e6a532",
    "ipw_log": "#a06a00",
    "gdro": "#009e73",
    "sdro": "#aa4499",
    "cvar": "#d5301f",
}
_OTHER_COLOURS = ("#6a3d9a", "#b15928", "#1b9e9e", "#e7298a", "#66a61e", "#7f7f00", "#4b6cb7", "#c2185b")
_GREYS = ("#c4c4c4", "#a0a0a0", "#7c7c7c")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "star")


def arm_colours(comparison: pd.DataFrame) -> dict[str, str]:
    """One colour per arm: that of its loss, lighter for every further arm of the loss; grey if untrained.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    losses = comparison.drop_duplicates("arm").set_index("arm")["loss"].to_dict()
    others = [loss for loss in dict.fromkeys(losses.values()) if loss not in _LOSS_COLOURS]
    colours: dict[str, str] = {}
    seen: dict[str, int] = {}
    untrained = 0
    for arm, trained in arms(comparison):
        if not trained:
            colours[arm] = _GREYS[untrained % len(_GREYS)]
            untrained += 1
            continue
        loss = losses[arm]
        base = _LOSS_COLOURS.get(loss) or _OTHER_COLOURS[others.index(loss) % len(_OTHER_COLOURS)]
        colours[arm] = _lighter(base, min(0.22 * seen.get(loss, 0), 0.66))
        seen[loss] = seen.get(loss, 0) + 1
    return colours


def relative_change(comparison: pd.DataFrame) -> go.Figure:
    """Change of NDCG@20 against erm, in percent, per group of pop33 and seq33 (as Figures 1 and 2 of the paper).

    Trained arms only, as there: next to the -98 % of popularity nothing else could be read.

    Args:
        comparison: from `comparison.compare_arms`; without an erm arm the figure says so.
    """
    rows = _rows(comparison, STANDARD_SPLITS)
    rows = rows[(rows["n_seeds"] > 0) & rows["relative_change"].notna() & (rows["arm"] != REFERENCE)]
    figure = _panels(STANDARD_SPLITS)
    colours = arm_colours(comparison)
    for arm, own in rows.groupby("arm", sort=False):
        for column, split in enumerate(STANDARD_SPLITS, start=1):
            cells = own[own[SPLIT] == split]
            figure.add_bar(
                x=cells[GROUP],
                y=cells["relative_change"],
                name=str(arm),
                legendgroup=str(arm),
                showlegend=column == 1,
                marker_color=colours[str(arm)],
                hovertemplate=f"{arm}, %{{x}}: %{{y:+.1f}} %<extra></extra>",
                row=1,
                col=column,
            )
    figure.update_yaxes(ticksuffix=" %", zeroline=True, zerolinecolor="#222222", zerolinewidth=1.5)
    if rows.empty:
        _note(figure, "no erm arm, or no other trained arm, to compare")
    return _finish(figure, "Change of NDCG@20 against erm", "trained arms; percent of erm's value in the same group")


def group_values(comparison: pd.DataFrame) -> go.Figure:
    """NDCG@20 with confidence intervals, overall and per group of pop33 and seq33, untrained arms included.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    splits = (OVERALL, *STANDARD_SPLITS)
    rows = _rows(comparison, splits)
    figure = _panels(splits, widths=[0.16, 0.42, 0.42])
    colours = arm_colours(comparison)
    for place, (arm, own) in enumerate(rows.groupby("arm", sort=False)):
        for column, split in enumerate(splits, start=1):
            cells = own[own[SPLIT] == split]
            figure.add_scatter(
                x=cells[GROUP],
                y=cells[VALUE],
                error_y={
                    "array": cells["ci_high"] - cells[VALUE],
                    "arrayminus": cells[VALUE] - cells["ci_low"],
                    "width": 0,
                    "thickness": 2,
                },
                mode="markers",
                marker={"color": colours[str(arm)], "size": 9, "symbol": _SYMBOLS[place % len(_SYMBOLS)]},
                name=str(arm),
                legendgroup=str(arm),
                showlegend=column == 1,
                offsetgroup=str(arm),
                hovertemplate=f"{arm}, %{{x}}: %{{y:.4f}}<extra></extra>",
                row=1,
                col=column,
            )
    figure.update_layout(scattermode="group", scattergap=0.25)
    figure.update_yaxes(rangemode="tozero")
    return _finish(figure, "NDCG@20 by group", "confidence intervals over users; grey: untrained")


def repeat_and_new(comparison: pd.DataFrame) -> go.Figure:
    """NDCG@20 of each arm where the target is in the user's history, and where it is not.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    rows = _rows(comparison, (TARGET,))
    order = [arm for arm, _ in arms(comparison)]
    colours = arm_colours(comparison)
    users = rows.drop_duplicates(GROUP).set_index(GROUP)["n_users"]
    titles = [f"{name} targets ({users.get(name, 0):,} users)" for name in (REPEAT, NEW)]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.05)
    for column, group in enumerate((REPEAT, NEW), start=1):
        cells = rows[rows[GROUP] == group].set_index("arm").reindex(order).dropna(subset=VALUE)
        figure.add_bar(
            y=cells.index,
            x=cells[VALUE],
            orientation="h",
            marker_color=[colours[arm] for arm in cells.index],
            error_x={
                "array": cells["ci_high"] - cells[VALUE],
                "arrayminus": cells[VALUE] - cells["ci_low"],
                "width": 0,
                "color": "#555555",
            },
            text=[f" {value:.3f}" for value in cells[VALUE]],
            textposition="auto",
            insidetextanchor="start",
            showlegend=False,
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(rangemode="tozero")
    return _finish(figure, "NDCG@20 of repeat and new targets", "each panel has its own scale; grey: untrained")


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
    return _finish(figure, f"Training of {arm}", "")


def _rows(comparison: pd.DataFrame, splits: Sequence[str]) -> pd.DataFrame:
    return comparison[(comparison[METRIC] == HEADLINE_METRIC) & comparison[SPLIT].isin(splits)]


def _panels(splits: Sequence[str], widths: list[float] | None = None) -> go.Figure:
    return make_subplots(
        rows=1,
        cols=len(splits),
        subplot_titles=["" if split == OVERALL else split for split in splits],
        shared_yaxes=True,
        column_widths=widths,
        horizontal_spacing=0.03,
    )


def _finish(figure: go.Figure, title: str, subtitle: str) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        width=WIDTH,
        height=HEIGHT,
        title={"text": title, "subtitle": {"text": subtitle}, "x": 0.02, "y": 0.96},
        margin={"l": 60, "r": 30, "t": 120, "b": 60},
        legend={"orientation": "h", "x": 0, "y": -0.08, "yanchor": "top"},
        font={"size": 14},
        bargap=0.2,
    )
    return figure


def _note(figure: go.Figure, text: str) -> None:
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 18})


def _lighter(colour: str, share: float) -> str:
    channels = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) * share):02x}" for channel in channels)
