"""What an arm gains and what it costs: every seed and every point of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fairrec_pipeline.comparison.comparison import REFERENCE
from fairrec_pipeline.comparison.trainings import GRID, SEED, UNTRAINED, VALIDATION_NDCG, budgets
from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import VALUE
from fairrec_pipeline.report.evidence import TRAINED, Evidence, grouped
from fairrec_pipeline.report.figures.style import add_line, arm_colours, finish, height_of, level_lines, panels


def trade_off(evidence: Evidence) -> go.Figure:
    """Worst group and gaps against overall NDCG@20: every arm, seed and point of a grid, untrained arms crossed."""
    gaps = {f"gap_{split}": f"gap between the groups of {split}" for split in STANDARD_SPLITS}
    figure, at = panels({"worst": "worst group", **gaps}, across=3, horizontal_spacing=0.06)
    colours = arm_colours(evidence)
    tested = evidence.trainings.dropna(subset="overall")
    looks = {
        GRID: ("circle-open", 8, "point of the grid"),
        SEED: ("circle", 11, "seed"),
        UNTRAINED: ("x", 12, "not trained here"),
    }
    for (arm, kind), rows in grouped(tested, "arm", "kind"):
        symbol, size, words = looks[kind]
        which = rows["point"] if kind == GRID else rows["seed"].astype("string").fillna("")
        for quantity, of_quantity in at.items():
            figure.add_scatter(
                x=rows["overall"],
                y=rows[quantity],
                mode="markers",
                marker={"symbol": symbol, "size": size, "color": colours[arm], "line": {"width": 2 * (kind == GRID)}},
                name=arm,
                showlegend=kind != GRID,
                text=f"{arm}, {words} " + which,
                hovertemplate="%{text}<br>overall %{x:.4f}, %{y:.4f}<extra></extra>",
                **of_quantity,
            )
    trained = tested.loc[tested["kind"] != UNTRAINED, "overall"]
    if not trained.empty:
        near = tested.loc[tested["overall"] > 0.5 * trained.min(), "overall"]
        figure.update_xaxes(range=_around(near, 0.06))
    figure.update_xaxes(title_text="NDCG@20 overall")
    subtitle = (
        "● seed, ○ point of the grid, ✕ untrained; worst group: higher is better, gap: lower; double-click for all"
    )
    return finish(figure, "What the worst-served gain, what everybody pays", subtitle)


def option_curves(evidence: Evidence) -> go.Figure | None:
    """NDCG@20 on validation and test over the values of a tuned option, one panel per arm and option."""
    trainings = evidence.trainings
    grid = trainings[(trainings["kind"] == GRID) & trainings["option_value"].notna()]
    if grid.empty:
        return None
    curves = dict(grouped(grid, "arm", "option"))
    figure, at = panels({key: f"{key[0]}: {key[1]}" for key in curves})
    looks = {VALIDATION_NDCG: ("validation", "#7c7c7c", "dash"), "overall": ("test", "#d5301f", "solid")}
    for key, points in curves.items():
        low, high = points["option_value"].min(), points["option_value"].max()
        if low > 0 and high / low >= 50:
            figure.update_xaxes(type="log", **at[key])
        for quantity, (name, colour, dash) in looks.items():
            for seed, run in points.sort_values("option_value").groupby("seed", dropna=False):
                chosen, hover = run["selected"], f"{name}, seed {seed}, %{{x:g}}: %{{y:.4f}}"
                marker = {"size": np.where(chosen, 15, 7), "symbol": np.where(chosen, "star", "circle").tolist()}
                look: dict[str, Any] = {"color": colour, "dash": dash, "marker": marker}
                add_line(figure, at[key], run["option_value"], run[quantity], name=name, hover=hover, **look)
    overall = evidence.overall
    level_lines(figure, overall.loc[(overall["origin"] != TRAINED) | (overall["arm"] == REFERENCE), VALUE])
    shown = pd.concat([grid[VALIDATION_NDCG], grid["overall"]]).dropna()
    shown = pd.concat([shown, overall.loc[overall[VALUE] > 0.5 * shown.min(), VALUE]])  # far below: squeezes the curves
    figure.update_yaxes(range=_around(shown, 0.1))
    subtitle = "star: chosen, by validation; dotted: erm and untrained arms, on test"
    return finish(figure, "NDCG@20 over the tuned option", subtitle, height=height_of(at, 300))


def cost(evidence: Evidence) -> go.Figure | None:
    """Seconds of every arm: its compared runs, and the rest of its grid."""
    if evidence.trainings["seconds"].isna().all():
        return None
    table, colours = budgets(evidence.trainings), arm_colours(evidence)
    runs = table["seconds"] * table["runs"]
    figure = go.Figure()
    parts = {"compared runs": (runs, ""), "rest of the grid": (table["total_seconds"] - runs, "/")}
    for name, (seconds, pattern) in parts.items():
        figure.add_bar(
            y=table.index,
            x=seconds,
            orientation="h",
            marker={"color": [colours[arm] for arm in table.index], "pattern": {"shape": pattern}},
            name=name,
            customdata=table[["points", "device"]],
            hovertemplate="%{y}: %{x:,.0f} s<br>%{customdata[0]} points<br>%{customdata[1]}" + f"<extra>{name}</extra>",
        )
    untrained = [arm for arm, origin in evidence.origins.items() if origin != TRAINED]
    figure.add_bar(y=untrained, x=[0] * len(untrained), orientation="h", showlegend=False, text="untrained")
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="seconds")
    subtitle = "training and validation; hatched: points of the grid that were not chosen"
    return finish(figure, "Cost of every arm", subtitle)


def _around(values: pd.Series[float], share: float) -> list[float]:
    """A range of an axis: that of the values, and a share of its length more at either end."""
    low, high = values.min(), values.max()
    margin = share * (high - low) + 1e-3
    return [low - margin, high + margin]
