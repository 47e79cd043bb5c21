"""Looks and parts that the figures share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, cycle, repeat
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fairrec_pipeline.comparison.comparison import REFERENCE
from fairrec_pipeline.parameters.methods import METHODS
from fairrec_pipeline.report.evidence import TRAINED, Evidence, records

WIDTH, HEIGHT = 1200, 700
_OTHER_COLOURS = ("#6a3d9a", "#b15928", "#1b9e9e", "#e7298a", "#66a61e", "#7f7f00", "#4b6cb7", "#c2185b")
_GREYS = ("#cccccc", "#acacac", "#8c8c8c", "#6c6c6c")
GROUP_COLOURS = ("#0072b2", "#e6a532", "#d5301f", "#009e73", "#aa4499", "#56b4e9", "#7f7f00", "#222222", "#e7298a")


def arm_colours(evidence: Evidence) -> dict[str, str]:
    """One colour per arm: that of its method, lighter for every further arm of the method; grey if not trained here."""
    greys, others = cycle(_GREYS), cycle(_OTHER_COLOURS)
    shades: dict[str, Iterator[str]] = {}
    colours = {}
    for row in records(evidence.comparison.drop_duplicates("arm")):
        if evidence.origins[row.arm] == TRAINED:
            if row.loss not in shades:
                method = METHODS.get(row.loss)
                shades[row.loss] = _shades((method.colour if method else None) or next(others))
            colours[row.arm] = next(shades[row.loss])
        else:
            colours[row.arm] = next(greys)
    return colours


def panels(
    titles: Mapping[Any, str], *, across: int = 2, **options: Any
) -> tuple[go.Figure, dict[Any, dict[str, int]]]:
    """A grid of panels, filled row by row; any number of them has room.

    Args:
        titles: of the panels, by what they show.
        across: most panels beside each other.
        options: of plotly's `make_subplots`.

    Returns:
        The figure, and the keyword arguments `row` and `col` of each panel.
    """
    across = min(across, len(titles))
    down = -(-len(titles) // across)
    spacing = {"horizontal_spacing": 0.12 / across, "vertical_spacing": 0.28 / down}
    figure = make_subplots(rows=down, cols=across, subplot_titles=list(titles.values()), **(spacing | options))
    return figure, {key: {"row": index // across + 1, "col": index % across + 1} for index, key in enumerate(titles)}


def height_of(at: Mapping[Any, Mapping[str, int]], of_row: int) -> int:
    """Height in pixels of a figure with these `panels`, whose rows need so many pixels each."""
    return max(500, 180 + of_row * max(panel["row"] for panel in at.values()))


def add_line(
    figure: go.Figure, at: Mapping[str, int], x: Any, y: Any, *, name: str, hover: str, marker: Any = None, **line: Any
) -> None:
    """A line in a panel; its points are shown if they have a `marker`. `line` is plotly's: color, dash, ..."""
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines+markers" if marker else "lines",
        line={"width": 2, **line},
        marker=marker,
        name=name,
        hovertemplate=f"{hover}<extra></extra>",
        **at,
    )


def level_lines(figure: go.Figure, levels: pd.Series[float]) -> None:
    """A dotted line in every panel at the level of each arm of the index; erm's is black."""
    for arm, level in levels.items():
        colour = "#222222" if arm == REFERENCE else "#a0a0a0"
        figure.add_hline(
            y=level,
            line={"color": colour, "dash": "dot", "width": 1.5},
            annotation={"text": str(arm), "font": {"size": 11, "color": colour}, "yshift": -2},
            annotation_position="top left",
            exclude_empty_subplots=True,
        )


def finish(figure: go.Figure, title: str, subtitle: str, height: int = HEIGHT) -> go.Figure:
    """Title, legend and size, the same for all; a name stands in the legend once and hides all its traces."""
    named = set()
    for trace in figure.data:
        trace.legendgroup = trace.legendgroup or trace.name
        if trace.showlegend is not False:
            trace.showlegend = trace.name is not None and trace.legendgroup not in named
            named.add(trace.legendgroup)
    figure.update_layout(
        template="plotly_white",
        width=WIDTH,
        height=height,
        title={"text": title, "subtitle": {"text": subtitle}, "x": 0.02, "y": 1 - 28 / height},
        margin={"l": 60, "r": 30, "t": 120, "b": 80},
        legend={"orientation": "h", "x": 0, "y": -52 / (height - 200), "yanchor": "top"},
        font={"size": 14},
        bargap=0.2,
    )
    return figure


def note(figure: go.Figure, text: str) -> None:
    """Say in the middle of an empty figure why it is empty."""
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 18})


def _shades(colour: str) -> Iterator[str]:
    """A colour, then lighter and lighter ones; from the fourth on they stay the same."""
    channels = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    for share in chain((0, 0.22, 0.44), repeat(0.66)):
        yield "#" + "".join(f"{round(channel + (255 - channel) * share):02x}" for channel in channels)
