"""Figures of a comparison and of a training run, for 1200 x 700 pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fairrec_pipeline.evaluation.comparison import REFERENCE
from fairrec_pipeline.evaluation.evidence import Evidence
from fairrec_pipeline.evaluation.group_metrics import (
    ATOMIC,
    BY_TARGET,
    GROUP,
    HEADLINE_METRIC,
    METRIC,
    NEW,
    OVERALL,
    REPEAT,
    SPLIT,
    STANDARD_SPLITS,
    TARGET,
    VALUE,
)
from fairrec_pipeline.evaluation.tables import arms, extreme_groups, records
from fairrec_pipeline.evaluation.trainings import CURVE_COLUMNS, GRID, SEED, UNTRAINED, VALIDATION_NDCG, budgets

WIDTH, HEIGHT = 1200, 700
GROUP_WEIGHT = "group_weight_"
_LOSS_COLOURS = {
    "erm": "#222222",
    "cb": "#56b4e9",
    "cb_log": "#0072b2",
    "ipw": "#e6a532",
    "ipw_log": "#a06a00",
    "gdro": "#009e73",
    "sdro": "#aa4499",
    "cvar": "#d5301f",
}
_OTHER_COLOURS = ("#6a3d9a", "#b15928", "#1b9e9e", "#e7298a", "#66a61e", "#7f7f00", "#4b6cb7", "#c2185b")
_GREYS = ("#cccccc", "#acacac", "#8c8c8c", "#6c6c6c")
_GROUP_COLOURS = ("#0072b2", "#e6a532", "#d5301f", "#009e73", "#aa4499", "#56b4e9", "#7f7f00", "#222222", "#e7298a")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "star")


def draw(evidence: Evidence) -> dict[str, go.Figure]:
    """Every figure of a report by name; those that have nothing to show are left out.

    `relative_change`, `group_values`, `repeat_and_new`, `trade_off` and `learning_curves` are always there.

    Args:
        evidence: the tables of a comparison.
    """
    comparison, trainings, curves = evidence.comparison, evidence.trainings, evidence.curves
    splits = [str(split) for split in comparison[SPLIT].unique()]
    quantile = [split for split in splits if split not in STANDARD_SPLITS and _is_quantile(comparison, split)]
    by_target = [split for split in splits if split.endswith(BY_TARGET)]
    known = {OVERALL, TARGET, ATOMIC, *STANDARD_SPLITS, *quantile, *by_target}
    attributes = [split for split in splits if split not in known]
    found = {
        "relative_change": relative_change(comparison),
        "group_values": group_values(comparison),
        "worst_group": worst_group(comparison),
        "repeat_and_new": repeat_and_new(comparison),
        "trade_off": trade_off(trainings, comparison),
        "learning_curves": learning_curves(curves, comparison),
    }
    for name, title, chosen in (
        ("by_target", "NDCG@20 of repeat and new targets by group", by_target),
        ("quantile_groups", "NDCG@20 by the unbalanced groups", quantile),
        ("intersections", "NDCG@20 where popularity and length groups meet", [s for s in splits if s == ATOMIC]),
        ("attributes", "NDCG@20 by attributes, which no loss was told of unless its name says so", attributes),
    ):
        if chosen:
            found[name] = split_values(comparison, chosen, title)
    if evidence.trainings["option"].notna().any():
        found["option_curves"] = option_curves(trainings, comparison)
    if trainings["seconds"].notna().any():
        found["cost"] = cost(trainings, comparison)
    if any(name.startswith(GROUP_WEIGHT) for name in curves.columns):
        found["group_weights"] = group_weights(curves)
    if _told(curves):
        found["method_columns"] = method_columns(curves, comparison)
    if not evidence.shares.empty:
        found["lifts"] = lifts(evidence.shares)
        found["lifts_over_training"] = lifts_over_training(evidence.shares, (*STANDARD_SPLITS, ATOMIC, *attributes))
    return found


def arm_colours(comparison: pd.DataFrame) -> dict[str, str]:
    """One colour per arm: that of its loss, lighter for every further arm of the loss; grey if untrained.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    losses = comparison.drop_duplicates("arm").set_index("arm")["loss"].to_dict()
    others = [loss for loss in dict.fromkeys(losses.values()) if loss not in _LOSS_COLOURS]
    colours: dict[str, str] = {}
    seen: dict[str, int] = {}
    untrained = 0
    for arm, trained in arms(comparison):
        if not trained:
            colours[arm] = _GREYS[untrained % len(_GREYS)]
            untrained += 1
            continue
        loss = losses[arm]
        base = _LOSS_COLOURS.get(loss) or _OTHER_COLOURS[others.index(loss) % len(_OTHER_COLOURS)]
        colours[arm] = _lighter(base, min(0.22 * seen.get(loss, 0), 0.66))
        seen[loss] = seen.get(loss, 0) + 1
    return colours


