"""Steps that can be recorded: batches of a fixed size, and the same numbers as steps that Python launches."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.training import cuda_graphs
from fairrec_pipeline.training import fit as fit_module
from fairrec_pipeline.training.batches import Batches, FixedSizeBatches
from fairrec_pipeline.training.checkpoint import Checkpoint, Snapshot
from fairrec_pipeline.training.cuda_graphs import GraphRunner, StepRunner, make_runner
from fairrec_pipeline.training.distillation.causald import DistillationStep
from fairrec_pipeline.training.fit import Fitted, TrainingData, fit
from tests.worlds import (
    HISTORY_LENGTHS,
    OPTIONS,
    RECORDABLE,
    STEP_RATES,
    STEP_USERS,
    NothingFromTheCpu,
    objective_of,
    random_histories,
    small_model,
    spec_of,
    state_of,
    step_of,
)

CPU, META = torch.device("cpu"), torch.device("meta")
MAX_LENGTH = 12


@pytest.mark.parametrize("grain", [8, 64, 128])
def test_a_batch_of_a_fixed_size_is_the_packed_one_and_fillers(grain: int) -> None:
    train = random_histories(HISTORY_LENGTHS)
    batches = Batches(train, max_length=MAX_LENGTH, device=CPU)
    fixed = FixedSizeBatches(batches, 5)
    fixed.grain = grain
    for users, size in zip(STEP_USERS, fixed.sizes(STEP_USERS), strict=True):
        # the second of three steps, with room for a larger one
        cut = fixed.cut(torch.stack([users.flip(0), users, users]), [size] * 3, size + grain)
        found, packed = fixed.batch(cut.at(torch.tensor([1])), size), batches.batch(users)
        n = len(packed.tokens)
        assert size % grain == 0
        assert size - n < grain + fixed.fillers
        assert found.real is not None
        assert found.real.tolist() == [1] * n + [0] * (size - n)
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


def test_few_sizes_are_enough() -> None:
    """1,000 users of 10 positions on average, 96 a batch: 960 positions, and sizes 64 (960 / 16, rounded) apart."""
    train = random_histories([5, 15] * 500)
    fixed = FixedSizeBatches(Batches(train, max_length=20, device=CPU), 96)
    assert fixed.grain == 64
    users = torch.randint(0, 1000, (200, 96), generator=torch.Generator().manual_seed(0))
    sizes = fixed.sizes(users)
    assert set(sizes) <= {832, 896, 960, 1024, 1088, 1152}  # 960, four standard deviations of 5 sqrt(96) around it
    assert sum(sizes) / 200 - 960 < 64


@pytest.mark.parametrize(
    ("loss", "warm_start_steps"),
    [*((loss, 0) for loss in RECORDABLE), ("gdro", 2)],
)
def test_the_same_numbers_as_launched_steps(loss: str, warm_start_steps: int) -> None:
    """Losses, weights, state and parameters after four steps in float64, with another learning rate in each."""
    train, found = random_histories(HISTORY_LENGTHS), []
    for recorded in (False, True):
        model = small_model()
        step = step_of(loss, model, train, head=SoftmaxHead(chunk=16), warm_start_steps=warm_start_steps)
        batches = Batches(train, max_length=MAX_LENGTH, device=CPU)
        of_kind = partial(GraphRunner, shape=(4, 5)) if recorded else StepRunner
        state = {name: value.double() if value.is_floating_point() else value for name, value in state_of(step).items()}
        runner = of_kind(step, batches, state)
        outcome = runner.run(STEP_USERS, STEP_RATES, 0)
        order = torch.argsort(outcome.users, dim=1, stable=True)
        by_user = [x.gather(1, order) for x in outcome]
        found.append((by_user, runner.state, dict(model.named_parameters())))
        assert torch.equal(by_user[0], STEP_USERS.sort(dim=1).values)
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


def test_steps_go_on_from_call_to_call() -> None:
    """Two calls of two steps are one of four, bit by bit."""
    train, weights = random_histories(HISTORY_LENGTHS), []
    for calls in ([slice(0, 4)], [slice(0, 2), slice(2, 4)]):
        model = small_model()
        step = step_of("gdro", model, train)
        shape = (len(STEP_USERS[calls[0]]), 5)
        runner = GraphRunner(step, Batches(train, max_length=MAX_LENGTH, device=CPU), state_of(step), shape)
        for call in calls:
            runner.run(STEP_USERS[call], STEP_RATES[call], call.start)
        weights.append((model.state_dict(), runner.state))
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.parametrize("loss", RECORDABLE)
def test_nothing_is_asked_of_the_device(monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    """On `meta` there are no values to fetch, and what would come from the CPU is refused: such a step can be recorded.

    The shapes are those of the kernels of CUDA. The optimiser, which knows no `meta`, is left out.
    """
    train = random_histories(HISTORY_LENGTHS)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    model = small_model(dtype=torch.float32, dropout=0.2).to(META).train()
    step = step_of(loss, model, train, device="meta", bf16=True)
    monkeypatch.setattr(step.optimizer, "step", lambda: None)
    runner = GraphRunner(step, Batches(train, max_length=MAX_LENGTH, device=META), state_of(step, "meta"), (4, 5))
    runner._cut([64] * 4)
    runner.launch(64, 0)
    with NothingFromTheCpu():
        runner.launch(64, 1)
    assert all(parameter.grad is not None and parameter.grad.is_meta for parameter in model.parameters())


def test_larger_batches_are_recorded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded reads from tensors that are too small for them; and what fits goes where it reads.

    It is recorded into other memory: torch raises an error where all graphs of some are gone and a tensor is left.
    """
    pools = iter(range(4))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    train = random_histories([3] * 10 + [300] * 10)
    runner = GraphRunner(step_of("erm", small_model(), train), Batches(train, max_length=500, device=CPU), {}, (2, 5))
    runner.batches_of_fixed_size.grain = 8
    short, long = torch.arange(5).repeat(2, 1), torch.arange(10, 15).repeat(2, 1)
    runner.records = True
    tables, used = list[int](), list[int]()
    for users in (short, short + 1, long, short):
        runner._users.copy_(users)
        sizes = runner.batches_of_fixed_size.sizes(users)
        runner._cut(sizes)
        assert runner._steps is not None
        tables.append(runner._steps.cells.data_ptr())
        used.append(runner._pool)
        assert runner._steps.users.tolist() == users.tolist()
        batch = runner.batches_of_fixed_size.batch(runner._steps.at(torch.tensor([1])), sizes[1])
        assert batch.users.tolist() == users[1].tolist()
        assert batch.lengths.tolist() == train.lengths[users[1]].tolist()
        runner.graphs[sizes[0], False] = Played([])  # type: ignore[assignment]
        runner._known.add((sizes[0], False))
    assert tables[0] == tables[1]
    assert tables[1] != tables[2] == tables[3]
    assert used == [0, 0, 1, 1]
    # of the long ones, and of the short ones after them
    assert len(runner.graphs) == len(runner._known) == 2


