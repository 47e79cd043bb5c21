"""What is trained: its name, its parameters, its key."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fairrec_pipeline.arms.spec import Plan, point_name
from fairrec_pipeline.interactions.prepared import PreparedData
from tests.worlds import random_histories, spec_of, user_groups

ENVIRONMENT = {"code": "c", "torch": "2", "device": "cpu"}


def data(**changes: Any) -> PreparedData:
    train = random_histories([3, 4])
    fingerprints = {"pop33": "p", "seq33": "s", "segment": "x"}
    return PreparedData(train, train, train, "f", "small", {"core": 5}, user_groups(2), fingerprints, **changes)


def key(
    arm: str = "erm", world: PreparedData | None = None, environment: dict[str, str] = ENVIRONMENT, **changes: Any
) -> str:
    return spec_of(arm, **changes).key(world or data(), environment)


def test_the_name_is_that_of_the_arm() -> None:
    assert (spec_of("cvar").name, spec_of("gdro-pop33").name) == ("cvar", "gdro-pop33")
    assert spec_of("cvar", seed=3, point={"alpha": 0.3}).label == "cvar seed 3 alpha=0.3"
    assert [point_name(point) for point in ({"a": 1, "b": 3}, {})] == ["a=1-b=3", "only"]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"filter_seen": True},
        {"model": {"dim": 16}},
        {"train": {"epochs": 3}},
        {"train": {"learning_rate": 0.02}},
        {"arm": "cvar"},
        {"world": dataclasses.replace(data(), fingerprint="g")},
        {"environment": ENVIRONMENT | {"code": "d"}},
        {"environment": ENVIRONMENT | {"torch": "3"}},
        {"environment": ENVIRONMENT | {"device": "cuda"}},
    ],
)
def test_whatever_decides_the_result_is_in_the_key(changes: dict[str, Any]) -> None:
    assert key(**changes) != key()


@pytest.mark.parametrize(
    "changes", [{"train": {"checkpoint_seconds": 9.0}}, {"train": {"workers": 4}}, {"point": {"train.epochs": 2}}]
)
def test_what_does_not_decide_it_is_not(changes: dict[str, Any]) -> None:
    assert key(**changes) == key()


def test_only_the_groups_that_a_loss_is_told_decide_its_training() -> None:
    def with_groups(**fingerprints: str) -> PreparedData:
        before = data()
        return dataclasses.replace(before, group_fingerprints={**before.group_fingerprints, **fingerprints})

    assert key("erm", with_groups(pop33="q")) == key("erm")
    assert key("gdro-pop33", with_groups(pop33="q")) != key("gdro-pop33")
    assert key("gdro-pop33", with_groups(segment="y", another="z")) == key("gdro-pop33")
    assert key("gdro-atomic", with_groups(seq33="q")) != key("gdro-atomic")
    assert key("gdro-segment", with_groups(seq33="q")) == key("gdro-segment")


def test_a_key_is_the_name_of_a_file_whatever_the_groups_are_called() -> None:
    assert "/" not in key("gdro-a/b")
    assert key("gdro-a/b") != key("gdro-a_b")


def test_the_points_of_an_arm_belong_together() -> None:
    specs = [spec_of("erm"), *(spec_of("cvar", {"alpha": a}, point={"alpha": a}) for a in (0.2, 0.9))]
    plan = Plan(name="p", specs=tuple(specs), seeds=(0, 1))
    assert {arm: [spec.point for spec in points] for arm, points in plan.arms.items()} == {
        "erm": [{}], "cvar": [{"alpha": 0.2}, {"alpha": 0.9}],
    }  # fmt: skip
    repeat = plan.arms["cvar"][1].with_seed(4)
    assert (repeat.seed, repeat.point, repeat.objective.options.model_dump()) == (4, {}, {"alpha": 0.9})


def test_a_spec_has_the_blocks_themselves() -> None:
    spec = spec_of("sdro-seq33", {"eta": 0.5})
    assert spec.objective.options.model_dump()["eta"] == 0.5
    longer = spec.with_train(epochs=np.int64(9).item())
    assert (longer.train.epochs, spec.train.epochs) == (9, 2)
    parameters = spec.parameters(data())
    assert parameters["sdro"]["eta"] == 0.5
    assert parameters["loss_groups"] == "seq33"
    assert "checkpoint_seconds" not in parameters["train"]
    assert parameters["split"] == {"core": 5}
