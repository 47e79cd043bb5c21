"""Whom an arm trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fairrec_pipeline.report.figures.style import GROUP_COLOURS, cycled, finish, note
from fairrec_pipeline.metrics.by_group import GROUP, SPLIT, STANDARD_SPLITS


def lifts(shares: pd.DataFrame) -> go.Figure:
    """Whom each arm trained on: share of the weight over share of the draws, every group of every split.

    Args:
        shares: from `trained_on.weight_shares`.
    """
    rows = shares[shares["window"].isna()].assign(place=lambda own: own[SPLIT] + ": " + own[GROUP])
    table = rows.set_index(["arm", "place"])["lift"].unstack()  # noqa: PD010
    table = table.loc[rows["arm"].unique(), rows["place"].unique()]
    # equal ratios in both directions are equally dark
    logs = np.log2(table.to_numpy().clip(2.0**-3, 2.0**3))
    reach = max(0.1, float(np.nanmax(np.abs(logs))))
    ticks = np.linspace(-reach, reach, 5)
    figure = go.Figure(
        go.Heatmap(
            z=logs.T,
            x=table.index,
            y=table.columns,
            zmid=0,
            zmin=-reach,
            zmax=reach,
            colorscale="RdBu_r",
            text=table.T,
            texttemplate="%{text:.2f}",
            colorbar={"title": "lift", "tickvals": ticks, "ticktext": [f"{2**tick:.2f}" for tick in ticks]},
            hovertemplate="%{x}, %{y}: %{text:.3f}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    subtitle = "share of the training weight / share of the draws; 1: as in erm, red: found, blue: passed over"
    return finish(figure, "Whom the arms trained on", subtitle, height=max(500, 220 + 22 * table.shape[1]))


def lifts_over_training(shares: pd.DataFrame, of_splits: Sequence[str] = STANDARD_SPLITS) -> go.Figure:
    """The same lift over the windows of a training; a row per arm whose lift is not 1 throughout, a column per split.

    Args:
        shares: from `trained_on.weight_shares`.
        of_splits: those that are shown, if they are there.
    """
    rows = shares[shares["window"].notna() & shares[SPLIT].isin(of_splits)]
    moving = [arm for arm, own in rows.groupby("arm", sort=False) if (own["lift"] - 1).abs().max() > 1e-3]
    splits = [split for split in of_splits if split in set(rows[SPLIT])]
    if not moving or not splits:
        figure = go.Figure()
        note(figure, "every arm weighed its users as erm does")
        return finish(figure, "Whom the arms trained on, over training", "", height=300)
    down = len(moving)
    figure = make_subplots(
        rows=down,
        cols=len(splits),
        subplot_titles=[f"{arm!s}, {split}" for arm in moving for split in splits],
        shared_xaxes=True,
        vertical_spacing=min(0.06, 0.3 / down),
        horizontal_spacing=0.05,
    )
    colours: dict[tuple[str, str], str] = {}
    for name, own in rows.groupby(SPLIT, sort=False):
        groups = list(dict.fromkeys(own[GROUP]))
        for group, colour in zip(groups, cycled(GROUP_COLOURS, len(groups)), strict=True):
            colours[str(name), str(group)] = colour
    for (arm, split, group), own in rows[rows["arm"].isin(moving)].groupby(["arm", SPLIT, GROUP], sort=False):
        figure.add_scatter(
            x=own["window"] * 10 + 5,
            y=own["lift"],
            mode="lines+markers",
            line={"color": colours[str(split), str(group)], "width": 2},
            name=str(group),
            legendgroup=f"{split} {group}",
            showlegend=arm == moving[0],
            hovertemplate=f"{arm}, {group}, %{{x}} % of the budget: %{{y:.3f}}<extra></extra>",
            row=moving.index(str(arm)) + 1,
            col=splits.index(str(split)) + 1,
        )
    figure.update_xaxes(title_text="percent of the budget", row=down)
    figure.add_hline(y=1, line={"color": "#222222", "width": 1, "dash": "dot"})
    subtitle = "share of the weight / share of the draws; dotted: erm"
    return finish(figure, "Whom the arms trained on, over training", subtitle, height=200 + 230 * down)
