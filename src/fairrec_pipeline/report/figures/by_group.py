"""Arms beside each other, group by group."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fairrec_pipeline.comparison.comparison import REFERENCE
from fairrec_pipeline.report.figures.style import arm_colours, finish, headline, note
from fairrec_pipeline.metrics.by_group import GROUP, NEW, OVERALL, REPEAT, SPLIT, STANDARD_SPLITS, TARGET, VALUE
from fairrec_pipeline.report.tables import arms, extreme_groups, records

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "star")


def relative_change(comparison: pd.DataFrame) -> go.Figure:
    """Change of NDCG@20 against erm, in percent, per group of pop33 and seq33 (as Figures 1 and 2 of the paper).

    The axis is that of the trained arms; a bar of an untrained arm may leave it (popularity loses 98 %).

    Args:
        comparison: from `comparison.compare_arms`; without an erm arm the figure says so.
    """
    rows = headline(comparison, STANDARD_SPLITS)
    rows = rows[rows["relative_change"].notna() & (rows["arm"] != REFERENCE)]
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
    trained = rows.loc[rows["n_seeds"] > 0, "relative_change"]
    if trained.empty:
        note(figure, "no erm arm, or no other trained arm, to compare")
    else:
        low, high = min(0, trained.min()), max(0, trained.max())
        figure.update_yaxes(range=[1.3 * low - 3, 1.3 * high + 3])
    subtitle = (
        "percent of erm's value in the same group; grey: untrained, cut off where they leave the trained arms' range"
    )
    return finish(figure, "Change of NDCG@20 against erm", subtitle)


def group_values(comparison: pd.DataFrame) -> go.Figure:
    """NDCG@20 with confidence intervals, overall and per group of pop33 and seq33, untrained arms included.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    splits = (OVERALL, *STANDARD_SPLITS)
    figure = _panels(splits, widths=[0.16, 0.42, 0.42])
    _values_by_group(figure, comparison, [(split, 1, place) for place, split in enumerate(splits, start=1)])
    return finish(figure, "NDCG@20 by group", "confidence intervals over users; grey: untrained")


def split_values(comparison: pd.DataFrame, splits: Sequence[str], title: str) -> go.Figure:
    """NDCG@20 with confidence intervals per group of some splits, two panels beside each other.

    Args:
        comparison: from `comparison.compare_arms`.
        splits: one panel each.
        title: of the figure.
    """
    across = min(2, len(splits))
    down = -(-len(splits) // across)
    figure = make_subplots(
        rows=down, cols=across, subplot_titles=list(splits), horizontal_spacing=0.06, vertical_spacing=0.28 / down
    )
    places = [(split, place // across + 1, place % across + 1) for place, split in enumerate(splits)]
    _values_by_group(figure, comparison, places)
    figure.update_xaxes(tickangle=0, tickfont_size=11)
    subtitle = "confidence intervals over users; grey: untrained"
    return finish(figure, title, subtitle, height=max(500, 180 + 330 * down))


def worst_group(comparison: pd.DataFrame) -> go.Figure:
    """NDCG@20 of the worst group of pop33 and seq33 of each arm, with its name.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    figure = go.Figure()
    extremes = extreme_groups(comparison)
    if extremes.empty:
        note(figure, "there are no pop33 and seq33 groups")
    else:
        colours = arm_colours(comparison)
        figure.add_bar(
            y=extremes.index,
            x=extremes["worst"],
            orientation="h",
            marker_color=[colours[arm] for arm in extremes.index],
            text=[
                f" {row.worst:.3f} {group}"
                for row, group in zip(records(extremes), extremes["worst group"], strict=True)
            ],
            textposition="auto",
            insidetextanchor="start",
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )
    figure.update_yaxes(autorange="reversed")
    return finish(
        figure, "NDCG@20 of the worst group", "lowest mean among the groups of pop33 and seq33; grey: untrained"
    )


def repeat_and_new(comparison: pd.DataFrame) -> go.Figure:
    """NDCG@20 of each arm where the target is in the user's history, and where it is not.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    rows = headline(comparison, (TARGET,))
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
    return finish(figure, "NDCG@20 of repeat and new targets", "each panel has its own scale; grey: untrained")


def _values_by_group(figure: go.Figure, comparison: pd.DataFrame, places: Sequence[tuple[str, int, int]]) -> None:
    """Points with intervals of every arm; `places`: (split, row, column) of each panel."""
    rows = headline(comparison, [split for split, _, _ in places])
    colours = arm_colours(comparison)
    for place, (arm, own) in enumerate(rows.groupby("arm", sort=False)):
        for split, row, column in places:
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
                showlegend=(row, column) == (1, 1),
                offsetgroup=str(arm),
                hovertemplate=f"{arm}, %{{x}}: %{{y:.4f}}<extra></extra>",
                row=row,
                col=column,
            )
    figure.update_layout(scattermode="group", scattergap=0.25)
    figure.update_yaxes(rangemode="tozero")


def _panels(splits: Sequence[str], widths: list[float] | None = None) -> go.Figure:
    return make_subplots(
        rows=1,
        cols=len(splits),
        subplot_titles=["" if split == OVERALL else split for split in splits],
        shared_yaxes=True,
        column_widths=widths,
        horizontal_spacing=0.03,
    )
