"""Nodes of every pipeline that trains: a plan and prepared data in, records out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ibis

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.arms.spec import Plan
from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.comparison.selection import refuse_incomparable
from fairrec_pipeline.experiments.memory import require_memory_for
from fairrec_pipeline.experiments.run import run
from fairrec_pipeline.interactions.prepared import PreparedHistories, prepare_data
from fairrec_pipeline.parameters.blocks import Evaluate, Execution


def train_arms(
    histories: PreparedHistories,
    user_groups: ibis.Table,
    statistics: dict[str, Any],
    arms: ArmStore,
    plan: Plan,
    dataset: str,
    execution: Execution,
) -> Iterator[ArmRecord]:
    """Train and evaluate the arms of a plan that are missing; yields each when it is complete, to be saved."""
    plan.require_runnable()
    data = prepare_data(histories, user_groups.to_pandas(), statistics, dataset)
    if execution.executor == "ray":  # which asks its nodes for the memory
        yield from run(plan, data, arms, ray=execution.ray)
        return
    require_memory_for(plan, data, at_once=execution.trials_at_once)
    yield from run(plan, data, arms, at_once=execution.trials_at_once)


def check_arms(arms: ArmStore, statistics: dict[str, Any], plan: Plan, evaluate: Evaluate) -> ArmStore:
    """Make sure, before anything is trained, that the arms that are there can be compared with those of the plan.

    Raises:
        IncomparableArmsError: an arm that the comparison looks at is of other data, and the plan does not train it
            again.
    """
    planned = {(name, seed) for name in plan.arms for seed in plan.seeds}
    left = [record for record in arms.records() if (record.arm, record.seed) not in planned]
    refuse_incomparable(left, statistics, evaluate)
    return arms
