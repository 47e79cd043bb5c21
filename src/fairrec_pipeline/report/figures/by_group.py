"""Arms beside each other, group by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from fairrec_pipeline.comparison.comparison import REFERENCE
from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import GROUP, NEW, OVERALL, REPEAT, SPLIT, TARGET, VALUE
from fairrec_pipeline.report.figures.style import arm_colours, finish, headline, height_of, note, panels
from fairrec_pipeline.report.tables import arms, extremes_of_arms

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "star")


def relative_change(comparison: pd.DataFrame) -> go.Figure:
    """Change of NDCG@20 against erm, in percent, per group of pop33 and seq33 (as Figures 1 and 2 of the paper).

    The axis is that of the trained arms; a bar of an untrained arm may leave it (popularity loses 98 %).

    Args:
        comparison: from `comparison.compare_arms`; without an erm arm the figure says so.
    """
    rows = headline(comparison, STANDARD_SPLITS)
    rows = rows[rows["relative_change"].notna() & (rows["arm"] != REFERENCE)]
    figure, at = panels(STANDARD_SPLITS, shared_yaxes=True, horizontal_spacing=0.03)
    colours = arm_colours(comparison)
    for arm, of_arm in rows.groupby("arm", sort=False):
        for index, split in enumerate(STANDARD_SPLITS):
            cells = of_arm[of_arm[SPLIT] == split]
            figure.add_bar(
                x=cells[GROUP],
                y=cells["relative_change"],
                name=str(arm),
                marker_color=colours[str(arm)],
                hovertemplate=f"{arm}, %{{x}}: %{{y:+.1f}} %<extra></extra>",
                **at[index],
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
    options = {"column_widths": [0.16, 0.42, 0.42], "shared_yaxes": True, "horizontal_spacing": 0.03}
    figure, at = panels(["", *STANDARD_SPLITS], across=3, **options)
    _values_by_group(figure, comparison, dict(zip((OVERALL, *STANDARD_SPLITS), at, strict=True)))
    return finish(figure, "NDCG@20 by group", "confidence intervals over users; grey: untrained")


def split_values(comparison: pd.DataFrame, splits: Sequence[str], title: str) -> go.Figure:
    """NDCG@20 with confidence intervals per group of some splits, two panels beside each other.

    Args:
        comparison: from `comparison.compare_arms`.
        splits: one panel each.
        title: of the figure.
    """
    figure, at = panels(splits)
    _values_by_group(figure, comparison, dict(zip(splits, at, strict=True)))
    figure.update_xaxes(tickangle=0, tickfont_size=11)
    subtitle = "confidence intervals over users; grey: untrained"
    return finish(figure, title, subtitle, height=height_of(at, 330))


def worst_group(comparison: pd.DataFrame) -> go.Figure:
    """NDCG@20 of the worst group of pop33 and seq33 of each arm, with its name.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    figure = go.Figure()
    extremes = extremes_of_arms(comparison)
    if not extremes:
        note(figure, "there are no pop33 and seq33 groups")
    else:
        worst = pd.Series({arm: of_arm.worst for arm, of_arm in extremes.items()})
        texts = [f" {of_arm.worst:.3f} {of_arm.worst_group}" for of_arm in extremes.values()]
        _add_bars(figure, worst, texts, arm_colours(comparison))
    figure.update_yaxes(autorange="reversed")
    return finish(
        figure, "NDCG@20 of the worst group", "lowest mean among the groups of pop33 and seq33; grey: untrained"
    )


def summary(comparison: pd.DataFrame) -> go.Figure:
    """NDCG@20 overall and of the worst group of each arm, with confidence intervals; for any width from 360 pixels.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    figure, colours = go.Figure(), arm_colours(comparison)
    rows = headline(comparison, (OVERALL, *STANDARD_SPLITS)).set_index(["arm", GROUP])
    worst = extremes_of_arms(comparison)
    order = rows.xs(OVERALL, level=GROUP)[VALUE].sort_values(kind="stable").index
    shown = {"worst group": ({arm: worst[arm].worst_group for arm in order if arm in worst}, "diamond-open")}
    shown["overall"] = (dict.fromkeys(order, OVERALL), "circle")
    for name, (groups, symbol) in shown.items():
        cells = rows.loc[list(groups.items())].reset_index()
        figure.add_scatter(
            x=cells[VALUE],
            y=cells["arm"],
            error_x=_interval(cells, thickness=2, color="#555555"),
            mode="markers",
            marker={
                "color": [colours[arm] for arm in cells["arm"]],
                "size": 11,
                "symbol": symbol,
                "line": {"width": 2},
            },
            name=name,
            text=[f"{arm}, {group}" for arm, group in groups.items()],
            hovertemplate="%{text}: %{x:.4f}<extra></extra>",
        )
    figure.update_yaxes(categoryorder="array", categoryarray=list(order), tickfont_size=13)
    figure.update_xaxes(rangemode="tozero", title_text="NDCG@20")
    finish(figure, "", "", height=130 + 30 * len(order))
    margin = {"l": 10, "r": 10, "t": 40, "b": 50}
    legend = {"y": 1.0, "yanchor": "bottom", "traceorder": "reversed"}
    return figure.update_layout(title=None, margin=margin, legend=legend, yaxis_automargin=True)


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
    figure, at = panels(titles, shared_yaxes=True, horizontal_spacing=0.05)
    for index, group in enumerate((REPEAT, NEW)):
        cells = rows[rows[GROUP] == group].set_index("arm").reindex(order).dropna(subset=VALUE)
        texts = [f" {value:.3f}" for value in cells[VALUE]]
        _add_bars(figure, cells[VALUE], texts, colours, error_x=_interval(cells, color="#555555"), **at[index])
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(rangemode="tozero")
    return finish(figure, "NDCG@20 of repeat and new targets", "each panel has its own scale; grey: untrained")


def _values_by_group(figure: go.Figure, comparison: pd.DataFrame, at: Mapping[str, dict[str, int]]) -> None:
    """Points with intervals of every arm; `at`: row and column of the panel of each split."""
    rows = headline(comparison, list(at))
    colours = arm_colours(comparison)
    for index, (arm, of_arm) in enumerate(rows.groupby("arm", sort=False)):
        for split, of_split in at.items():
            cells = of_arm[of_arm[SPLIT] == split]
            figure.add_scatter(
                x=cells[GROUP],
                y=cells[VALUE],
                error_y=_interval(cells, thickness=2),
                mode="markers",
                marker={"color": colours[str(arm)], "size": 9, "symbol": _SYMBOLS[index % len(_SYMBOLS)]},
                name=str(arm),
                offsetgroup=str(arm),
                hovertemplate=f"{arm}, %{{x}}: %{{y:.4f}}<extra></extra>",
                **of_split,
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
