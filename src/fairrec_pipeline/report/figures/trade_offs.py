"""What an arm gains and what it costs: every seed and every point of a grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fairrec_pipeline.comparison.comparison import REFERENCE
from fairrec_pipeline.comparison.trainings import GRID, SEED, UNTRAINED, VALIDATION_NDCG, budgets
from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import OVERALL, VALUE
from fairrec_pipeline.report.figures.style import arm_colours, finish, headline, height_of, level_lines, panels
from fairrec_pipeline.report.tables import arms, records


def trade_off(trainings: pd.DataFrame, comparison: pd.DataFrame) -> go.Figure:
    """Worst group and gaps against overall NDCG@20: every arm, seed and point of a grid, untrained arms crossed.

    Args:
        trainings: from `trainings.trainings`.
        comparison: from `comparison.compare_arms`.
    """
    titles = {
        "worst": "worst group",
        **{f"gap_{split}": f"gap between the groups of {split}" for split in STANDARD_SPLITS},
    }
    figure, at = panels(list(titles.values()), across=3, horizontal_spacing=0.06)
    colours = arm_colours(comparison)
    tested = trainings.dropna(subset="overall")
    looks = {
        GRID: ("circle-open", 8, "point of the grid"),
        SEED: ("circle", 11, "seed"),
        UNTRAINED: ("x", 12, "not trained here"),
    }
    for (arm, kind), rows in tested.groupby(["arm", "kind"], sort=False):
        symbol, size, words = looks[str(kind)]
        names = [
            f"{row.arm}, {words} {row.point if kind == GRID else row.seed if kind == SEED else ''}"
            for row in records(rows)
        ]
        for index, quantity in enumerate(titles):
            figure.add_scatter(
                x=rows["overall"],
                y=rows[quantity],
                mode="markers",
                marker={
                    "symbol": symbol,
                    "size": size,
                    "color": colours[str(arm)],
                    "line": {"width": 2 * (kind == GRID)},
                },
                name=str(arm),
                showlegend=kind != GRID,
                text=names,
                hovertemplate="%{text}<br>overall %{x:.4f}, %{y:.4f}<extra></extra>",
                **at[index],
            )
    trained = tested.loc[tested["kind"] != UNTRAINED, "overall"]
    if not trained.empty:
        near = tested.loc[tested["overall"] > 0.5 * trained.min(), "overall"]
        margin = 0.06 * (near.max() - near.min()) + 1e-3
        figure.update_xaxes(range=[near.min() - margin, near.max() + margin])
    figure.update_xaxes(title_text="NDCG@20 overall")
    subtitle = (
        "● seed, ○ point of the grid, ✕ untrained; worst group: higher is better, gap: lower; double-click for all"
    )
    return finish(figure, "What the worst-served gain, what everybody pays", subtitle)


def option_curves(trainings: pd.DataFrame, comparison: pd.DataFrame) -> go.Figure:
    """NDCG@20 on validation and test over the values of a tuned option, one panel per arm and option.

    Args:
        trainings: from `trainings.trainings`.
        comparison: from `comparison.compare_arms`.
    """
    grid = trainings[(trainings["kind"] == GRID) & trainings["option_value"].notna()]
    curves = {f"{arm}: {option}": points for (arm, option), points in grid.groupby(["arm", "option"], sort=False)}
    figure, at = panels(list(curves))
    looks = {VALIDATION_NDCG: ("validation", "#7c7c7c", "dash"), "overall": ("test", "#d5301f", "solid")}
    for of_curve, points in zip(at, curves.values(), strict=True):
        values = points["option_value"].unique()
        if values.min() > 0 and values.max() / values.min() >= 50:
            figure.update_xaxes(type="log", **of_curve)
        for quantity, (name, colour, dash) in looks.items():
            for seed, run in points.sort_values("option_value").groupby("seed", dropna=False):
                figure.add_scatter(
                    x=run["option_value"],
                    y=run[quantity],
                    mode="lines+markers",
                    line={"color": colour, "dash": dash, "width": 2},
                    marker={
                        "size": np.where(run["selected"], 15, 7),
                        "symbol": np.where(run["selected"], "star", "circle").tolist(),
                    },
                    name=name,
                    hovertemplate=f"{name}, seed {seed}, %{{x:g}}: %{{y:.4f}}<extra></extra>",
                    **of_curve,
                )
    overall = headline(comparison, (OVERALL,)).set_index("arm")[VALUE]
    level_lines(figure, overall[[not trained or arm == REFERENCE for arm, trained in arms(comparison)]])
    shown = pd.concat([grid[VALIDATION_NDCG], grid["overall"]]).dropna()
    shown = pd.concat([shown, overall[overall > 0.5 * shown.min()]])  # lines far below would squeeze the curves
    margin = 0.1 * (shown.max() - shown.min()) + 1e-3
    figure.update_yaxes(range=[shown.min() - margin, shown.max() + margin])
    subtitle = "star: chosen, by validation; dotted: erm and untrained arms, on test"
    return finish(figure, "NDCG@20 over the tuned option", subtitle, height=height_of(at, 300))


def cost(trainings: pd.DataFrame, comparison: pd.DataFrame) -> go.Figure:
    """Seconds of every arm: its compared runs, and the rest of its grid.

    Args:
        trainings: from `trainings.trainings`.
        comparison: from `comparison.compare_arms`.
    """
    table = budgets(trainings)
    colours = arm_colours(comparison)
    runs = table["seconds"] * table["runs"]
    figure = go.Figure()
    for name, seconds, pattern in (
        ("compared runs", runs, ""),
        ("rest of the grid", table["total_seconds"] - runs, "/"),
    ):
        figure.add_bar(
            y=table.index,
            x=seconds,
            orientation="h",
            marker={"color": [colours[arm] for arm in table.index], "pattern": {"shape": pattern}},
            name=name,
            customdata=table[["points", "device"]],
            hovertemplate="%{y}: %{x:,.0f} s<br>%{customdata[0]} points<br>%{customdata[1]}" + f"<extra>{name}</extra>",
        )
    untrained = [arm for arm, trained in arms(comparison) if not trained]
    figure.add_bar(y=untrained, x=[0] * len(untrained), orientation="h", showlegend=False, text="untrained")
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="seconds")
    return finish(
        figure, "Cost of every arm", "training and validation; hatched: points of the grid that were not chosen"
    )
