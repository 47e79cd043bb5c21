"""ERM, class-balanced loss and inverse propensity weighting by hand, and how objectives are built."""

from __future__ import annotations

import math

import pytest
import torch

from fairrec_pipeline.objectives import build_objective, make_objective
from fairrec_pipeline.objectives.base import LossBatch, Population
from fairrec_pipeline.objectives.cvar import CVaR
from fairrec_pipeline.objectives.group_dro import GroupDro
from fairrec_pipeline.parameters.methods import METHODS
from tests.worlds import OPTIONS

# 3 items with 1, 3 and 6 interactions; 2 groups of 4 and 1 users with 5 interactions each
POPULATION = Population(torch.tensor([1, 3, 6]), torch.tensor([4, 1]), torch.tensor([5, 5]))
WITHOUT_GROUPS = Population(torch.tensor([1, 3, 6]))
BATCH = LossBatch(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 0, 1, 0]))


def test_erm_weighs_every_user_alike() -> None:
    objective = build_objective("erm", WITHOUT_GROUPS, {})
    q, state = objective.weights(BATCH, objective.initial_state())
    assert objective.item_weights is None
    assert q.tolist() == [0.25] * 4
    assert state == {}


def test_erm_of_positions_is_the_mean_over_the_positions() -> None:
    """One position of loss 8, three of mean 3, four of mean 1: (8 + 9 + 4) / 8 = 21 / 8; over users (8 + 3 + 1) / 3."""
    batch = LossBatch(torch.tensor([8.0, 3.0, 1.0]), lengths=torch.tensor([1, 3, 4]))
    q, state = build_objective("erm_positions", WITHOUT_GROUPS, {}).weights(batch, {})
    assert q.tolist() == [1 / 8, 3 / 8, 4 / 8]
    assert float(q @ batch.losses) == 21 / 8
    assert state == {}


def test_erm_of_positions_is_erm_where_all_have_as_many() -> None:
    batch = LossBatch(torch.tensor([8.0, 3.0, 1.0, 2.0]), lengths=torch.tensor([5, 5, 5, 5]))
    of_positions, of_users = (build_objective(loss, WITHOUT_GROUPS, {}) for loss in ("erm_positions", "erm"))
    assert torch.equal(of_positions.weights(batch, {})[0], of_users.weights(batch, {})[0])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("cb", [10 / 1, 10 / 3, 10 / 6]),  # N / f(i), N = 1 + 3 + 6
        ("cb_log", [math.log(10), math.log(10 / 3), math.log(10 / 6)]),
    ],
)
def test_class_balanced(loss: str, expected: list[float]) -> None:
    """The weight sits on the positions; users weigh 1 / B as in ERM."""
    objective = build_objective(loss, WITHOUT_GROUPS, {})
    assert objective.item_weights is not None
    torch.testing.assert_close(objective.item_weights, torch.tensor(expected))
    assert objective.weights(BATCH, {})[0].tolist() == [0.25] * 4


@pytest.mark.parametrize(
    ("loss", "count", "group_weights"),
    [
        ("ipw", "users", [5 / 4, 5 / 1]),
        ("ipw_log", "users", [math.log(5 / 4), math.log(5)]),
        ("ipw", "interactions", [10 / 5, 10 / 5]),
        ("ipw_log", "interactions", [math.log(2), math.log(2)]),
    ],
)
def test_inverse_propensity(loss: str, count: str, group_weights: list[float]) -> None:
    """q_u = w(g_u) / 4, users in groups (0, 0, 1, 0). By interactions both groups weigh 2: ERM, twice over."""
    objective = build_objective(loss, POPULATION, {"count": count})
    q, state = objective.weights(BATCH, objective.initial_state())
    common, rare = (weight / 4 for weight in group_weights)
    torch.testing.assert_close(q, torch.tensor([common, common, rare, common]))
    assert state == {}
    assert objective.item_weights is None


def test_every_method_can_be_built_from_the_options_of_its_block() -> None:
    population = Population(torch.tensor([1, 3]), torch.tensor([4, 1]), torch.tensor([5, 5]), n_users=5, state_dim=2)
    assert OPTIONS.keys() == METHODS.keys()
    for loss, method in METHODS.items():
        options = method.options.model_validate(OPTIONS[loss])
        objective = build_objective(loss, population, vars(options))
        q, _ = objective.weights(
            LossBatch(
                torch.tensor([1.0]), torch.tensor([0]), torch.tensor([0]), torch.zeros(1, 2), lengths=torch.tensor([3])
            ),
            objective.initial_state(),
        )
        assert q.shape == (1,), loss


def test_an_objective_from_where_it_is_written() -> None:
    """Options by name; the population only where it is wanted."""
    assert isinstance(make_objective("cvar:CVaR", WITHOUT_GROUPS, {"alpha": 0.3}), CVaR)
    made = make_objective("group_dro:GroupDro", POPULATION, {"eta": 0.1, "absent_groups": "keep"})
    assert isinstance(made, GroupDro)
    assert made.n_groups == 2


def test_unknown_loss_names_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="unknown loss 'cvarr'; allowed: erm, cb"):
        build_objective("cvarr", POPULATION, {})


@pytest.mark.parametrize("loss", [loss for loss, method in METHODS.items() if method.needs_groups])
def test_group_dependent_losses_need_groups(loss: str) -> None:
    with pytest.raises(ValueError, match=f"{loss} needs groups: set loss_groups"):
        build_objective(loss, WITHOUT_GROUPS, {})