class Played:
    """Stands for a CUDA graph."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def replay(self) -> None:
        self.log.append("played")


@pytest.mark.parametrize("fails", [False, True])
def test_the_second_step_of_a_size_is_recorded(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """And played, as all after it. What cannot be recorded ends the training, and says what it was and what to do."""
    train, log = random_histories(HISTORY_LENGTHS), []
    step = step_of("erm", small_model(), train, warm_start_steps=1)
    runner = GraphRunner(step, Batches(train, max_length=MAX_LENGTH, device=CPU), {}, (4, 5))

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
    monkeypatch.setattr(runner, "launch", launch)
    monkeypatch.setattr(runner, "records", True)
    with (
        pytest.raises(OptionError, match=r"what went wrong\. train\.cuda_graphs=false")
        if fails
        else (contextlib.nullcontext())
    ):
        for number, size in enumerate([64, 64, 64, 128, 64]):
            runner._run_one(size, number)
    # the first one is another step: that of the warm start
    expected = ["64 in 0", "64 in 1", "recorded", "64 in 2", "played", "128 in 3", "played"]
    assert log == (expected[:4] if fails else expected)


def test_which_steps_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    train, asked = random_histories(HISTORY_LENGTHS), []
    recordable = [loss for loss in OPTIONS if step_of(loss, small_model(), train).recordable]
    assert [loss for loss in recordable if loss != "causald"] == RECORDABLE
    assert DistillationStep.decides_on_host
    batches = Batches(train, max_length=MAX_LENGTH, device=CPU)

    def has_kernel(head_width: int, rate: float, device: torch.device) -> bool:
        asked.append((head_width, rate, device))
        return True

    def kind(loss: str = "erm", *, bf16: bool = True, **options: Any) -> type[StepRunner]:
        step = step_of(loss, small_model(dropout=0.2), train, bf16=bf16)
        return type(make_runner(step, batches, state_of(step), (4, 5), **options))

    assert kind() is StepRunner
    monkeypatch.setattr(cuda_graphs, "has_ragged_kernel", has_kernel)
    assert kind() is GraphRunner
    assert asked == [(8, 0.2, CPU)]  # two heads of 16
    assert kind("rsr_hard") is kind(bf16=False) is kind(cuda_graphs=False) is StepRunner


def test_a_training_of_recorded_steps_goes_on_after_an_interruption(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As it would have without one, bit by bit; and comes out as one of launched steps, to rounding."""
    train, held_out = random_histories(HISTORY_LENGTHS), random_histories(HISTORY_LENGTHS, held_out=True)
    validation = dataclasses.replace(train, targets=held_out.targets, repeats=held_out.repeats)
    spec = spec_of(
        "arl",
        model={"dim": 16, "feed_forward": 16, "heads": 2, "dropout": 0.0, "max_length": 12, "init_std": 0.1},
        train={"epochs": 4, "batch_size": 5, "schedule": "cosine", "warm_up_steps": 4},
        seed=1,
    )

    class StopError(Exception):
        pass

    class Stopping(Checkpoint):
        def save(self, snapshot: Snapshot) -> None:
            super().save(snapshot)
            raise StopError

    def trained(checkpoint: Checkpoint | None = None) -> Fitted:
        return fit(spec, TrainingData(train, validation, None), objective_of("arl", train), checkpoint)

    launched = trained()
    monkeypatch.setattr(fit_module, "make_runner", lambda *arguments, **_: GraphRunner(*arguments))
    whole = trained()
    for _ in range(2):
        with pytest.raises(StopError):
            trained(Stopping(tmp_path / "arm.safetensors"))
    resumed = trained(Checkpoint(tmp_path / "arm.safetensors"))
    for name, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[name]), name
    assert whole.history.drop(columns="seconds").equals(resumed.history.drop(columns="seconds"))
    assert whole.user_weights.equals(resumed.user_weights)
    assert launched.history["learning_rate"].equals(whole.history["learning_rate"])
    torch.testing.assert_close(
        torch.tensor(launched.history["loss"]), torch.tensor(whole.history["loss"]), rtol=1e-4, atol=1e-5
    )