def relative_change(comparison: pd.DataFrame) -> go.Figure:
    """Change of NDCG@20 against erm, in percent, per group of pop33 and seq33 (as Figures 1 and 2 of the paper).

    The axis is that of the trained arms; a bar of an untrained arm may leave it (popularity loses 98 %).

    Args:
        comparison: from `comparison.compare_arms`; without an erm arm the figure says so.
    """
    rows = _rows(comparison, STANDARD_SPLITS)
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
        _note(figure, "no erm arm, or no other trained arm, to compare")
    else:
        low, high = min(0, trained.min()), max(0, trained.max())
        figure.update_yaxes(range=[1.3 * low - 3, 1.3 * high + 3])
    subtitle = (
        "percent of erm's value in the same group; grey: untrained, cut off where they leave the trained arms' range"
    )
    return _finish(figure, "Change of NDCG@20 against erm", subtitle)


def group_values(comparison: pd.DataFrame) -> go.Figure:
    """NDCG@20 with confidence intervals, overall and per group of pop33 and seq33, untrained arms included.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    splits = (OVERALL, *STANDARD_SPLITS)
    figure = _panels(splits, widths=[0.16, 0.42, 0.42])
    _values_by_group(figure, comparison, [(split, 1, place) for place, split in enumerate(splits, start=1)])
    return _finish(figure, "NDCG@20 by group", "confidence intervals over users; grey: untrained")


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
    return _finish(figure, title, subtitle, height=max(500, 180 + 330 * down))


def worst_group(comparison: pd.DataFrame) -> go.Figure:
    """NDCG@20 of the worst group of pop33 and seq33 of each arm, with its name.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    figure = go.Figure()
    extremes = extreme_groups(comparison)
    if extremes.empty:
        _note(figure, "there are no pop33 and seq33 groups")
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
    return _finish(
        figure, "NDCG@20 of the worst group", "lowest mean among the groups of pop33 and seq33; grey: untrained"
    )


