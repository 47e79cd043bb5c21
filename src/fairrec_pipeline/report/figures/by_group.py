"""Arms beside each other, group by group."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from fairrec_pipeline.comparison.comparison import REFERENCE
from fairrec_pipeline.interactions.columns import ATOMIC, STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import (
    BY_TARGET,
    GROUP,
    NEW,
    OVERALL,
    REPEAT,
    SPLIT,
    TARGET,
    VALUE,
    is_quantile_split,
)
from fairrec_pipeline.report.evidence import TRAINED, Evidence, grouped
from fairrec_pipeline.report.figures.style import arm_colours, finish, height_of, note, panels

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "star")


def relative_change(evidence: Evidence) -> go.Figure:
    """Change of NDCG@20 against erm, in percent, per group of pop33 and seq33 (as Figures 1 and 2 of the paper).

    The axis is that of the trained arms; a bar of an untrained arm may leave it (popularity loses 98 %). Without an erm
    arm the figure says so.
    """
    rows = evidence.cells(*STANDARD_SPLITS).dropna(subset="relative_change").drop(index=REFERENCE, errors="ignore")
    figure, at = panels({split: split for split in STANDARD_SPLITS}, shared_yaxes=True, horizontal_spacing=0.03)
    colours = arm_colours(evidence)
    for (arm, split), cells in grouped(rows, "arm", SPLIT):
        figure.add_bar(
            x=cells[GROUP],
            y=cells["relative_change"],
            name=arm,
            marker_color=colours[arm],
            hovertemplate=f"{arm}, %{{x}}: %{{y:+.1f}} %<extra></extra>",
            **at[split],
        )
    figure.update_yaxes(ticksuffix=" %", zeroline=True, zerolinecolor="#222222", zerolinewidth=1.5)
    trained = rows.loc[rows["origin"] == TRAINED, "relative_change"]
    if trained.empty:
        note(figure, "no erm arm, or no other trained arm, to compare")
    else:
        low, high = min(0, trained.min()), max(0, trained.max())
        figure.update_yaxes(range=[1.3 * low - 3, 1.3 * high + 3])
    subtitle = (
        "percent of erm's value in the same group; grey: not trained here, cut off outside the trained arms' range"
    )
    return finish(figure, "Change of NDCG@20 against erm", subtitle)


def group_values(evidence: Evidence) -> go.Figure:
    """NDCG@20 with confidence intervals, overall and per group of pop33 and seq33, untrained arms included."""
    titles = {OVERALL: "", **{split: split for split in STANDARD_SPLITS}}
    options = {"column_widths": [0.16, 0.42, 0.42], "shared_yaxes": True, "horizontal_spacing": 0.03}
    figure, at = panels(titles, across=3, **options)
    _add_values(figure, at, evidence)
    return finish(figure, "NDCG@20 by group", "confidence intervals over users; grey: not trained here")


def split_figures(evidence: Evidence) -> dict[str, go.Figure]:
    """NDCG@20 with confidence intervals per group of all other splits: a figure of each kind that there is, by name."""
    figures = {}
    for name, splits in splits_by_figure(evidence).items():
        if splits:
            figure, at = panels({split: split for split in splits})
            _add_values(figure, at, evidence)
            figure.update_xaxes(tickangle=0, tickfont_size=11)
            subtitle = "confidence intervals over users; grey: not trained here"
            figures[name] = finish(figure, _TITLES[name], subtitle, height=height_of(at, 330))
    return figures


_TITLES = {
    "by_target": "NDCG@20 of repeat and new targets by group",
    "quantile_groups": "NDCG@20 by the unbalanced groups",
    "intersections": "NDCG@20 where popularity and length groups meet",
    "attributes": "NDCG@20 by attributes, which no loss knew of unless its name says so",
}


def splits_by_figure(evidence: Evidence) -> dict[str, list[str]]:
    """By name of a figure of `split_figures`, the splits that it shows."""
    shown: dict[str, list[str]] = {name: [] for name in _TITLES}
    for split, rows in grouped(evidence.comparison, SPLIT):
        if split.endswith(BY_TARGET):
            shown["by_target"].append(split)
        elif split == ATOMIC:
            shown["intersections"].append(split)
        elif split not in (OVERALL, TARGET, *STANDARD_SPLITS):
            shown["quantile_groups" if is_quantile_split(split, rows[GROUP]) else "attributes"].append(split)
    return shown


def worst_group(evidence: Evidence) -> go.Figure:
    """NDCG@20 of the worst group of pop33 and seq33 of each arm, with its name."""
    figure, extremes = go.Figure(), evidence.extremes
    if extremes:
        worst = pd.Series({arm: of_arm.worst for arm, of_arm in extremes.items()})
        texts = [f" {of_arm.worst:.3f} {of_arm.worst_group}" for of_arm in extremes.values()]
        _add_bars(figure, worst, texts, arm_colours(evidence))
    else:
        note(figure, "there are no pop33 and seq33 groups")
    figure.update_yaxes(autorange="reversed")
    subtitle = "lowest mean among the groups of pop33 and seq33; grey: not trained here"
    return finish(figure, "NDCG@20 of the worst group", subtitle)


def summary(evidence: Evidence) -> go.Figure:
    """NDCG@20 overall and of the worst group of each arm, with confidence intervals; for any width from 360 pixels."""
    figure, colours = go.Figure(), arm_colours(evidence)
    cells = evidence.cells(OVERALL, *STANDARD_SPLITS)
    overall = evidence.overall[::-1]
    worst = cells[cells[GROUP] == cells["arm"].map({arm: each.worst_group for arm, each in evidence.extremes.items()})]
    for name, shown, symbol in (
        ("worst group", worst.reindex(overall.index).dropna(subset=VALUE), "diamond-open"),
        ("overall", overall, "circle"),
    ):
        colour = [colours[arm] for arm in shown.index]
        figure.add_scatter(
            x=shown[VALUE],
            y=shown.index,
            error_x=_interval(shown, thickness=2, color="#555555"),
            mode="markers",
            marker={"color": colour, "size": 11, "symbol": symbol, "line": {"width": 2}},
            name=name,
            text=shown["arm"] + ", " + shown[GROUP],
            hovertemplate="%{text}: %{x:.4f}<extra></extra>",
        )
    figure.update_yaxes(categoryorder="array", categoryarray=overall.index, tickfont_size=13)
    figure.update_xaxes(rangemode="tozero", title_text="NDCG@20")
    finish(figure, "", "", height=130 + 30 * len(overall))
    margin = {"l": 10, "r": 10, "t": 40, "b": 50}
    legend = {"y": 1.0, "yanchor": "bottom", "traceorder": "reversed"}
    return figure.update_layout(title=None, margin=margin, legend=legend, yaxis_automargin=True)


def repeat_and_new(evidence: Evidence) -> go.Figure:
    """NDCG@20 of each arm where the target is in the user's history, and where it is not."""
    rows, colours = evidence.cells(TARGET), arm_colours(evidence)
    cells = {group: rows[rows[GROUP] == group] for group in (REPEAT, NEW)}
    users = {group: of_group["n_users"].max() if len(of_group) else 0 for group, of_group in cells.items()}
    titles = {group: f"{group} targets ({n_users:,} users)" for group, n_users in users.items()}
    figure, at = panels(titles, shared_yaxes=True, horizontal_spacing=0.05)
    for group, of_group in cells.items():
        texts = [f" {value:.3f}" for value in of_group[VALUE]]
        _add_bars(figure, of_group[VALUE], texts, colours, error_x=_interval(of_group, color="#555555"), **at[group])
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(rangemode="tozero")
    return finish(figure, "NDCG@20 of repeat and new targets", "each panel has its own scale; grey: not trained here")


