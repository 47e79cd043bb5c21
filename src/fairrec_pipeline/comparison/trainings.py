"""Every training behind a comparison: how it went, what it cost, where it stands between overall and worst group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fairrec_pipeline.comparison.comparison import TrainedArm, flat
from fairrec_pipeline.metrics.by_group import HEADLINE_METRIC, OVERALL, STANDARD_SPLITS
from fairrec_pipeline.interactions.columns import USER

VALIDATION_NDCG = "validation_ndcg_at_20"
SEED, GRID, UNTRAINED = "seed", "grid", "untrained"
CURVE_COLUMNS = (
    *("arm", "seed", "epoch", "step", "seconds", "training_loss", VALIDATION_NDCG, "learning_rate", "selected"),
)
_TYPES = {
    **dict.fromkeys(("arm", "loss", "kind", "point", "option", "worst_group", "device"), "string"),
    **dict.fromkeys(("seed", "epochs", "warm_start_steps"), "Int64"),
    "selected": "bool",
    **dict.fromkeys(
        (
            "option_value",
            VALIDATION_NDCG,
            "overall",
            "worst",
            *(f"gap_{split}" for split in STANDARD_SPLITS),
            "seconds",
        ),
        "float64",
    ),
}


def training_curves(runs: Iterable[TrainedArm]) -> pd.DataFrame:
    """How the compared trainings went, epoch by epoch.

    Args:
        runs: compared runs; those without a history are left out.

    Returns:
        Columns arm, seed, epoch, step (optimiser steps so far; null where the card does not say), seconds (since the
        start), training_loss, validation_ndcg_at_20, learning_rate, selected (the epoch whose weights were kept), and
        whatever a method tells of itself (group_weight_<g>, ...), null for the other methods.
    """
    frames = []
    for run in runs:
        if run.history is None or run.history.empty:
            continue
        history = run.history.rename(columns={"loss": "training_loss"}).assign(arm=run.arm, seed=run.seed)
        steps = run.parameters.get("train.steps_per_epoch")
        history["step"] = history["epoch"] * (np.nan if steps is None else float(steps))
        history["selected"] = history["epoch"] == run.card.get("best_epoch")
        frames.append(history)
    if not frames:
        return pd.DataFrame({name: pd.Series(dtype="float64") for name in CURVE_COLUMNS})
    curves = pd.concat(frames, ignore_index=True)
    told = [name for name in curves.columns if name not in CURVE_COLUMNS]
    return curves.reindex(columns=[*CURVE_COLUMNS, *told])


def trainings(runs: Iterable[TrainedArm], user_groups: pd.DataFrame) -> pd.DataFrame:
    """Every training, seeds and points of grids alike, with its NDCG@20 on validation and test.

    Args:
        runs: compared runs and untrained arms.
        user_groups: see `group_metrics.membership`.

    Returns:
        One row per compared run (kind `seed`), untrained arm (`untrained`) and point of a grid (`grid`; the winner's
        row is there beside its run's): arm, loss, kind, seed, point, option and option_value (null unless exactly one
        option is tuned, with numbers), selected (its options are those of the compared run), validation_ndcg_at_20; on
        test overall, worst, worst_group (of pop33 and seq33), gap_pop33, gap_seq33 (null where the test was not kept);
        seconds, epochs, device, warm_start_steps.
    """
    labels = {split: user_groups[split] for split in STANDARD_SPLITS if split in user_groups}
    rows: list[dict[str, Any]] = []
    for run in runs:
        ndcg = run.user_metrics.set_index(USER)[HEADLINE_METRIC].reindex(user_groups[USER]).to_numpy()
        tested = {"overall": float(run.user_metrics[HEADLINE_METRIC].mean())}
        for split, groups in labels.items():
            means = pd.Series(ndcg).groupby(groups.to_numpy()).mean().dropna()
            tested |= {f"{split}/{group}": float(mean) for group, mean in means.items()}
        kind = UNTRAINED if run.seed is None else SEED
        about = {"arm": run.arm, "loss": run.loss, "kind": kind, "seed": run.seed, "selected": True}
        rows.append(about | _of_card(run.card) | _extremes(tested))
        rows += _grid(run)
    return pd.DataFrame(rows).reindex(columns=list(_TYPES)).astype(_TYPES)


def worst_and_gaps(values: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    """Worst group over the balanced splits and the gap of each.

    Args:
        values: by (split, group).

    Returns:
        worst, worst_group, gap_<split>; empty without the balanced splits.
    """
    balanced = {place: value for place, value in values.items() if place[0] in STANDARD_SPLITS}
    if not balanced:
        return {}
    worst = min(balanced, key=lambda place: balanced[place])
    found: dict[str, Any] = {"worst": balanced[worst], "worst_group": worst[1]}
    for split in STANDARD_SPLITS:
        own = [value for place, value in balanced.items() if place[0] == split]
        if own:
            found[f"gap_{split}"] = max(own) - min(own)
    return found


def budgets(table: pd.DataFrame) -> pd.DataFrame:
    """What an arm cost and how far it was tuned.

    Args:
        table: from `trainings`.

    Returns:
        Index arm (trained ones); columns points (trainings of the grid, 1 if there was none), runs (compared seeds),
        seconds (mean of a compared run), total_seconds (compared runs and all points, the winner counted once), device,
        warm_start_steps.
    """
    found = {}
    for arm, own in table[table["kind"] != UNTRAINED].groupby("arm", sort=False):
        compared, grid = own[own["kind"] == SEED], own[own["kind"] == GRID]
        once_more = grid[~(grid["selected"] & grid[SEED].isin(compared[SEED]))]
        seconds = compared["seconds"].sum(min_count=1) + once_more["seconds"].sum()
        found[arm] = {
            "points": max(1, grid["point"].nunique()),
            "runs": len(compared),
            "seconds": compared["seconds"].mean(),
            "total_seconds": seconds,
            "device": ", ".join(dict.fromkeys([*compared["device"].dropna(), *grid["device"].dropna()])) or "-",
            "warm_start_steps": int(compared["warm_start_steps"].fillna(0).max()),
        }
    columns = ["points", "runs", "seconds", "total_seconds", "device", "warm_start_steps"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns)


def _grid(run: TrainedArm) -> list[dict[str, Any]]:
    """The points of the run's grid, what older versions did not write left null."""
    points = run.tuning_runs or []
    chosen = flat(run.card.get("parameters", {}))
    options = [point.get("options") or _options(point.get("card") or {}) for point in points]
    tuned = [name for name in dict.fromkeys(name for each in options for name in each) if _varies(options, name)]
    rows = []
    for point, own in zip(points, options, strict=True):
        card = point.get("card") or {}
        only = own.get(tuned[0]) if len(tuned) == 1 else None
        numeric = isinstance(only, int | float) and not isinstance(only, bool)
        about = {
            "arm": run.arm,
            "loss": run.loss,
            "kind": GRID,
            "seed": point.get("seed", card.get("seed", run.seed)),
            "point": point.get("point"),
            "option": tuned[0] if numeric else None,
            "option_value": only if numeric else None,
            "selected": all(chosen.get(name if "." in name else f"{run.loss}.{name}") == own[name] for name in own),
        }
        rows.append(about | _of_card(card) | _extremes(point.get("test_ndcg_at_20") or {}))
    return rows


def _varies(options: list[dict[str, Any]], name: str) -> bool:
    return len({str(each.get(name)) for each in options}) > 1


def _options(card: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the card's loss."""
    prefix = f"{card.get('loss')}."
    parameters = flat(card.get("parameters", {}))
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}


def _of_card(card: Mapping[str, Any]) -> dict[str, Any]:
    taken: dict[str, Any] = {name: card.get(name) for name in (VALIDATION_NDCG, "seconds", "epochs", "device")}
    return taken | {"warm_start_steps": flat(card.get("parameters", {})).get("train.warm_start_steps")}


def _extremes(tested: Mapping[str, float]) -> dict[str, Any]:
    """From names such as `overall` and `pop33/niche`."""
    groups = {(split, group): value for name, value in tested.items() for split, _, group in [name.partition("/")]}
    return {"overall": tested.get(OVERALL)} | worst_and_gaps({place: v for place, v in groups.items() if place[1]})