def trade_off(trainings: pd.DataFrame, comparison: pd.DataFrame) -> go.Figure:
    """Worst group and gaps against overall NDCG@20: every arm, seed and point of a grid, untrained arms crossed.

    Args:
        trainings: from `trainings.trainings`.
        comparison: from `comparison.compare_arms`.
    """
    panels = {
        "worst": "worst group",
        **{f"gap_{split}": f"gap between the groups of {split}" for split in STANDARD_SPLITS},
    }
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=list(panels.values()), horizontal_spacing=0.06)
    colours = arm_colours(comparison)
    tested = trainings.dropna(subset="overall")
    looks = {
        GRID: ("circle-open", 8, "point of the grid"),
        SEED: ("circle", 11, "seed"),
        UNTRAINED: ("x", 12, "untrained"),
    }
    for (arm, kind), own in tested.groupby(["arm", "kind"], sort=False):
        symbol, size, words = looks[str(kind)]
        names = [
            f"{row.arm}, {words} {row.point if kind == GRID else row.seed if kind == SEED else ''}"
            for row in records(own)
        ]
        for column, quantity in enumerate(panels, start=1):
            figure.add_scatter(
                x=own["overall"],
                y=own[quantity],
                mode="markers",
                marker={
                    "symbol": symbol,
                    "size": size,
                    "color": colours[str(arm)],
                    "line": {"width": 2 * (kind == GRID)},
                },
                name=str(arm),
                legendgroup=str(arm),
                showlegend=column == 1 and kind != GRID,
                text=names,
                hovertemplate="%{text}<br>overall %{x:.4f}, %{y:.4f}<extra></extra>",
                row=1,
                col=column,
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
    return _finish(figure, "What the worst-served gain, what everybody pays", subtitle)


def learning_curves(curves: pd.DataFrame, comparison: pd.DataFrame) -> go.Figure:
    """Validation NDCG@20 over optimiser steps and over seconds; the epoch whose weights were kept is marked.

    Untrained arms are dotted lines at their value on test: they have none on validation.

    Args:
        curves: from `trainings.training_curves`.
        comparison: from `comparison.compare_arms`.
    """
    titles = {"step": "over optimiser steps", "seconds": "over seconds (training and validation)"}
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=list(titles.values()), shared_yaxes=True, horizontal_spacing=0.04
    )
    colours = arm_colours(comparison)
    shown: set[str] = set()
    for (arm, seed), own in curves.groupby(["arm", "seed"], sort=False):
        kept = own["selected"].astype(bool).to_numpy()
        for column, axis in enumerate(titles, start=1):
            figure.add_scatter(
                x=own[axis],
                y=own[VALIDATION_NDCG],
                mode="lines+markers",
                line={"color": colours[str(arm)], "width": 2},
                marker={"size": np.where(kept, 11, 1), "symbol": "star"},
                name=str(arm),
                legendgroup=str(arm),
                showlegend=str(arm) not in shown,
                hovertemplate=f"{arm}, seed {seed}, {axis} %{{x:,.0f}}: %{{y:.4f}}<extra></extra>",
                row=1,
                col=column,
            )
            shown.add(str(arm))
    if curves.empty:
        _note(figure, "no history was kept")
    else:
        _untrained_lines(figure, comparison)
    figure.update_yaxes(rangemode="tozero")
    return _finish(
        figure, "Validation NDCG@20 while training", "star: the epoch that was kept; dotted: untrained, on test"
    )


def option_curves(trainings: pd.DataFrame, comparison: pd.DataFrame) -> go.Figure:
    """NDCG@20 on validation and test over the values of a tuned option, one panel per arm and option.

    Args:
        trainings: from `trainings.trainings`.
        comparison: from `comparison.compare_arms`.
    """
    grid = trainings[(trainings["kind"] == GRID) & trainings["option_value"].notna()]
    panels = list(grid.groupby(["arm", "option"], sort=False))
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    titles = [f"{arm}: {option}" for (arm, option), _ in panels]
    figure = make_subplots(rows=down, cols=across, subplot_titles=titles, vertical_spacing=0.3 / down)
    looks = {VALIDATION_NDCG: ("validation", "#7c7c7c", "dash"), "overall": ("test", "#d5301f", "solid")}
    for place, (_, own) in enumerate(panels):
        at = {"row": place // across + 1, "col": place % across + 1}
        values = own["option_value"].unique()
        if values.min() > 0 and values.max() / values.min() >= 50:
            figure.update_xaxes(type="log", **at)
        for quantity, (name, colour, dash) in looks.items():
            for seed, run in own.sort_values("option_value").groupby("seed", dropna=False):
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
                    legendgroup=name,
                    showlegend=place == 0 and bool(seed == own["seed"].min()),
                    hovertemplate=f"{name}, seed {seed}, %{{x:g}}: %{{y:.4f}}<extra></extra>",
                    **at,
                )
    _untrained_lines(figure, comparison, also=REFERENCE)
    overall = _rows(comparison, (OVERALL,))[VALUE]
    shown = pd.concat([grid[VALIDATION_NDCG], grid["overall"]]).dropna()
    shown = pd.concat([shown, overall[overall > 0.5 * shown.min()]])  # lines far below would squeeze the curves
    margin = 0.1 * (shown.max() - shown.min()) + 1e-3
    figure.update_yaxes(range=[shown.min() - margin, shown.max() + margin])
    subtitle = "star: chosen, by validation; dotted: erm and untrained arms, on test"
    return _finish(figure, "NDCG@20 over the tuned option", subtitle, height=max(500, 180 + 300 * down))


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
    return _finish(
        figure, "Cost of every arm", "training and validation; hatched: points of the grid that were not chosen"
    )


