"""Grids: their points, and the one that is kept.

The protocol is the paper's (section 3.1): the point with the highest overall NDCG@20 on validation. What a point scores
on test is looked at afterwards, for the curve in the report, and never decides anything.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fairrec_pipeline.metrics.by_group import HEADLINE_METRIC, metric_names
from fairrec_pipeline.experiments.train_arm import ArmData, Card, Training, Trials, evaluate_model, train_arm
from fairrec_pipeline.training.fit import DivergenceError

Grid = Mapping[str, Sequence[Any]]
DIVERGED = "diverged"
"""Key of a card that says why its training has no result."""


def grid_points(grid: Grid) -> list[dict[str, Any]]:
    """Every combination of the values; one empty point without values."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def point_name(point: Mapping[str, Any]) -> str:
    """`alpha=0.3`, or `-` separated."""
    return "-".join(f"{option}={value}" for option, value in point.items()) or "only"


def best_point(cards: Sequence[Card]) -> int:
    """Place of the card with the highest validation NDCG@20, the first among equals.

    Raises:
        DivergenceError: no point has a result.
    """
    scores = [-math.inf if DIVERGED in card else float(card["validation_ndcg_at_20"]) for card in cards]
    best = max(range(len(scores)), key=scores.__getitem__)
    if scores[best] == -math.inf:
        card = cards[0]
        message = f"no training of {card['arm']} with seed {card['seed']} has a result. {card[DIVERGED]}"
        raise DivergenceError(message)
    return best


def tuning_runs(
    points: Sequence[Mapping[str, Any]], base: Training, cards: Sequence[Card], data: ArmData, trials: Trials
) -> list[dict[str, Any]]:
    """What there is to report of every point, its test metrics included; for after the selection.

    Args:
        points: of the grid.
        base: the training whose options the points replace.
        cards: of the points, in the same order.

    Returns:
        One JSON-able entry a point: point, options, seed, card, history (rows), test_ndcg_at_20 (by `overall`,
        `pop33/niche`, ...); history and test_ndcg_at_20 are empty where the training diverged.
    """
    prefix = f"test/{HEADLINE_METRIC}/"
    runs = []
    for point, card in zip(points, cards, strict=True):
        history: list[dict[str, Any]] = []
        tested: dict[str, float] = {}
        training = base.at(point)
        if DIVERGED not in card:
            trained = train_arm(training, data, trials)
            history = [{str(name): value for name, value in row.items()} for row in _rows(trained.fitted.history)]
            _, by_group = evaluate_model(
                trained.snapshot, data.test, data.user_groups, filter_seen=base.filter_seen, device=base.device
            )
            names = metric_names(by_group).items()
            tested = {name.removeprefix(prefix): value for name, value in names if name.startswith(prefix)}
        runs.append(
            {
                "point": point_name(point),
                "options": dict(point),
                "seed": training.seed,
                "card": card,
                "history": history,
                "test_ndcg_at_20": tested,
            }
        )
    return runs


def _rows(frame: Any) -> list[dict[Any, Any]]:
    rows: list[dict[Any, Any]] = frame.to_dict("records")
    return rows
