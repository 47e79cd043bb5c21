"""Looks and parts that the figures share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fairrec_pipeline.comparison.comparison import REFERENCE
from fairrec_pipeline.metrics.by_group import HEADLINE_METRIC, METRIC, SPLIT
from fairrec_pipeline.parameters.methods import METHODS
from fairrec_pipeline.report.tables import arms

WIDTH, HEIGHT = 1200, 700
_OTHER_COLOURS = ("#6a3d9a", "#b15928", "#1b9e9e", "#e7298a", "#66a61e", "#7f7f00", "#4b6cb7", "#c2185b")
_GREYS = ("#cccccc", "#acacac", "#8c8c8c", "#6c6c6c")
GROUP_COLOURS = ("#0072b2", "#e6a532", "#d5301f", "#009e73", "#aa4499", "#56b4e9", "#7f7f00", "#222222", "#e7298a")


def arm_colours(comparison: pd.DataFrame) -> dict[str, str]:
    """One colour per arm: that of its method, lighter for every further arm of the method; grey if untrained.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    losses = comparison.drop_duplicates("arm").set_index("arm")["loss"].to_dict()
    of_methods = {loss: METHODS[loss].colour if loss in METHODS else None for loss in losses.values()}
    without = [loss for loss, colour in of_methods.items() if colour is None]
    colours: dict[str, str] = {}
    seen: dict[str, int] = {}
    greys = cycled(_GREYS, len(losses))
    for arm, trained in arms(comparison):
        if not trained:
            colours[arm] = next(greys)
            continue
        loss = losses[arm]
        base = of_methods[loss] or _OTHER_COLOURS[without.index(loss) % len(_OTHER_COLOURS)]
        colours[arm] = _lighter(base, min(0.22 * seen.get(loss, 0), 0.66))
        seen[loss] = seen.get(loss, 0) + 1
    return colours


def cycled(colours: Sequence[str], number: int) -> Iterator[str]:
    """As many colours as asked for, from the start again where there are too few."""
    return itertools.islice(itertools.cycle(colours), number)


def panels(titles: Sequence[str], *, across: int = 2, **options: Any) -> tuple[go.Figure, list[dict[str, int]]]:
    """A grid of panels, filled row by row; any number of them has room.

    Args:
        titles: of the panels.
        across: most panels beside each other.
        options: of plotly's `make_subplots`.

    Returns:
        The figure, and the keyword arguments `row` and `col` of each panel.
    """
    across = min(across, len(titles))
    down = -(-len(titles) // across)
    spacing = {"horizontal_spacing": 0.12 / across, "vertical_spacing": 0.28 / down}
    figure = make_subplots(rows=down, cols=across, subplot_titles=list(titles), **(spacing | options))
    return figure, [{"row": index // across + 1, "col": index % across + 1} for index in range(len(titles))]


def height_of(at: Sequence[Mapping[str, int]], of_row: int) -> int:
    """Height in pixels of a figure with these `panels`, whose rows need so many pixels each."""
    return max(500, 180 + of_row * max(panel["row"] for panel in at))


def headline(comparison: pd.DataFrame, splits: Sequence[str]) -> pd.DataFrame:
    """NDCG@20 of every arm and group of some splits."""
    return comparison[(comparison[METRIC] == HEADLINE_METRIC) & comparison[SPLIT].isin(splits)]


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


def _lighter(colour: str, share: float) -> str:
    channels = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) * share):02x}" for channel in channels)
