"""Promotion: validation decides by the rule, over the seeds of an arm, and test metrics decide nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fairrec_pipeline.arms.record import PARTS, ArmRecord
from fairrec_pipeline.comparison.promotion import choose, judge
from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.parameters.blocks import Promote
from tests.worlds import compared_groups, metrics_of, record_at, user_groups, with_parts

GROUPS = compared_groups()
NICHE = (GROUPS["pop33"] == "niche").to_numpy()
OVERALL = Promote(rule="best_overall", within=1.0)


def worst_within(percent: float) -> Promote:
    return Promote(rule="best_worst_group", within=percent)


def arm(name: str, overall: float, niche: float, seed: int = 0, test: float = 0.5) -> ArmRecord:
    """Validation of 240 users, a third of whom are niche and have their own level."""
    others = (overall * len(NICHE) - niche * NICHE.sum()) / (~NICHE).sum()
    validated = metrics_of(np.where(NICHE, niche, others))
    return with_parts(record_at(test, name, seed), validation_user_metrics=validated)


def chosen(rule: Promote, *records: ArmRecord) -> tuple[str, int | None]:
    candidate = choose(judge(records, GROUPS), rule)
    return candidate.arm, candidate.best.seed


ERM, CVAR, GDRO = arm("erm", 0.50, 0.20), arm("cvar", 0.497, 0.30), arm("gdro-pop33", 0.40, 0.39)


def test_the_rules() -> None:
    assert chosen(OVERALL, ERM, CVAR, GDRO) == ("erm", 0)
    assert chosen(worst_within(1.0), ERM, CVAR, GDRO) == ("cvar", 0)
    assert chosen(worst_within(20.1), ERM, CVAR, GDRO) == ("gdro-pop33", 0)
    assert chosen(worst_within(0.0), ERM, CVAR, GDRO) == ("erm", 0), "the best overall itself is always good enough"


def test_an_arm_is_judged_by_the_mean_over_its_seeds_and_its_best_seed_is_shipped() -> None:
    lucky = [arm("cvar", level, 0.2, seed) for seed, level in enumerate((0.30, 0.60, 0.30))]
    steady = [arm("erm", level, 0.2, seed) for seed, level in enumerate((0.45, 0.44, 0.46))]
    assert chosen(OVERALL, *lucky, *steady) == ("erm", 2)
    assert chosen(OVERALL, *lucky) == ("cvar", 1)
    (candidate,) = judge(lucky, GROUPS)
    assert (candidate.n_seeds, candidate.worst_group) == (3, "niche")
    assert (candidate.overall, candidate.worst) == (pytest.approx(0.4), pytest.approx(0.2))


def test_test_metrics_decide_nothing() -> None:
    """They are not even opened; and whatever they are, the choice is the same."""
    for level in (0.0, 1.0):
        assert chosen(OVERALL, arm("erm", 0.5, 0.2, test=level), arm("cvar", 0.4, 0.3, test=1 - level)) == ("erm", 0)

    def closed(record: ArmRecord) -> ArmRecord:
        def open_part(name: str) -> Any:
            assert name == "validation_user_metrics", name
            return record.open_part(name)

        return ArmRecord(record.card, open_part)

    for rule in (OVERALL, worst_within(1.0)):
        assert chosen(rule, *map(closed, (ERM, CVAR, GDRO))) == chosen(rule, ERM, CVAR, GDRO)


def test_the_first_among_equals() -> None:
    assert chosen(OVERALL, arm("erm", 0.5, 0.2), arm("cvar", 0.5, 0.3)) == ("erm", 0)
    assert chosen(OVERALL, arm("erm", 0.5, 0.2, seed=0), arm("erm", 0.5, 0.2, seed=1)) == ("erm", 0)


def test_untrained_arms_are_not_shipped() -> None:
    assert chosen(OVERALL, record_at(0.9, "popularity", None), ERM) == ("erm", 0)
    with pytest.raises(FairrecError, match=r"no trained arm to promote\. Train one first: kedro run --pipeline=train"):
        chosen(OVERALL, record_at(0.9, "popularity", None))


def test_groups_that_the_data_do_not_have() -> None:
    groups = user_groups(240).drop(columns=["pop33", "seq33"])
    (candidate,) = judge([ERM], groups)
    assert (candidate.worst, candidate.worst_group) == (None, None)
    assert choose([candidate], OVERALL) is candidate
    with pytest.raises(FairrecError, match=r"needs the splits pop33 and seq33.*promote\.rule=best_overall"):
        choose([candidate], worst_within(1.0))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("erm", "--pipeline=train --params loss=erm,seed=0"),
        ("gdro-pop33", "--pipeline=train --params loss=gdro,loss_groups=pop33,seed=0"),
        ("erm@deep", "--pipeline=experiment --params experiment=<one that names erm@deep>,seed=0"),
    ],
)
def test_a_record_of_an_earlier_version_says_how_to_go_on(name: str, command: str) -> None:
    earlier = arm(name, 0.5, 0.2)
    parts = {part: earlier.open_part(part) for part in PARTS if part != "validation_user_metrics"}
    with pytest.raises(FairrecError, match=f"kedro run {command}$"):
        judge([ArmRecord.of(earlier.card, **parts)], pd.DataFrame())