def group_weights(curves: pd.DataFrame) -> go.Figure:
    """Group weights over training, one panel per arm that keeps them.

    Args:
        curves: from `trainings.training_curves`.
    """
    columns = [name for name in curves.columns if name.startswith(GROUP_WEIGHT)]
    colours = dict(zip(columns, _cycled(_GROUP_COLOURS, len(columns)), strict=True))
    panels = list(curves[curves[columns].notna().any(axis=1)].groupby("arm", sort=False))
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        subplot_titles=[str(arm) for arm, _ in panels],
        shared_yaxes=True,
        horizontal_spacing=0.03,
    )
    shown: set[str] = set()
    for place, (_, own) in enumerate(panels, start=1):
        for seed, run in own.groupby("seed"):
            for name in (name for name in columns if run[name].notna().any()):
                group = name.removeprefix(GROUP_WEIGHT)
                figure.add_scatter(
                    x=run["step"].fillna(run["epoch"]),
                    y=run[name],
                    mode="lines",
                    line={"color": colours[name], "width": 2},
                    name=group,
                    legendgroup=group,
                    showlegend=group not in shown,
                    hovertemplate=f"{group}, seed {seed}, step %{{x:,.0f}}: %{{y:.3f}}<extra></extra>",
                    row=1,
                    col=place,
                )
                shown.add(group)
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(rangemode="tozero")
    return _finish(figure, "Group weights while training", "after each epoch; a line per seed", height=500)


