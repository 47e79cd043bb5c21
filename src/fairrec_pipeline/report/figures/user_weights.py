"""Whom an arm trained on."""

from __future__ import annotations

import itertools

import numpy as np
import plotly.graph_objects as go

from fairrec_pipeline.interactions.columns import ATOMIC, STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import GROUP, SPLIT
from fairrec_pipeline.report.evidence import Evidence, grouped
from fairrec_pipeline.report.figures.by_group import splits_by_figure
from fairrec_pipeline.report.figures.style import GROUP_COLOURS, finish, height_of, note, panels

_MOST_SPLITS = 6


def lifts(evidence: Evidence) -> go.Figure | None:
    """Whom each arm trained on: share of the weight over share of the draws, every group of every split."""
    shares = evidence.shares
    if shares.empty:
        return None
    rows = shares[shares["window"].isna()].assign(label=lambda table: table[SPLIT] + ": " + table[GROUP])
    table = rows.pivot_table("lift", index="label", columns="arm", sort=False, dropna=False)
    # equal ratios in both directions are equally dark
    logs = np.log2(table.to_numpy().clip(2.0**-3, 2.0**3))
    reach = max(0.1, float(np.nanmax(np.abs(logs))))
    ticks = np.linspace(-reach, reach, 5)
    figure = go.Figure(
        go.Heatmap(
            z=logs,
            x=table.columns,
            y=table.index,
            zmid=0,
            zmin=-reach,
            zmax=reach,
            colorscale="RdBu_r",
            text=table,
            texttemplate="%{text:.2f}",
            colorbar={"title": "lift", "tickvals": ticks, "ticktext": [f"{2**tick:.2f}" for tick in ticks]},
            hovertemplate="%{x}, %{y}: %{text:.3f}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    subtitle = "share of the training weight / share of the draws; 1: as in erm, red: more, blue: less"
    return finish(figure, "Whom the arms trained on", subtitle, height=max(500, 220 + 22 * len(table)))


def lifts_over_training(evidence: Evidence) -> go.Figure | None:
    """The same lift over the windows of a training; a row per arm whose lift is not 1 throughout, a column per split.

    Shown are the balanced splits, their crossing and the attributes; of more than six those farthest from 1.
    """
    if evidence.shares.empty:
        return None
    windows = evidence.shares.dropna(subset="window")
    distance = (windows["lift"] - 1).abs()
    of_splits = [*STANDARD_SPLITS, ATOMIC, *splits_by_figure(evidence)["attributes"]]
    farthest = distance.groupby(windows[SPLIT]).max().reindex(of_splits).dropna()
    splits = [split for split in farthest.index if split in farthest.nlargest(_MOST_SPLITS).index]
    windows = windows[windows[SPLIT].isin(splits)]
    moving = windows.loc[distance > 1e-3, "arm"].unique()
    if not len(moving):
        figure = go.Figure()
        note(figure, "every arm weighed its users as erm does")
        return finish(figure, "Whom the arms trained on, over training", "", height=300)
    figure, at = panels(
        {(arm, split): f"{arm}, {split}" for arm in moving for split in splits},
        across=len(splits),
        shared_xaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=min(0.06, 0.3 / len(moving)),
    )
    for split, of_split in grouped(windows[windows["arm"].isin(moving)], SPLIT):
        colours = dict(zip(of_split[GROUP].unique(), itertools.cycle(GROUP_COLOURS), strict=False))
        for (arm, group), run in grouped(of_split, "arm", GROUP):
            figure.add_scatter(
                x=run["window"] * 10 + 5,
                y=run["lift"],
                mode="lines+markers",
                line={"color": colours[group], "width": 2},
                name=group,
                legendgroup=f"{split} {group}",
                hovertemplate=f"{arm}, {group}, %{{x}} % of the budget: %{{y:.3f}}<extra></extra>",
                **at[arm, split],
            )
    figure.update_xaxes(title_text="percent of the budget", row=len(moving))
    figure.add_hline(y=1, line={"color": "#222222", "width": 1, "dash": "dot"})
    subtitle = "share of the weight / share of the draws; dotted: erm"
    if len(splits) < len(farthest):
        subtitle += f"; the {len(splits)} of {len(farthest)} splits that are farthest from it"
    return finish(figure, "Whom the arms trained on, over training", subtitle, height=height_of(at, 230))
