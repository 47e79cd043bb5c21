"""What people read in MLflow's pages: a table of arms with few columns, and a description of every run."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from fairrec_pipeline.arms.record import DIVERGED, Card

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

NOTE = "mlflow.note.content"
"""Tag of an experiment, run or model that MLflow shows as its description, in Markdown."""

_BEST = "validation/best_ndcg_at_20"
_COLUMNS = ("test/ndcg_at_20/overall", "test/ndcg_at_20/worst_group", _BEST)
_VIEW = "arms"
_KEPT = ("ndcg_at_20", "recall_at_20")


def describe_experiment(client: MlflowClient, experiment: str) -> None:
    """Have the experiment open on its runs, and link to the table of arms with the columns that matter.

    MLflow's table shows no metrics until one chooses them, and that choice is kept in the browser. But it reads a
    shared view from a tag of the experiment.
    """
    view = {
        "selectedColumns": ["attributes.`Dataset`", *(f"metrics.`{name}`" for name in _COLUMNS), "params.`seed`"],
        "orderByKey": f"metrics.`{_COLUMNS[0]}`",
        "orderByAsc": False,
    }
    note = (
        f"**[Arms, best first](#/experiments/{experiment}/runs?viewStateShareKey={_VIEW})**: NDCG@20 on test over all "
        "users and over the worst group, and on validation. A run is an arm with a seed; its description has the "
        "numbers in words, `group_metrics.csv` among its artifacts those of every group."
    )
    tags = {"mlflow.experimentKind": "custom_model_development", f"mlflow.sharedViewState.{_VIEW}": json.dumps(view)}
    present = client.get_experiment(experiment).tags
    for name, value in (tags | {NOTE: present.get(NOTE, note)}).items():  # a description of the user stays
        if present.get(name) != value:
            client.set_experiment_tag(experiment, name, value)


def headline_metrics(card: Card, by_group: pd.DataFrame | None) -> dict[str, float]:
    """The metrics of a run beside those of its epochs.

    They are seconds, epochs, the validation NDCG@20 of the weights that are kept, and NDCG@20 and recall@20 on test:
    overall, of the worst group, and of the groups of pop33 and seq33.

    Args:
        card: of the training.
        by_group: from `metrics.by_group.group_metrics`; None where the arm was not tested.
    """
    from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
    from fairrec_pipeline.metrics.by_group import METRIC, OVERALL, SPLIT, metric_names

    values = {"seconds": float(card["seconds"]), "epochs": float(card["epochs"])}
    validated = float(card.get("validation_ndcg_at_20", math.nan))
    if math.isfinite(validated):
        values[_BEST] = validated
    if by_group is not None:
        kept = by_group[METRIC].isin(_KEPT) & by_group[SPLIT].isin([OVERALL, *STANDARD_SPLITS])
        values |= metric_names(by_group[kept])
    return values


def describe_run(card: Card, by_group: pd.DataFrame | None) -> str:
    """What a run is, and what came out, in Markdown; for the arguments see `headline_metrics`."""
    from fairrec_pipeline.metrics.by_group import extremes, group_means

    about = f"**{card['arm']}**, seed {card['seed']}, on {card['dataset']}"
    if DIVERGED in card:
        return f"{about}: no result. {card[DIVERGED]}"
    trained = (
        f"{card['epochs']} epochs, {card['seconds']:.0f} s on {card['device']}; kept is epoch {card['best_epoch']}"
    )
    values = headline_metrics(card, by_group)
    worst = None if by_group is None else extremes(group_means(by_group))
    rows = [
        ("validation", values.get(_BEST)),
        ("test, all users", values.get(_COLUMNS[0])),
        (f"test, worst group ({worst.worst_group})" if worst else "", values.get(_COLUMNS[1])),
    ]
    table = "\n".join(f"| {name} | {value:.4f} |" for name, value in rows if value is not None)
    return f"{about}: {trained}.\n\n| NDCG@20 | |\n|---|---|\n{table}\n"
