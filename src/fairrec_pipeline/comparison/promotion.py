"""Which arm is shipped. Validation decides; test metrics are not read here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.selection import by_arm
from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.metrics.by_group import HEADLINE_METRIC, OVERALL, extremes, group_means, group_metrics
from fairrec_pipeline.parameters.blocks import Promote
from fairrec_pipeline.parameters.methods import training_command


@dataclass(frozen=True)
class Candidate:
    """What validation says of an arm: means over its seeds, of NDCG@20 over users.

    Attributes:
        arm: its name.
        n_seeds: how many seeds count.
        overall: over all validation users.
        worst: of the worst group of pop33 and seq33; None without these splits.
        worst_group: its name.
        best: the seed with the highest value over all users, the lowest seed among equals.
    """

    arm: str
    n_seeds: int
    overall: float
    worst: float | None
    worst_group: str | None
    best: ArmRecord

    @property
    def numbers(self) -> dict[str, Any]:
        """The same as JSON values; of the best seed its number."""
        return {name: value for name, value in vars(self).items() if name != "best"} | {"best_seed": self.best.seed}


def judge(records: Sequence[ArmRecord], user_groups: pd.DataFrame) -> list[Candidate]:
    """What validation says of every trained arm, in the order of the records.

    Args:
        records: that may stand in one table (see `selection.select_arms`); untrained arms are left out, since there is
            no model to ship.
        user_groups: one row per user (see `by_group.membership`).

    Raises:
        FairrecError: a record has no validation metrics by user.
    """
    trained = by_arm(record for record in records if record.seed is not None)
    return [_candidate(arm, seeds, user_groups) for arm, seeds in trained.items()]


def choose(candidates: Sequence[Candidate], rule: Promote) -> Candidate:
    """The arm that the rule prefers, the first among equals.

    Raises:
        FairrecError: there is no arm, or the rule needs groups that there are not.
    """
    if not candidates:
        raise FairrecError("there is no trained arm to promote. Train one first: kedro run --pipeline=train")
    best = max(candidates, key=lambda candidate: candidate.overall)
    if rule.rule == "best_overall":
        return best
    good = [candidate for candidate in candidates if candidate.overall >= best.overall * (1 - rule.within / 100)]
    worst = {candidate.arm: candidate.worst for candidate in good if candidate.worst is not None}
    if len(worst) < len(good):
        raise FairrecError(
            "promote.rule=best_worst_group needs the splits pop33 and seq33, and groups.splits has neither. Prepare "
            "the data with one of them, or use promote.rule=best_overall"
        )
    return max(good, key=lambda candidate: worst[candidate.arm])


def _candidate(arm: str, seeds: Sequence[ArmRecord], user_groups: pd.DataFrame) -> Candidate:
    of_seeds = [_means(record, user_groups) for record in seeds]
    means = {group: float(np.mean([of_seed[group] for of_seed in of_seeds])) for group in of_seeds[0]}
    worst, worst_group, _ = extremes(means) or (None, None, {})
    overall = [of_seed[OVERALL, OVERALL] for of_seed in of_seeds]
    best = seeds[overall.index(max(overall))]
    return Candidate(arm, len(seeds), means[OVERALL, OVERALL], worst, worst_group, best)


def _means(record: ArmRecord, user_groups: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Validation NDCG@20 of a seed by (split, group)."""
    validated = record.validation_user_metrics
    if validated is None:
        assert record.seed is not None  # it was trained
        raise FairrecError(
            f"{record.label} was evaluated by an earlier version, which kept no validation metrics by user. Evaluate "
            "it again, with the other parameters of its training (then nothing is trained): "
            f"{training_command(record.arm, record.seed)}"
        )
    return group_means(group_metrics(validated, user_groups), HEADLINE_METRIC)
