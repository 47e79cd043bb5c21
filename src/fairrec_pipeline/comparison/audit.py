"""What stands behind every number of the main results, so that somebody else can make it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.selection import by_arm
from fairrec_pipeline.comparison.trainings import budgets
from fairrec_pipeline.metrics.by_group import GROUP, HEADLINE_METRIC, METRIC, N_USERS, SPLIT, VALUE


def audit(
    comparison: pd.DataFrame, records: Iterable[ArmRecord], trainings: pd.DataFrame, statistics: Mapping[str, Any]
) -> pd.DataFrame:
    """One row per cell of NDCG@20.

    Args:
        comparison: from `comparison.compare_arms`.
        records: the compared arms.
        trainings: from `trainings.trainings`.
        statistics: the `dataset_statistics` of the data pipeline.

    Returns:
        Which cell: arm, split, group, metric, n_users, value. Data: dataset, data_fingerprint, labels_fingerprint (of
        the groups of the split; empty where they are made from others), data_split (its parameters). How it was
        trained, empty for arms that were not: seeds, epochs (budget), steps_per_epoch, batch_size, tuning_points (1:
        trained as given), tuned (options of the grid), seconds (mean of a run), total_seconds (with the grid), device,
        command, commit (with `-dirty` if files differed from it), finished. file: name and SHA-256 of a foreign arm.
    """
    cost = budgets(trainings)
    prepared = statistics.get("prepared_with", {})
    labels = statistics.get("group_fingerprints", {})
    about = pd.DataFrame([_of_arm(arm, seeds, cost) for arm, seeds in by_arm(records).items()])
    cells = comparison.loc[comparison[METRIC] == HEADLINE_METRIC, ["arm", SPLIT, GROUP, METRIC, N_USERS, VALUE]]
    data = {
        "dataset": statistics["dataset"],
        "data_fingerprint": statistics["fingerprint"],
        "labels_fingerprint": cells[SPLIT].map(labels).fillna("").astype("string"),
        "data_split": " ".join(f"{name}={value}" for name, value in prepared.get("split", {}).items()),
    }
    return cells.assign(**data).merge(about, on="arm", validate="many_to_one")


def _of_arm(arm: str, seeds: Sequence[ArmRecord], cost: pd.DataFrame) -> dict[str, Any]:
    first = seeds[0]
    spent: Mapping[Any, Any] = cost.loc[arm].to_dict() if arm in cost.index else {}
    card = first.card
    return {
        "arm": arm,
        "seeds": _each(record.seed for record in seeds),
        **{name: first.parameters.get(f"train.{name}", "") for name in ("epochs", "steps_per_epoch", "batch_size")},
        "tuning_points": spent.get("points", ""),
        "tuned": _each(name for record in seeds for point in record.tuning_runs or [] for name in point["options"]),
        **{name: spent.get(name, "") for name in ("seconds", "total_seconds", "device")},
        **{name: _each((record.card.get(name) for record in seeds), "; ") for name in ("command", "commit")},
        "finished": max(str(record.card.get("finished", "")) for record in seeds),
        "file": f"{card['file']} {card['file_sha256']}" if "file" in card else "",
    }


def _each(values: Iterable[Any], between: str = ", ") -> str:
    """Every value once, in order."""
    return between.join(dict.fromkeys(str(value) for value in values if value is not None))
