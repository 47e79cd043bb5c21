"""What holds for every method, whatever its formula."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.objectives.base import LossBatch, Objective, Population, State
from fairrec_pipeline.training.checkpoint import Checkpoint, Snapshot
from tests.worlds import OPTIONS, NothingFromTheCpu

N_USERS, DIM, GROUPS = 30, 4, 3
Case = tuple[str, dict[str, Any]]
CASES: list[Case] = [
    *((loss, {}) for loss in OPTIONS if loss not in {"cb", "cb_log", "causald"}),  # which weigh users as erm does
    ("gdro", {"adjustment": 2.0}),
    ("gdro", {"absent_groups": "climb"}),
    ("sdro", {"absent_groups": "climb"}),
    ("sdro", {"absent_groups": "decay", "adjustment": 2.0}),
]
# of the others the sum depends on which groups are in the batch, on their frequency, or on the batches before
SUMS_TO_ONE = [loss for loss, _ in CASES if loss not in {"ipw", "ipw_log", "gdro", "sdro", "cvar_smooth"}]

each_case = pytest.mark.parametrize("case", CASES, ids=str)


def objective_of(case: Case) -> Objective:
    loss, options = case
    users = torch.full((GROUPS,), N_USERS // GROUPS)
    population = Population(torch.ones(1), users, users, ["a", "b", "c"], n_users=N_USERS, state_dim=DIM)
    return build_objective(loss, population, OPTIONS[loss] | options)


def random_batch(step: int, size: int = 8) -> LossBatch:
    generator = torch.Generator().manual_seed(step)
    users = torch.randperm(N_USERS, generator=generator)[:size]
    losses, states = 9 * torch.rand(size, generator=generator), torch.randn(size, DIM, generator=generator)
    lengths = torch.randint(1, 9, (size,), generator=generator)
    return LossBatch(losses, users % GROUPS, users, states, step, lengths)


def walked(objective: Objective, steps: int = 6) -> State:
    state = objective.initial_state()
    for step in range(steps):
        state = objective.weights(random_batch(step), state)[1]
    return state


def assert_same_state(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0, equal_nan=True)


@each_case
def test_weights_are_weights(case: Case) -> None:
    """One a user, none negative, without a gradient; the shape and the type of a state do not change."""
    objective = objective_of(case)
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
        assert float(q.sum()) == pytest.approx(1, abs=1e-5) or case[0] not in SUMS_TO_ONE
    assert all(isinstance(value, float) for value in objective.history(state).values())


@each_case
def test_a_state_goes_through_a_checkpoint(case: Case, tmp_path: Path) -> None:
    objective = objective_of(case)
    state = walked(objective)
    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    checkpoint.save(Snapshot(state, {}))
    loaded = checkpoint.load()
    assert loaded is not None
    restored = dict(loaded.tensors)
    assert_same_state(restored, state)
    for step in range(6, 12):
        q, state = objective.weights(random_batch(step), state)
        again, restored = objective_of(case).weights(random_batch(step), restored)
        assert torch.equal(q, again)
    assert_same_state(restored, state)


@each_case
def test_the_order_of_a_batch_does_not_matter(case: Case) -> None:
    objective = objective_of(case)
    batch, order = random_batch(6), torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert batch.groups is not None
    parts = (batch.losses, batch.groups, batch.users, batch.states, batch.lengths)
    *shuffled, lengths = [part[order] for part in parts]
    q, state = objective.weights(batch, walked(objective))
    other, other_state = objective.weights(LossBatch(*shuffled, step=6, lengths=lengths), walked(objective))
    torch.testing.assert_close(other, q[order], rtol=1e-5, atol=1e-7)
    for name, value in state.items():
        torch.testing.assert_close(value, other_state[name], rtol=1e-5, atol=1e-6, equal_nan=True)


@each_case
def test_the_device_is_not_asked_for_values(case: Case) -> None:
    """A tensor on `meta` has no values: to fetch one, which would stall a GPU, fails; mixing it with the CPU's too.

    What an objective knows from the start may be copied in the first step, and then stays on the device.
    """
    objective = objective_of(case)
    state = {name: value.to("meta") for name, value in objective.initial_state().items()}
    for first in (True, False):
        batch = random_batch(0)
        assert batch.groups is not None
        parts = (batch.losses, batch.groups, batch.users, batch.states, batch.lengths)
        *parts, lengths = [part.to("meta") for part in parts]
        with nullcontext() if first else NothingFromTheCpu():
            q, state = objective.weights(LossBatch(*parts, step=0, lengths=lengths), state)
        assert q.is_meta
        assert all(value.is_meta for value in state.values())


@each_case
def test_a_batch_of_one(case: Case) -> None:
    objective = objective_of(case)
    q, state = objective.weights(random_batch(0, size=1), objective.initial_state())
    assert bool(torch.isfinite(q).all())
    q, _ = objective.weights(random_batch(1, size=1), state)
    assert bool(torch.isfinite(q).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@each_case
def test_losses_that_are_not_finite_do_not_stop_it(case: Case, bad: float) -> None:
    """The training looks at its losses at the end of an epoch, and says what went wrong; until then nothing raises."""
    objective = objective_of(case)
    state = walked(objective, 2)
    for step in range(2, 5):
        batch = random_batch(step)
        batch.losses[3] = bad
        batch.states[3] = bad
        q, state = objective.weights(batch, state)
        assert q.shape == (8,)


@each_case
def test_everything_not_finite_does_not_stop_it(case: Case) -> None:
    objective = objective_of(case)
    state = objective.initial_state()
    for step in range(3):
        batch = random_batch(step)
        batch.losses.fill_(torch.nan)
        batch.states.fill_(torch.nan)
        q, state = objective.weights(batch, state)
        assert q.shape == (8,)
