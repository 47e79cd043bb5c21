"""Steps that can be recorded: batches of a fixed size, and the same numbers as steps that Python launches."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.objectives.base import State
from fairrec_pipeline.training import fit as fit_module
from fairrec_pipeline.training import steps as steps_module
from fairrec_pipeline.training.batches import Batches, FixedSizeBatches
from fairrec_pipeline.training.checkpoint import CheckpointStore
from fairrec_pipeline.training.cuda_graphs import RecordedSteps, Steps, steps_for
from fairrec_pipeline.training.distillation.causald import DistillationStep
from fairrec_pipeline.training.fit import Budget, Fitted, fit
from fairrec_pipeline.training.step import TrainingStep
from tests.objectives.test_every_objective import NothingFromTheCpu
from tests.training.test_exactness import LENGTHS, OPTIONS, groups_of, objective_of

CPU, META = torch.device("cpu"), torch.device("meta")
RECORDABLE = [loss for loss in OPTIONS if loss != "rsr_hard"]  # which clusters its users every so many steps
MAX_LENGTH = 12
RATES = [2**-7, 2**-6, 2**-8, 2**-7]  # which single precision knows
USERS = torch.tensor([[0, 13, 5, 7, 1], [2, 3, 4, 6, 8], [9, 9, 10, 11, 12], [13, 12, 11, 10, 0]])  # one of them twice

MakeSequences, MakeModel = Callable[..., Histories], Callable[..., SASRec]


def state_of(step: TrainingStep, device: torch.device = CPU) -> State:
    return {name: value.to(device) for name, value in step.objective.initial_state().items()}


def step_of(loss: str, model: SASRec, train: Histories, device: torch.device = CPU, **options: Any) -> TrainingStep:
    objective = objective_of(loss, train)
    groups = groups_of(objective, loss)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, fused=device is not META)
    return TrainingStep(model, optimizer, objective, None if groups is None else groups.to(device), **options)


@pytest.mark.parametrize("grain", [8, 64, 128])
def test_a_batch_of_a_fixed_size_is_the_packed_one_and_fillers(make_sequences: MakeSequences, grain: int) -> None:
    train = make_sequences(LENGTHS)
    batches = Batches(train, max_length=MAX_LENGTH, device=CPU)
    fixed = FixedSizeBatches(batches, 5)
    fixed.grain = grain
    for users, size in zip(USERS, fixed.sizes(USERS), strict=True):
        found, packed = fixed.batch(users, size), batches.batch(users)
        n = len(packed.tokens)
        assert size % grain == 0
        assert size - n < grain + fixed.fillers
        assert found.real is not None
        assert found.real.tolist() == [True] * n + [False] * (size - n)
        assert found.layout.offsets[:6].tolist() == [0, *(found.ends + 1).tolist()]
        of_fillers = found.layout.offsets[5:].diff().tolist()
        assert len(of_fillers) == fixed.fillers == {8: 1, 64: 6, 128: 11}[grain]
        assert sum(of_fillers) == size - n
        assert min(of_fillers) >= 1
        assert max(of_fillers) <= found.layout.longest <= MAX_LENGTH + 1
        assert torch.equal(found.rows[:n], torch.repeat_interleave(torch.arange(5), found.lengths))
        order = torch.argsort(found.lengths, descending=True, stable=True)
        assert torch.equal(found.users[order], packed.users)
        starts = found.ends + 1 - found.lengths
        by_length = torch.cat([torch.arange(starts[row], starts[row] + found.lengths[row]) for row in order])
        for name in ("tokens", "positions", "targets"):
            assert torch.equal(getattr(found, name)[by_length], getattr(packed, name)), name
            assert len(getattr(found, name)) == size
        assert set(found.tokens[n:].tolist()) == {train.n_items}


def test_few_sizes_are_enough(make_sequences: MakeSequences) -> None:
    """1,000 users of 10 positions on average, 96 a batch: 960 positions, and sizes 64 (960 / 16, rounded) apart."""
    train = make_sequences([5, 15] * 500)
    fixed = FixedSizeBatches(Batches(train, max_length=20, device=CPU), 96)
    assert fixed.grain == 64
    users = torch.randint(0, 1000, (200, 96), generator=torch.Generator().manual_seed(0))
    sizes = fixed.sizes(users)
    assert set(sizes) <= {832, 896, 960, 1024, 1088, 1152}  # 960, four standard deviations of 5 sqrt(96) around it
    assert sum(sizes) / 200 - 960 < 64


@pytest.mark.parametrize(
    ("loss", "warm_start_steps", "copy_window"),
    [*((loss, 0, 0) for loss in RECORDABLE), ("gdro", 2, 0), ("erm", 0, 4), ("cvar", 0, 4)],
)
def test_the_same_numbers_as_launched_steps(
    make_sequences: MakeSequences, make_model: MakeModel, loss: str, warm_start_steps: int, copy_window: int
) -> None:
    """Losses, weights, state and parameters after four steps in float64, with another learning rate in each."""
    train, found = make_sequences(LENGTHS), []
    for recorded in (False, True):
        model = make_model(copy_window=copy_window)
        if model.copy is not None:
            torch.nn.init.normal_(model.copy.recency_embedding.weight)
        step = step_of(loss, model, train, head=SoftmaxHead(chunk=16), warm_start_steps=warm_start_steps)
        batches = Batches(train, max_length=MAX_LENGTH, device=CPU, copy_window=copy_window)
        of_kind = partial(RecordedSteps, shape=(4, 5)) if recorded else Steps
        state = {name: value.double() if value.is_floating_point() else value for name, value in state_of(step).items()}
        steps = of_kind(step, batches, state)
        taken = steps.take(USERS, RATES, 0)
        order = torch.argsort(taken.users, dim=1, stable=True)
        by_user = [x.gather(1, order) for x in taken]
        found.append((by_user, steps.state, dict(model.named_parameters())))
        assert torch.equal(by_user[0], USERS.sort(dim=1).values)
    (launched, state, parameters), (recorded_, its_state, its_parameters) = found
    precision = {"rtol": 1e-9, "atol": 1e-9}
    if loss in {"arl", "rsr_soft"}:  # which look at states in single precision
        precision = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(recorded_, launched, **precision)
    torch.testing.assert_close(its_state, state, **precision, equal_nan=True)
    for name, other in parameters.items():
        mine, theirs = its_parameters[name], other
        if name.endswith("qkv.bias"):  # Adam steps on the rounding of the key biases, whose gradient is 0
            dim = len(mine) // 3
            mine, theirs = (torch.cat((x[:dim], x[2 * dim :])) for x in (mine, theirs))
        torch.testing.assert_close(mine, theirs, **precision, msg=lambda text, name=name: f"{name}: {text}")


def test_steps_go_on_from_call_to_call(make_sequences: MakeSequences, make_model: MakeModel) -> None:
    """Two calls of two steps are one of four, bit by bit."""
    train, weights = make_sequences(LENGTHS), []
    for calls in ([slice(0, 4)], [slice(0, 2), slice(2, 4)]):
        model = make_model()
        step = step_of("gdro", model, train)
        shape = (len(USERS[calls[0]]), 5)
        steps = RecordedSteps(step, Batches(train, max_length=MAX_LENGTH, device=CPU), state_of(step), shape)
        for call in calls:
            steps.take(USERS[call], RATES[call], call.start)
        weights.append((model.state_dict(), steps.state))
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.parametrize(("loss", "copy_window"), [*((loss, 0) for loss in RECORDABLE), ("cvar", 4)])
def test_nothing_is_asked_of_the_device(
    make_sequences: MakeSequences, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, loss: str, copy_window: int
) -> None:
    """On `meta` there are no values to fetch, and what would come from the CPU is refused: such a step can be recorded.

    The shapes are those of the kernels of CUDA. The optimiser, which knows no `meta`, is left out.
    """
    train = make_sequences(LENGTHS)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    model = make_model(dtype=torch.float32, dropout=0.2, copy_window=copy_window).to(META).train()
    step = step_of(loss, model, train, META, bf16=True)
    monkeypatch.setattr(step.optimizer, "step", lambda: None)
    steps = RecordedSteps(
        step, Batches(train, max_length=MAX_LENGTH, device=META, copy_window=copy_window), state_of(step, META), (4, 5)
    )
    steps._launch(64, 0)
    with NothingFromTheCpu():
        steps._launch(64, 1)
    assert all(parameter.grad is not None and parameter.grad.is_meta for parameter in model.parameters())


class Played:
    """Stands for a CUDA graph."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def replay(self) -> None:
        self.log.append("played")