def method_columns(curves: pd.DataFrame, comparison: pd.DataFrame) -> go.Figure:
    """Whatever else methods tell of themselves while training, one panel per quantity.

    Args:
        curves: from `trainings.training_curves`.
        comparison: from `comparison.compare_arms`.
    """
    columns = _told(curves)
    colours = arm_colours(comparison)
    across = min(2, len(columns))
    down = -(-len(columns) // across)
    titles = [name.replace("_", " ") for name in columns]
    figure = make_subplots(rows=down, cols=across, subplot_titles=titles, vertical_spacing=0.3 / down)
    shown: set[str] = set()
    for place, name in enumerate(columns):
        for (arm, seed), run in curves[curves[name].notna()].groupby(["arm", "seed"], sort=False):
            figure.add_scatter(
                x=run["step"].fillna(run["epoch"]),
                y=run[name],
                mode="lines",
                line={"color": colours[str(arm)], "width": 2},
                name=str(arm),
                legendgroup=str(arm),
                showlegend=str(arm) not in shown,
                hovertemplate=f"{arm}, seed {seed}, step %{{x:,.0f}}: %{{y:.4g}}<extra></extra>",
                row=place // across + 1,
                col=place % across + 1,
            )
            shown.add(str(arm))
    return _finish(
        figure, "What the methods tell of themselves", "over steps; a line per seed", height=180 + 320 * down
    )


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
    return _finish(figure, "Whom the arms trained on", subtitle, height=max(500, 220 + 22 * table.shape[1]))


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
        _note(figure, "every arm weighed its users as erm does")
        return _finish(figure, "Whom the arms trained on, over training", "", height=300)
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
        for group, colour in zip(groups, _cycled(_GROUP_COLOURS, len(groups)), strict=True):
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
    return _finish(figure, "Whom the arms trained on, over training", subtitle, height=200 + 230 * down)


def repeat_and_new(comparison: pd.DataFrame) -> go.Figure:
    """NDCG@20 of each arm where the target is in the user's history, and where it is not.

    Args:
        comparison: from `comparison.compare_arms`.
    """
    rows = _rows(comparison, (TARGET,))
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
    return _finish(figure, "NDCG@20 of repeat and new targets", "each panel has its own scale; grey: untrained")


def training_history(history: pd.DataFrame, arm: str) -> go.Figure:
    """Training loss and validation NDCG@20 per epoch of one run; the best epoch is marked.

    Args:
        history: columns epoch, loss, validation_ndcg_at_20.
        arm: for the title.
    """
    figure = make_subplots(rows=1, cols=2, subplot_titles=["training loss (nats per position)", "validation NDCG@20"])
    for column, name in enumerate(("loss", VALIDATION_NDCG), start=1):
        figure.add_scatter(
            x=history["epoch"],
            y=history[name],
            mode="lines+markers",
            line={"color": "#222222" if name == "loss" else "#d5301f", "width": 2},
            marker={"size": 5},
            showlegend=False,
            row=1,
            col=column,
        )
    if history[VALIDATION_NDCG].notna().any():
        best = history.nlargest(1, VALIDATION_NDCG).iloc[0]
        figure.add_annotation(
            x=best["epoch"],
            y=best[VALIDATION_NDCG],
            text=f"best: {best[VALIDATION_NDCG]:.4f}, epoch {best['epoch']:.0f}",
            ay=-30,
            ax=0,
            row=1,
            col=2,
        )
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(rangemode="tozero", row=1, col=2)
    return _finish(figure, f"Training of {arm}", "")


def _rows(comparison: pd.DataFrame, splits: Sequence[str]) -> pd.DataFrame:
    return comparison[(comparison[METRIC] == HEADLINE_METRIC) & comparison[SPLIT].isin(splits)]


def _is_quantile(comparison: pd.DataFrame, split: str) -> bool:
    """Its groups are those of a popularity or length split."""
    groups = set(comparison.loc[comparison[SPLIT] == split, GROUP])
    return groups <= {"niche", "diverse", "popular"} or groups <= {"short", "medium", "long"}


def _told(curves: pd.DataFrame) -> list[str]:
    """Columns that only some methods have, beside their group weights."""
    own = [name for name in curves.columns if name not in CURVE_COLUMNS and not name.startswith(GROUP_WEIGHT)]
    return [name for name in own if pd.api.types.is_numeric_dtype(curves[name]) and curves[name].notna().any()]


def _cycled(colours: Sequence[str], number: int) -> Iterable[str]:
    return (colours[place % len(colours)] for place in range(number))


def _untrained_lines(figure: go.Figure, comparison: pd.DataFrame, also: str = "") -> None:
    """A dotted line in every panel at the overall value of each untrained arm, and of one more."""
    overall = _rows(comparison, (OVERALL,))
    for row in records(overall[(overall["n_seeds"] == 0) | (overall["arm"] == also)]):
        colour = "#222222" if row.arm == also else "#a0a0a0"
        figure.add_hline(
            y=row.value,
            line={"color": colour, "dash": "dot", "width": 1.5},
            annotation={"text": row.arm, "font": {"size": 11, "color": colour}, "yshift": -2},
            annotation_position="top left",
            exclude_empty_subplots=True,
        )


def _values_by_group(figure: go.Figure, comparison: pd.DataFrame, places: Sequence[tuple[str, int, int]]) -> None:
    """Points with intervals of every arm; `places`: (split, row, column) of each panel."""
    rows = _rows(comparison, [split for split, _, _ in places])
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


def _finish(figure: go.Figure, title: str, subtitle: str, height: int = HEIGHT) -> go.Figure:
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


def _note(figure: go.Figure, text: str) -> None:
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 18})


def _lighter(colour: str, share: float) -> str:
    channels = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) * share):02x}" for channel in channels)
