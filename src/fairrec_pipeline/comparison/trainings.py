"""Every training behind a comparison: how it went, what it cost, its overall value beside its worst group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fairrec_pipeline.arms.record import ArmRecord, flat
from fairrec_pipeline.interactions.columns import POPULARITY_RATIO, STANDARD_SPLITS, TRAIN_LENGTH, USER
from fairrec_pipeline.metrics.by_group import OVERALL, extremes, group_means, group_metrics

VALIDATION_NDCG = "validation_ndcg_at_20"
SEED, GRID, UNTRAINED = "seed", "grid", "untrained"
CURVE_COLUMNS = (
    *("arm", "seed", "epoch", "step", "seconds", "training_loss", VALIDATION_NDCG, "learning_rate", "selected"),
)
_TYPES = {
    **dict.fromkeys(("arm", "loss", "kind", "point", "option", "worst_group", "device"), "string"),
    **dict.fromkeys(("seed", "epochs", "warm_start_steps"), "Int64"),
    "selected": "bool",
    **dict.fromkeys(("option_value", VALIDATION_NDCG, "overall", "worst"), "float64"),
    **dict.fromkeys((*(f"gap_{split}" for split in STANDARD_SPLITS), "seconds"), "float64"),
}


def training_curves(records: Iterable[ArmRecord]) -> pd.DataFrame:
    """How the compared trainings went, epoch by epoch.

    Args:
        records: compared arms; those without a history are left out.

    Returns:
        Columns arm, seed, epoch, step (optimiser steps so far; null where the card does not say), seconds (since the
        start), training_loss, validation_ndcg_at_20, learning_rate, selected (the epoch whose weights were kept), and
        whatever a method reports of itself (group_weight_<g>, ...), null for the other methods.
    """
    frames = [
        record.training_history.rename(columns={"loss": "training_loss"}).assign(
            arm=record.arm,
            seed=record.seed,
            step=record.training_history["epoch"] * float(record.parameters.get("train.steps_per_epoch", np.nan)),
            selected=record.training_history["epoch"] == record.card.get("best_epoch"),
        )
        for record in records
        if record.training_history is not None and not record.training_history.empty
    ]
    if not frames:
        return pd.DataFrame({name: pd.Series(dtype="float64") for name in CURVE_COLUMNS})
    curves = pd.concat(frames, ignore_index=True)
    return curves.reindex(columns=list(dict.fromkeys([*CURVE_COLUMNS, *curves.columns])))


def trainings(records: Iterable[ArmRecord], user_groups: pd.DataFrame) -> pd.DataFrame:
    """Every training, seeds and points of grids alike, with its NDCG@20 on validation and test.

    Args:
        records: compared arms, trained and untrained.
        user_groups: see `by_group.membership`.

    Returns:
        One row per compared record (kind `seed`), untrained arm (`untrained`) and point of a grid (`grid`; the winner's
        row is there beside its record's): arm, loss, kind, seed, point, option and option_value (null unless exactly
        one option is tuned, with numbers), selected (its options are those of the compared record),
        validation_ndcg_at_20; on test overall, worst, worst_group (of pop33 and seq33), gap_pop33, gap_seq33 (null
        where the test was not kept); seconds, epochs, device, warm_start_steps.
    """
    balanced = [split for split in STANDARD_SPLITS if split in user_groups]
    no_attributes = user_groups[[USER, TRAIN_LENGTH, POPULARITY_RATIO, *balanced]]
    rows: list[dict[str, Any]] = []
    for record in records:
        kind = UNTRAINED if record.seed is None else SEED
        about = {"arm": record.arm, "loss": record.loss, "kind": kind, "seed": record.seed, "selected": True}
        means = group_means(group_metrics(record.user_metrics, no_attributes))
        rows += [about | _of_card(record.card) | _of_test(means), *_grid(record)]
    return pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)


def budgets(table: pd.DataFrame) -> pd.DataFrame:
    """What an arm cost and how far it was tuned.

    Args:
        table: from `trainings`.

    Returns:
        Index arm (trained ones); columns points (trainings of the grid, 1 if there was none), runs (compared seeds),
        seconds (mean of a compared training), total_seconds (compared trainings and all points, the winner counted
        once), device, warm_start_steps.
    """
    of_arms = {}
    for arm, rows in table[table["kind"] != UNTRAINED].groupby("arm", sort=False):
        compared, grid = rows[rows["kind"] == SEED], rows[rows["kind"] == GRID]
        not_compared = grid[~(grid["selected"] & grid[SEED].isin(compared[SEED]))]
        of_arms[arm] = {
            "points": max(1, grid["point"].nunique()),
            "runs": len(compared),
            "seconds": compared["seconds"].mean(),
            "total_seconds": compared["seconds"].sum(min_count=1) + not_compared["seconds"].sum(),
            "device": ", ".join(dict.fromkeys([*compared["device"].dropna(), *grid["device"].dropna()])) or "-",
            "warm_start_steps": int(compared["warm_start_steps"].fillna(0).max()),
        }
    columns = ["points", "runs", "seconds", "total_seconds", "device", "warm_start_steps"]
    return pd.DataFrame.from_dict(of_arms, orient="index", columns=columns)


def _grid(record: ArmRecord) -> list[dict[str, Any]]:
    """The points of the grid that the arm was chosen from."""
    points = record.tuning_runs or []
    chosen = flat(record.card.get("parameters", {}))
    names = dict.fromkeys(name for point in points for name in point["options"])
    tuned = [name for name in names if len({str(point["options"].get(name)) for point in points}) > 1]
    rows = []
    for point in points:
        options = point["options"]
        only = options.get(tuned[0]) if len(tuned) == 1 else None
        numeric = isinstance(only, int | float) and not isinstance(only, bool)
        named = {name if "." in name else f"{record.loss}.{name}": value for name, value in options.items()}
        tested = {name.partition("/"): value for name, value in (point.get("test_ndcg_at_20") or {}).items()}
        means = {(split, group or split): value for (split, _, group), value in tested.items()}
        rows.append(
            {"arm": record.arm, "loss": record.loss, "kind": GRID, "seed": point["seed"], "point": point["point"]}
            | ({"option": tuned[0], "option_value": only} if numeric else {})
            | {"selected": named.items() <= chosen.items()}
            | _of_card(point["card"])
            | _of_test(means)
        )
    return rows


def _of_card(card: Mapping[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {name: card.get(name) for name in (VALIDATION_NDCG, "seconds", "epochs", "device")}
    return about | {"warm_start_steps": flat(card.get("parameters", {})).get("train.warm_start_steps")}


def _of_test(means: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    """Overall value, worst group and gaps, from the means of groups by (split, group)."""
    overall = {"overall": means.get((OVERALL, OVERALL))}
    if (extreme := extremes(means)) is None:
        return overall
    gaps = {f"gap_{split}": gap for split, gap in extreme.gaps.items()}
    return {**overall, "worst": extreme.worst, "worst_group": extreme.worst_group, **gaps}
