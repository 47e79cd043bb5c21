"""Group DRO and Streaming DRO, worked by hand over batches in which a group is absent."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fairrec_pipeline.objectives.base import LossBatch, Population, State
from fairrec_pipeline.objectives.group_dro import GroupDro

THREE_GROUPS = Population(torch.tensor([1]), torch.tensor([5, 5, 5]), torch.tensor([9, 9, 9]))
ETA = 0.5


def batch(losses: list[float], groups: list[int]) -> LossBatch:
    return LossBatch(torch.tensor(losses, dtype=torch.float64), torch.tensor(groups))


FIRST = batch([1.0, 3.0, 4.0, 6.0], [0, 0, 1, 2])  # L = (2, 4, 6)
SECOND = batch([2.0, 4.0, 5.0], [0, 0, 1])  # L = (3, 5, -): group 2 is absent


def close(actual: Tensor, expected: list[float]) -> None:
    # the state begins in single precision
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8)


def group_weights(state: State) -> Tensor:
    return state["log_group_weights"].exp()


def climbed(weights: list[float], losses: list[float]) -> list[float]:
    """w_g exp(eta L_g) / sum_h w_h exp(eta L_h)."""
    raw = [w * math.exp(ETA * loss) for w, loss in zip(weights, losses, strict=True)]
    return [value / sum(raw) for value in raw]


def test_group_dro_all_groups_present() -> None:
    """w starts at (1/3, 1/3, 1/3) and goes to (e^1, e^2, e^3) / (e^1 + e^2 + e^3) = (.0900, .2447, .6652).

    q_u = w_g / n_g with n = (2, 1, 1): (.0450, .0450, .2447, .6652), which sums to 1.
    """
    objective = GroupDro(THREE_GROUPS, eta=ETA, absent_groups="keep")
    q, state = objective.weights(FIRST, objective.initial_state())
    total = math.e + math.e**2 + math.e**3
    close(group_weights(state), [math.e / total, math.e**2 / total, math.e**3 / total])
    close(q, [math.e / total / 2, math.e / total / 2, math.e**2 / total, math.e**3 / total])
    assert float(q.sum()) == pytest.approx(1)


def test_group_dro_keeps_an_absent_group() -> None:
    """Second batch, L = (3, 5, -): w_2 stays at .6652, and groups 0 and 1 share the rest, .3348, as they climb:

    w_0 : w_1 = .0900 e^1.5 : .2447 e^2.5 = 1 : e^2, so w_0 = .3348 / (1 + e^2) and w_1 = .3348 e^2 / (1 + e^2).
    """
    objective = GroupDro(THREE_GROUPS, eta=ETA, absent_groups="keep")
    _, state = objective.weights(FIRST, objective.initial_state())
    kept = float(group_weights(state)[2])
    q, state = objective.weights(SECOND, state)
    share = (1 - kept) / (1 + math.e**2)
    close(group_weights(state), [share, share * math.e**2, kept])
    assert float(group_weights(state)[2]) == kept  # to the bit: it did not move
    close(q, [share / 2, share / 2, share * math.e**2])


def test_group_dro_climbs_on_the_last_loss_of_an_absent_group() -> None:
    """Second batch, L = (3, 5, -): the last loss of group 2 was 6, so all three climb on (3, 5, 6)."""
    objective = GroupDro(THREE_GROUPS, eta=ETA, absent_groups="climb")
    q, state = objective.weights(FIRST, objective.initial_state())
    keeps = GroupDro(THREE_GROUPS, eta=ETA, absent_groups="keep")
    assert torch.equal(q, keeps.weights(FIRST, keeps.initial_state())[0])  # nobody is absent: one rule
    before = group_weights(state).tolist()
    q, state = objective.weights(SECOND, state)
    expected = climbed(before, [3.0, 5.0, 6.0])
    close(group_weights(state), expected)
    assert expected[2] > before[2]
    close(q, [expected[0] / 2, expected[0] / 2, expected[1]])


def test_group_dro_decays_an_absent_group() -> None:
    """The published rule: the absent group enters with L = 0, (w_0 e^1.5, w_1 e^2.5, w_2 e^0) normalised."""
    objective = GroupDro(THREE_GROUPS, eta=ETA, absent_groups="decay")
    _, state = objective.weights(FIRST, objective.initial_state())
    before = group_weights(state).tolist()
    q, state = objective.weights(SECOND, state)
    expected = climbed(before, [3.0, 5.0, 0.0])
    close(group_weights(state), expected)
    assert expected[2] < before[2] / 4
    close(q, [expected[0] / 2, expected[0] / 2, expected[1]])


BETA = 0.1


def test_streaming_dro_keeps_an_absent_group() -> None:
    """S starts at 0. First batch: S = beta (2, 4, 6) = (.2, .4, .6), and w climbs on S.

    Second, L = (3, 5, -): S = (.9 x .2 + .1 x 3, .9 x .4 + .1 x 5, stays) = (.48, .86, .6); w_2 stays, the others share
    the rest. Third, the first batch again: S = (.9 x .48 + .2, .9 x .86 + .4, .9 x .6 + .6) = (.632, 1.174, 1.14).
    """
    objective = GroupDro(THREE_GROUPS, eta=ETA, beta=BETA, absent_groups="keep")
    _, state = objective.weights(FIRST, objective.initial_state())
    close(state["streaming_losses"], [0.2, 0.4, 0.6])
    first = climbed([1 / 3] * 3, [0.2, 0.4, 0.6])
    close(group_weights(state), first)

    q, state = objective.weights(SECOND, state)
    close(state["streaming_losses"], [0.48, 0.86, 0.6])
    share = 1 - first[2]
    second = [share * w for w in climbed(first[:2], [0.48, 0.86])] + [first[2]]
    close(group_weights(state), second)
    close(q, [second[0] / 2, second[0] / 2, second[1]])

    _, state = objective.weights(FIRST, state)
    close(state["streaming_losses"], [0.632, 1.174, 1.14])
    close(group_weights(state), climbed(second, [0.632, 1.174, 1.14]))


def test_streaming_dro_climbs_on_the_streaming_loss_of_an_absent_group() -> None:
    """The original rule: S_2 stays at .6 in the second batch, and w_2 climbs on it like the others.

    Third, the first batch again: S = (.632, 1.174, .9 x .6 + .6 = 1.14).
    """
    objective = GroupDro(THREE_GROUPS, eta=ETA, beta=BETA, absent_groups="climb")
    _, state = objective.weights(FIRST, objective.initial_state())
    q, state = objective.weights(SECOND, state)
    close(state["streaming_losses"], [0.48, 0.86, 0.6])
    second = climbed(climbed([1 / 3] * 3, [0.2, 0.4, 0.6]), [0.48, 0.86, 0.6])
    close(group_weights(state), second)
    close(q, [second[0] / 2, second[0] / 2, second[1]])
    _, state = objective.weights(FIRST, state)
    close(state["streaming_losses"], [0.632, 1.174, 1.14])
    close(group_weights(state), climbed(second, [0.632, 1.174, 1.14]))


def test_streaming_dro_decays_an_absent_group() -> None:
    """The published rule: S_2 = .9 x .6 + .1 x 0 = .54, and w_2 climbs on it like the others."""
    objective = GroupDro(THREE_GROUPS, eta=ETA, beta=BETA, absent_groups="decay")
    _, state = objective.weights(FIRST, objective.initial_state())
    _, state = objective.weights(SECOND, state)
    close(state["streaming_losses"], [0.48, 0.86, 0.54])
    close(group_weights(state), climbed(climbed([1 / 3] * 3, [0.2, 0.4, 0.6]), [0.48, 0.86, 0.54]))


UNEVEN = Population(torch.tensor([1]), torch.tensor([16, 4, 1]), torch.tensor([9, 9, 9]))


def test_group_dro_with_an_adjustment() -> None:
    """C = 2, groups of 16, 4 and 1 users: the weights climb on L + (2/4, 2/2, 2/1) = (2.5, 5, 8)."""
    objective = GroupDro(UNEVEN, eta=ETA, absent_groups="keep", adjustment=2.0)
    _, state = objective.weights(FIRST, objective.initial_state())
    close(group_weights(state), climbed([1 / 3] * 3, [2.5, 5.0, 8.0]))


def test_streaming_dro_with_an_adjustment() -> None:
    """It is part of the streamed loss, S = beta (2.5, 5, 8); an absent group that decays has the adjustment alone."""
    objective = GroupDro(UNEVEN, eta=ETA, beta=BETA, absent_groups="decay", adjustment=2.0)
    _, state = objective.weights(FIRST, objective.initial_state())
    close(state["streaming_losses"], [0.25, 0.5, 0.8])
    _, state = objective.weights(SECOND, state)  # L = (3.5, 6, 2)
    close(state["streaming_losses"], [0.9 * 0.25 + 0.35, 0.9 * 0.5 + 0.6, 0.9 * 0.8 + 0.2])


@pytest.mark.parametrize("beta", [None, 0.1])
def test_one_group_with_an_adjustment_is_erm(beta: float | None) -> None:
    one = Population(torch.tensor([1]), torch.tensor([7]), torch.tensor([9]))
    objective = GroupDro(one, eta=ETA, beta=beta, absent_groups="keep", adjustment=5.0)
    state = objective.initial_state()
    for losses in ([1.0, 5.0], [3.0, 0.5]):
        q, state = objective.weights(batch(losses, [0, 0]), state)
        close(q, [0.5, 0.5])


@pytest.mark.parametrize("beta", [None, 0.1])
@pytest.mark.parametrize("absent_groups", ["climb", "keep", "decay"])
def test_weights_stay_a_distribution(beta: float | None, absent_groups: str) -> None:
    """Over a hundred random batches; a batch whose weights do not sum to 1 lacks a group."""
    objective = GroupDro(THREE_GROUPS, eta=ETA, beta=beta, absent_groups=absent_groups)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    state = objective.initial_state()
    for _ in range(100):
        groups = torch.randint(3, (4,), generator=generator)
        q, state = objective.weights(LossBatch(10 * torch.rand(4, generator=generator), groups), state)
        assert float(group_weights(state).sum()) == pytest.approx(1, abs=1e-5)
        present = float(group_weights(state)[groups.unique()].sum())
        assert float(q.sum()) == pytest.approx(present, abs=1e-5)
        assert q.min() >= 0


def test_a_large_step_does_not_overflow() -> None:
    """exp(100 x 60) is infinite; the weight of the worst group is 1 all the same."""
    objective = GroupDro(THREE_GROUPS, eta=100.0, absent_groups="keep")
    _, state = objective.weights(batch([1.0, 60.0, 2.0], [0, 1, 2]), objective.initial_state())
    close(group_weights(state), [0.0, 1.0, 0.0])


def test_the_state_handed_in_is_unchanged() -> None:
    objective = GroupDro(THREE_GROUPS, eta=ETA, beta=BETA, absent_groups="keep")
    state = objective.initial_state()
    copies = {name: value.clone() for name, value in state.items()}
    objective.weights(FIRST, state)
    assert all(torch.equal(state[name], copies[name]) for name in copies)


def test_a_rare_hard_group_leaves_the_others_a_way_back() -> None:
    """The rare group is in every tenth batch only, with twelve nats: the others' weights fall far below the smallest
    float, and the batches without it still have to give finite weights that share what the others have."""
    objective = GroupDro(THREE_GROUPS, eta=0.1, absent_groups="keep")
    with_rare, without = batch([3.0, 3.2, 12.0], [0, 1, 2]), batch([3.0, 3.2], [0, 1])
    state = objective.initial_state()
    for step in range(3000):
        q, state = objective.weights(with_rare if step % 10 == 0 else without, state)
        assert bool(torch.isfinite(q).all())
    assert bool(torch.isfinite(state["log_group_weights"]).all())


@pytest.mark.parametrize("beta", [None, BETA])
@pytest.mark.parametrize(
    ("rare_loss", "absent_groups", "low", "high"),
    [
        (4.0, "climb", 0.31, 0.34),  # of a third: as the others
        (4.0, "keep", 0.32, 0.39),
        (4.0, "decay", 0.0, 1e-12),
        (6.0, "climb", 0.9999, 1.000001),  # of single precision
        (6.0, "keep", 0.98, 0.994),
        (6.0, "decay", 0.0, 1e-10),  # although it has the highest loss
    ],
)
def test_what_each_rule_does_to_a_rare_group(
    beta: float | None, rare_loss: float, absent_groups: str, low: float, high: float
) -> None:
    """The figures of docs/methods.md: a group of 1 % of the users, in 271 of 1,000 batches of 32; the others have loss
    4, it has 4 or 6, all with a standard deviation of 1."""
    population = Population(torch.tensor([1]), torch.tensor([495, 495, 10]), torch.tensor([1, 1, 1]))
    objective = GroupDro(population, eta=0.01, beta=beta, absent_groups=absent_groups)  # type: ignore[arg-type]
    generator, state, present = torch.Generator().manual_seed(0), objective.initial_state(), 0
    for _ in range(1000):
        groups = torch.multinomial(torch.tensor([0.495, 0.495, 0.01]), 32, replacement=True, generator=generator)
        losses = torch.tensor([4.0, 4.0, rare_loss])[groups] + torch.randn(32, generator=generator)
        present += int((groups == 2).any())
        _, state = objective.weights(LossBatch(losses, groups), state)
    assert present == 271
    assert low <= float(group_weights(state)[2]) <= high
