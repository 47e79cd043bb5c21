"""The search of a grid.

The protocol is the paper's (section 3.1): the point with the highest overall NDCG@20 on validation. What a point scores
on test is looked at afterwards, for the curve in the report, and never decides anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairrec_pipeline.arms.record import DIVERGED, Card
from fairrec_pipeline.arms.spec import ArmSpec, point_name
from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.experiments.train_arm import record_of
from fairrec_pipeline.interactions.prepared import PreparedData
from fairrec_pipeline.metrics.by_group import HEADLINE_METRIC, METRIC, metric_names
from fairrec_pipeline.training.divergence import DivergenceError


def best_point(cards: Sequence[Card]) -> int:
    """Index of the card with the highest validation NDCG@20, the first among equals.

    Raises:
        DivergenceError: no point has a result.
    """
    scores = {n: float(card["validation_ndcg_at_20"]) for n, card in enumerate(cards) if DIVERGED not in card}
    if not scores:
        card = cards[0]
        raise DivergenceError(f"no training of {card['arm']} with seed {card['seed']} has a result. {card[DIVERGED]}")
    return max(scores, key=scores.__getitem__)


def tuning_runs(
    points: Sequence[ArmSpec], cards: Sequence[Card], data: PreparedData, store: ArmStore
) -> list[dict[str, Any]]:
    """What there is to report of every point and its card, test metrics included; for after the selection.

    Returns:
        One JSON-able entry a point: point, options, seed, card, history (rows), test_ndcg_at_20 (by `overall`,
        `pop33/niche`, ...); history and test_ndcg_at_20 are empty where the training diverged.
    """
    prefix = f"test/{HEADLINE_METRIC}/"
    runs = []
    for spec, card in zip(points, cards, strict=True):
        run = {"point": point_name(spec.point), "options": dict(spec.point), "seed": spec.seed, "card": card}
        run |= {"history": [], "test_ndcg_at_20": {}}
        if DIVERGED not in card:
            record = record_of(spec, data, store)
            metrics = record.open_part("group_metrics")
            headline = metric_names(metrics[metrics[METRIC] == HEADLINE_METRIC])
            run["card"], run["history"] = record.card, record.open_part("training_history").to_dict("records")
            run["test_ndcg_at_20"] = {name.removeprefix(prefix): mean for name, mean in headline.items()}
        runs.append(run)
    return runs
