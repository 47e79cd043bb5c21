"""What holds for every method, whatever its formula."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.objectives.base import LossBatch, Objective, Population, State
from fairrec_pipeline.training.checkpoint import Snapshot, load_snapshot, save_snapshot

N_USERS, DIM, GROUPS = 30, 4, 3
RSR = {"clusters": 4, "temperature": 0.5, "weight_learning_rate": 0.1}
OPTIONS: dict[str, dict[str, Any]] = {
    "erm": {},
    "ipw": {"count": "users"},
    "gdro": {"eta": 0.1, "absent_groups": "keep", "adjustment": 2.0},
    "sdro": {"eta": 0.1, "beta": 0.1, "absent_groups": "decay", "adjustment": 2.0},
    "cvar": {"alpha": 0.3},
    "cvar_doro": {"alpha": 0.3, "eps": 0.2},
    "cvar_smooth": {"alpha": 0.3, "h": 0.15},
    "chi2": {"alpha": 0.5},
    "kl": {"tau": 1.0},
    "arl": {"adversary_learning_rate": 0.1},
    "rsr_hard": RSR | {"refresh_steps": 2},
    "rsr_soft": RSR | {"prototype_learning_rate": 0.1, "clustering_weight": 0.05},
}
# of the others the sum depends on which groups are in the batch, on their frequency, or on the batches before
SUMS_TO_ONE = [loss for loss in OPTIONS if loss not in {"ipw", "gdro", "sdro", "cvar_smooth"}]


def objective_of(loss: str) -> Objective:
    users = torch.full((GROUPS,), N_USERS // GROUPS)
    population = Population(torch.ones(1), users, users, ["a", "b", "c"], n_users=N_USERS, state_dim=DIM)
    return build_objective(loss, population, OPTIONS[loss])


def random_batch(step: int, size: int = 8) -> LossBatch:
    generator = torch.Generator().manual_seed(step)
    users = torch.randperm(N_USERS, generator=generator)[:size]
    losses, states = 9 * torch.rand(size, generator=generator), torch.randn(size, DIM, generator=generator)
    return LossBatch(losses, users % GROUPS, users, states, step)


def walked(objective: Objective, steps: int = 6) -> State:
    state = objective.initial_state()
    for step in range(steps):
        state = objective.weights(random_batch(step), state)[1]
    return state


def assert_same_state(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("loss", OPTIONS)
def test_weights_are_weights(loss: str) -> None:
    """One a user, none negative, without a gradient; the shape and the type of a state do not change."""
    objective = objective_of(loss)
    start = objective.initial_state()
    kinds = {name: (value.shape, value.dtype) for name, value in start.items()}
    state = start
    for step in range(6):
        q, state = objective.weights(random_batch(step), state)
        assert q.shape == (8,)
        assert q.dtype == torch.float32
        assert float(q.min()) >= 0
        assert not q.requires_grad
        assert not any(value.requires_grad for value in state.values())
        assert {name: (value.shape, value.dtype) for name, value in state.items()} == kinds
        assert float(q.sum()) == pytest.approx(1, abs=1e-5) or loss not in SUMS_TO_ONE
    assert all(isinstance(value, float) for value in objective.history(state).values())


@pytest.mark.parametrize("loss", OPTIONS)
def test_a_state_goes_through_a_checkpoint(loss: str, tmp_path: Path) -> None:
    objective = objective_of(loss)
    state = walked(objective)
    save_snapshot(tmp_path / "state.safetensors", Snapshot(state, {}))
    restored = load_snapshot(tmp_path / "state.safetensors").tensors
    assert_same_state(restored, state)
    for step in range(6, 12):
        q, state = objective.weights(random_batch(step), state)
        again, restored = objective_of(loss).weights(random_batch(step), restored)
        assert torch.equal(q, again)
    assert_same_state(restored, state)


@pytest.mark.parametrize("loss", OPTIONS)
def test_the_order_of_a_batch_does_not_matter(loss: str) -> None:
    objective = objective_of(loss)
    batch, order = random_batch(6), torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert batch.groups is not None
    shuffled = LossBatch(batch.losses[order], batch.groups[order], batch.users[order], batch.states[order], 6)
    q, state = objective.weights(batch, walked(objective))
    other, other_state = objective.weights(shuffled, walked(objective))
    torch.testing.assert_close(other, q[order], rtol=1e-5, atol=1e-7)
    for name, value in state.items():
        torch.testing.assert_close(value, other_state[name], rtol=1e-5, atol=1e-6, equal_nan=True)


class NothingFromTheCpu(TorchDispatchMode):
    """Fails where a tensor is copied from the CPU to another device, which a GPU is waited for.

    `torch.where` copies a number, too, once it is on CUDA.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.where and result.device.type != "cpu":
            assert all(part.device.type != "cpu" for part in args), "a number of the CPU"
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            assert source.device.type != "cpu" or result.device.type == "cpu", "copied from the CPU"
        return result


@pytest.mark.parametrize("loss", OPTIONS)
def test_the_device_is_not_asked_for_values(loss: str) -> None:
    """A tensor on `meta` has no values: to fetch one, which would stall a GPU, fails; mixing it with the CPU's too.

    What an objective knows from the start may be copied in the first step, and then stays on the device.
    """
    objective = objective_of(loss)
    state = {name: value.to("meta") for name, value in objective.initial_state().items()}
    for first in (True, False):
        batch = random_batch(0)
        assert batch.groups is not None
        parts = [part.to("meta") for part in (batch.losses, batch.groups, batch.users, batch.states)]
        with nullcontext() if first else NothingFromTheCpu():
            q, state = objective.weights(LossBatch(*parts, step=0), state)
        assert q.is_meta
        assert all(value.is_meta for value in state.values())


@pytest.mark.parametrize("loss", OPTIONS)
def test_a_batch_of_one(loss: str) -> None:
    objective = objective_of(loss)
    q, state = objective.weights(random_batch(0, size=1), objective.initial_state())
    assert bool(torch.isfinite(q).all())
    q, _ = objective.weights(random_batch(1, size=1), state)
    assert bool(torch.isfinite(q).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("loss", OPTIONS)
def test_losses_that_are_not_finite_do_not_stop_it(loss: str, bad: float) -> None:
    """The training looks at its losses at the end of an epoch, and says what went wrong; until then nothing raises."""
    objective = objective_of(loss)
    state = walked(objective, 2)
    for step in range(2, 5):
        batch = random_batch(step)
        batch.losses[3] = bad
        batch.states[3] = bad
        q, state = objective.weights(batch, state)
        assert q.shape == (8,)


@pytest.mark.parametrize("loss", OPTIONS)
def test_everything_not_finite_does_not_stop_it(loss: str) -> None:
    objective = objective_of(loss)
    state = objective.initial_state()
    for step in range(3):
        batch = random_batch(step)
        batch.losses.fill_(torch.nan)
        batch.states.fill_(torch.nan)
        q, state = objective.weights(batch, state)
        assert q.shape == (8,)