@pytest.mark.parametrize("fails", [False, True])
def test_the_second_step_of_a_size_is_recorded(
    make_sequences: MakeSequences, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """And played, as all after it. What cannot be recorded ends the training, and says what it was and what to do."""
    train, log = make_sequences(LENGTHS), []
    step = step_of("erm", make_model(), train, warm_start_steps=1)
    steps = RecordedSteps(step, Batches(train, max_length=MAX_LENGTH, device=CPU), {}, (4, 5))

    @contextlib.contextmanager
    def graph(*_: Any, **__: Any) -> Iterator[None]:
        log.append("recorded")
        try:
            yield
        finally:
            if fails:
                message = "operation failed due to a previous error during capture"
                raise RuntimeError(message)

    def launch(size: int, number: int) -> None:
        log.append(f"{size} in {number}")
        if fails and log[-2:-1] == ["recorded"]:
            message = "what went wrong"
            raise RuntimeError(message)

    monkeypatch.setattr(torch, "cuda", SimpleNamespace(CUDAGraph=lambda: Played(log), graph=graph))
    monkeypatch.setattr(steps, "_launch", launch)
    monkeypatch.setattr(steps, "_records", True)
    with (
        pytest.raises(RuntimeError, match=r"what went wrong\. train\.cuda_graphs=false")
        if fails
        else (contextlib.nullcontext())
    ):
        for number, size in enumerate([64, 64, 64, 128, 64]):
            steps._take_one(size, number)
    # the first one is another step: that of the warm start
    expected = ["64 in 0", "64 in 1", "recorded", "64 in 2", "played", "128 in 3", "played"]
    assert log == (expected[:4] if fails else expected)


def test_which_steps_are_recorded(
    make_sequences: MakeSequences, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, asked = make_sequences(LENGTHS), []
    assert [loss for loss in OPTIONS if step_of(loss, make_model(), train).recordable] == RECORDABLE
    assert DistillationStep.decides_on_host
    batches = Batches(train, max_length=MAX_LENGTH, device=CPU)

    def has_kernel(head_width: int, rate: float, device: torch.device) -> bool:
        asked.append((head_width, rate, device))
        return True

    def kind(loss: str = "erm", *, bf16: bool = True, **options: Any) -> type[Steps]:
        step = step_of(loss, make_model(dropout=0.2), train, bf16=bf16)
        return type(steps_for(step, batches, state_of(step), (4, 5), **options))

    assert kind() is Steps
    monkeypatch.setattr(steps_module, "has_ragged_kernel", has_kernel)
    assert kind() is RecordedSteps
    assert asked == [(8, 0.2, CPU)]  # two heads of 16
    assert kind("rsr_hard") is kind(bf16=False) is kind(cuda_graphs=False) is Steps


def test_a_training_of_recorded_steps_goes_on_after_an_interruption(
    make_sequences: MakeSequences, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As it would have without one, bit by bit; and comes out as one of launched steps, to rounding."""
    train, held_out = make_sequences(LENGTHS), make_sequences(LENGTHS, held_out=True)
    validation = dataclasses.replace(train, targets=held_out.targets, repeats=held_out.repeats)
    backbone = {
        "dim": 16,
        "feed_forward": 16,
        "blocks": 1,
        "heads": 2,
        "dropout": 0.0,
        "max_length": 12,
        "init_std": 0.1,
    }
    budget = Budget(epochs=4, steps_per_epoch=3, batch_size=5, learning_rate=0.01, schedule="cosine", warm_up_steps=4)
    budget = dataclasses.replace(budget, checkpoint_seconds=0.0)

    class StopError(Exception):
        pass

    class Stopping(CheckpointStore):
        def save(self, *arguments: Any) -> None:
            super().save(*arguments)
            raise StopError

    def trained(store: CheckpointStore | None = None) -> Fitted:
        return fit(
            train, validation, objective_of("arl", train), groups=None, backbone=backbone, budget=budget, seed=1,
            device=CPU, filter_seen=False, store=store,
        )  # fmt: skip

    launched = trained()
    monkeypatch.setattr(fit_module, "steps_for", lambda *arguments, **_: RecordedSteps(*arguments))
    whole = trained()
    for _ in range(2):
        with pytest.raises(StopError):
            trained(Stopping(tmp_path / "arm.safetensors"))
    resumed = trained(CheckpointStore(tmp_path / "arm.safetensors"))
    for name, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[name]), name
    assert whole.history.drop(columns="seconds").equals(resumed.history.drop(columns="seconds"))
    assert whole.user_weights.equals(resumed.user_weights)
    assert launched.history["learning_rate"].equals(whole.history["learning_rate"])
    torch.testing.assert_close(
        torch.tensor(launched.history["loss"]), torch.tensor(whole.history["loss"]), rtol=1e-4, atol=1e-5
    )