def _add_values(figure: go.Figure, at: Mapping[str, dict[str, int]], evidence: Evidence) -> None:
    """Points with intervals of every arm in the panels of some splits."""
    colours, symbols = arm_colours(evidence), dict(zip(evidence.origins, itertools.cycle(_SYMBOLS), strict=False))
    for (arm, split), cells in grouped(evidence.cells(*at), "arm", SPLIT):
        figure.add_scatter(
            x=cells[GROUP],
            y=cells[VALUE],
            error_y=_interval(cells, thickness=2),
            mode="markers",
            marker={"color": colours[arm], "size": 9, "symbol": symbols[arm]},
            name=arm,
            offsetgroup=arm,
            hovertemplate=f"{arm}, %{{x}}: %{{y:.4f}}<extra></extra>",
            **at[split],
        )
    figure.update_layout(scattermode="group", scattergap=0.25)
    figure.update_yaxes(rangemode="tozero")


def _add_bars(
    figure: go.Figure, values: pd.Series[float], texts: Sequence[str], colours: Mapping[str, str], **more: Any
) -> None:
    """A horizontal bar with a text for every arm of the index."""
    figure.add_bar(
        y=values.index,
        x=values,
        orientation="h",
        marker_color=[colours[arm] for arm in values.index],
        text=texts,
        textposition="auto",
        insidetextanchor="start",
        showlegend=False,
        hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        **more,
    )


def _interval(cells: pd.DataFrame, **look: Any) -> dict[str, Any]:
    """Error bars from ci_low to ci_high."""
    above, below = cells["ci_high"] - cells[VALUE], cells[VALUE] - cells["ci_low"]
    return {"array": above, "arrayminus": below, "width": 0, **look}
