"""Whom an arm trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import GROUP, SPLIT
from fairrec_pipeline.report.figures.style import GROUP_COLOURS, cycled, finish, height_of, note, panels

_MOST_SPLITS = 6


def lifts(shares: pd.DataFrame) -> go.Figure:
    """Whom each arm trained on: share of the weight over share of the draws, every group of every split.

    Args:
        shares: from `user_weights.weight_shares`.
    """
    rows = shares[shares["window"].isna()].assign(label=lambda table: table[SPLIT] + ": " + table[GROUP])
    table = rows.set_index(["arm", "label"])["lift"].unstack()  # noqa: PD010
    table = table.loc[rows["arm"].unique(), rows["label"].unique()]
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
    subtitle = "share of the training weight / share of the draws; 1: as in erm, red: more, blue: less"
    return finish(figure, "Whom the arms trained on", subtitle, height=max(500, 220 + 22 * table.shape[1]))


def lifts_over_training(shares: pd.DataFrame, of_splits: Sequence[str] = STANDARD_SPLITS) -> go.Figure:
    """The same lift over the windows of a training; a row per arm whose lift is not 1 throughout, a column per split.

    Args:
        shares: from `user_weights.weight_shares`.
        of_splits: those that may be shown; of more than six the ones whose lift is farthest from 1.
    """
    rows = shares[shares["window"].notna() & shares[SPLIT].isin(of_splits)]
    rows = rows.assign(distance=(rows["lift"] - 1).abs())
    farthest = {
        split: rows.loc[rows[SPLIT] == split, "distance"].max() for split in of_splits if split in set(rows[SPLIT])
    }
    chosen = sorted(farthest, key=lambda split: -farthest[split])[:_MOST_SPLITS]
    splits = [split for split in farthest if split in chosen]
    rows = rows[rows[SPLIT].isin(splits)]
    moving = [str(arm) for arm, windows in rows.groupby("arm", sort=False) if windows["distance"].max() > 1e-3]
    if not moving:
        figure = go.Figure()
        note(figure, "every arm weighed its users as erm does")
        return finish(figure, "Whom the arms trained on, over training", "", height=300)
    figure, at = panels(
        [f"{arm}, {split}" for arm in moving for split in splits],
        across=len(splits),
        shared_xaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=min(0.06, 0.3 / len(moving)),
    )
    colours: dict[tuple[str, str], str] = {}
    for name, windows in rows.groupby(SPLIT, sort=False):
        groups = list(dict.fromkeys(windows[GROUP]))
        for group, colour in zip(groups, cycled(GROUP_COLOURS, len(groups)), strict=True):
            colours[str(name), str(group)] = colour
    for (arm, split, group), windows in rows[rows["arm"].isin(moving)].groupby(["arm", SPLIT, GROUP], sort=False):
        figure.add_scatter(
            x=windows["window"] * 10 + 5,
            y=windows["lift"],
            mode="lines+markers",
            line={"color": colours[str(split), str(group)], "width": 2},
            name=str(group),
            legendgroup=f"{split} {group}",
            hovertemplate=f"{arm}, {group}, %{{x}} % of the budget: %{{y:.3f}}<extra></extra>",
            **at[moving.index(str(arm)) * len(splits) + splits.index(str(split))],
        )
    figure.update_xaxes(title_text="percent of the budget", row=len(moving))
    figure.add_hline(y=1, line={"color": "#222222", "width": 1, "dash": "dot"})
    subtitle = "share of the weight / share of the draws; dotted: erm"
    if len(splits) < len(farthest):
        subtitle += f"; the {len(splits)} of {len(farthest)} splits that are farthest from it"
    return finish(figure, "Whom the arms trained on, over training", subtitle, height=height_of(at, 230))
