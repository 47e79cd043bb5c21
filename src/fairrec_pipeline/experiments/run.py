"""A whole experiment: arms, their grids and seeds; what is shared is trained once, what is complete is not touched."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fairrec_pipeline.experiments.train_arm import (
    ArmData,
    Card,
    Training,
    Trials,
    evaluate_model,
    evaluation_fingerprint,
    train_arm,
)
from fairrec_pipeline.training.checkpoint import Snapshot
from fairrec_pipeline.experiments.grid import Grid, best_point, grid_points, point_name, tuning_runs
from fairrec_pipeline.experiments.executors import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArmOfExperiment:
    """An arm, with what is tried for it.

    Attributes:
        training: with the experiment's first seed and the arm's options outside of the grid.
        grid: values of its grid; None if it is not tuned.
    """

    training: Training
    grid: Grid | None

    @property
    def points(self) -> list[dict[str, Any]]:
        return grid_points(self.grid or {})


@dataclass(frozen=True)
class ArmResult:
    """What an arm leaves behind for one seed.

    Attributes:
        model, training_history, user_weights, run_card, user_metrics, group_metrics: as the train pipeline has them.
        tuning_runs: the points of its grid (see `grid.tuning_runs`); None if it was not tuned with this seed.
    """

    model: Snapshot
    training_history: pd.DataFrame
    user_weights: pd.DataFrame
    run_card: Card
    user_metrics: pd.DataFrame
    group_metrics: pd.DataFrame
    tuning_runs: list[dict[str, Any]] | None


@dataclass(frozen=True)
class SavedArm:
    """What is left of an earlier result: its card, and the names of its grid's trainings if it was tuned."""

    card: Card
    tried: list[str] | None

    def is_of(self, training: str, tried: Sequence[str] | None) -> bool:
        """Whether this is the result of that training (and of that grid), as the present code would evaluate it."""
        return (
            self.card.get("training") == training
            and self.card.get("evaluation_code") == evaluation_fingerprint()
            and (tried is None or self.tried == list(tried))
        )


def run_experiment(
    arms: Sequence[ArmOfExperiment],
    seeds: Sequence[int],
    data: ArmData,
    trials: Trials,
    saved: Mapping[tuple[str, int], SavedArm],
    *,
    at_once: int = 1,
    description: str = "experiment",
) -> Iterator[ArmResult]:
    """Train every arm with every seed and evaluate it.

    Every point of an arm's grid is trained with the first seed; the one with the best overall validation NDCG@20 is
    then trained with the other seeds. The first seed of all arms comes before the second, so that an interrupted
    experiment has a table.

    Args:
        arms: the trainings have the first of the seeds.
        saved: results of arms and seeds that are already there; those that would come out the same are left out.
        at_once: trainings side by side.

    Yields:
        The results that are not saved yet, as soon as they are complete.

    Raises:
        DivergenceError: every point of an arm diverged, or a winner does with another seed.
    """
    total = sum(len(arm.points) + len(seeds) - 1 for arm in arms)
    with Trainer(data, trials, at_once=at_once, total=total, description=description) as trainer:
        searches = [
            [trainer.submit(arm.training.at(point), _label(arm.training, point)) for point in arm.points]
            for arm in arms
        ]
        repeats = []
        for arm, search in zip(arms, searches, strict=True):
            cards = [card() for card in search]
            winner = arm.training.at(arm.points[best_point(cards)])
            repeats += [
                (repeat, trainer.submit(repeat, _label(repeat, {}))) for repeat in map(winner.with_seed, seeds[1:])
            ]
            tried = None if arm.grid is None else [card["training"] for card in cards]
            if _missing(winner, tried, data, saved):
                runs = None if tried is None else tuning_runs(arm.points, arm.training, cards, data, trials)
                yield _result(winner, data, trials, runs)
        for repeat, card in repeats:
            best_point([card()])  # a training that diverged has no result
            if _missing(repeat, None, data, saved):
                yield _result(repeat, data, trials, None)


def _label(training: Training, point: Mapping[str, Any]) -> str:
    return f"{training.arm} seed {training.seed}" + (f" {point_name(point)}" if point else "")


def _missing(
    training: Training, tried: Sequence[str] | None, data: ArmData, saved: Mapping[tuple[str, int], SavedArm]
) -> bool:
    there = saved.get((training.arm, training.seed))
    if there is None or not there.is_of(training.name(data), tried):
        return True
    logger.info("%s with seed %d is complete", training.arm, training.seed)
    return False


def _result(training: Training, data: ArmData, trials: Trials, runs: list[dict[str, Any]] | None) -> ArmResult:
    trained = train_arm(training, data, trials, _label(training, {}))
    by_user, by_group = evaluate_model(
        trained.snapshot, data.test, data.user_groups, filter_seen=training.filter_seen, device=training.device
    )
    return ArmResult(
        model=trained.snapshot,
        training_history=trained.fitted.history,
        user_weights=trained.user_weights,
        run_card=trained.card,
        user_metrics=by_user,
        group_metrics=by_group,
        tuning_runs=runs,
    )
