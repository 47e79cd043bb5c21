"""A plan of arms in, their records out, one after the other as they are complete."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from fairrec_pipeline.arms.code import evaluation_fingerprint
from fairrec_pipeline.arms.record import ArmRecord, Card
from fairrec_pipeline.arms.spec import ArmSpec, Plan
from fairrec_pipeline.arms.store import ArmStore, DamagedArmError
from fairrec_pipeline.experiments.executors import Executor, LocalExecutor
from fairrec_pipeline.experiments.grid import best_point, tuning_runs
from fairrec_pipeline.experiments.train_arm import record_of
from fairrec_pipeline.interactions.prepared import PreparedData
from fairrec_pipeline.parameters.blocks import Ray

logger = logging.getLogger(__name__)


def run(
    plan: Plan, data: PreparedData, store: ArmStore, *, at_once: int = 1, ray: Ray | None = None
) -> Iterator[ArmRecord]:
    """Train every arm of a plan with every seed, and evaluate it.

    Every point of an arm's grid is trained with the first seed. The one with the best overall validation NDCG@20 is
    then trained with the other seeds. The first seed of all arms comes before the second, so that an interrupted run
    has a table. What the store has is neither trained nor yielded again.

    Args:
        at_once: trainings at once: on the CPU processes side by side, on CUDA by turns.
        ray: the cluster to train on instead.

    Yields:
        The records that the store does not have yet, as soon as they are complete. Whoever takes one saves it.

    Raises:
        DivergenceError: every point of an arm diverged, or a winner does with another seed.
    """
    total = sum(len(points) + len(plan.seeds) - 1 for points in plan.arms.values())
    with _executor(data, store, at_once, ray, total=total, description=plan.name) as executor:
        searches = [(points, [executor.submit(point) for point in points]) for points in plan.arms.values()]
        repeats = []
        for points, search in searches:
            cards = [card() for card in search]
            winner = points[best_point(cards)]
            repeats += [(spec, executor.submit(spec)) for spec in map(winner.with_seed, plan.seeds[1:])]
            tried = [card["training"] for card in cards] if winner.point else None
            if _is_missing(winner, tried, executor.key(winner), store):
                yield executor.call(_tuned_record, winner, points if tried else [], cards)
        for spec, card in repeats:
            best_point([card()])  # a training that diverged has no result
            if _is_missing(spec, None, executor.key(spec), store):
                yield executor.call(record_of, spec)


def _executor(data: PreparedData, store: ArmStore, at_once: int, ray: Ray | None, **progress: Any) -> Executor:
    if ray is None:
        return LocalExecutor(data, store, at_once=at_once, **progress)
    from fairrec_pipeline.experiments.ray_executor import RayExecutor

    return RayExecutor(data, store, ray, **progress)


def _tuned_record(
    winner: ArmSpec, points: Sequence[ArmSpec], cards: Sequence[Card], data: PreparedData, store: ArmStore
) -> ArmRecord:
    """The record of the winner among the points of a grid; without points it was not tuned."""
    return record_of(winner, data, store, tuning_runs(points, cards, data, store) if points else None)


def _is_missing(spec: ArmSpec, tried: Sequence[str] | None, key: str, store: ArmStore) -> bool:
    """Whether the store lacks the result of this training (and grid), as the present code would evaluate it."""
    try:
        record = store.find(spec.name, spec.seed)
        wanted = {"training": key, "evaluation_code": evaluation_fingerprint()}
        if record is None or not wanted.items() <= record.card.items():
            return True
        if "validation_user_metrics" not in record.card["parts"]:  # an earlier version made none
            return True
        if tried is not None and [run["card"]["training"] for run in record.tuning_runs or []] != list(tried):
            return True
        store.check(record)
    except DamagedArmError as error:
        logger.warning("%s is made again: %s", spec.label, error)
        return True
    logger.info("%s with seed %d is complete", spec.name, spec.seed)
    return False
