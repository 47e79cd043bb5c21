"""The steps of a training, an epoch at a time: launched one by one, or recorded as CUDA graphs.

A step of the published backbone is some hundreds of operators, most of them small: a GPU would wait for Python to
launch them. Where nothing in a step has to be asked of the device, its launches are recorded once for every size of
batch and played back. Then everything a step reads lies on the device before the epoch begins, also users and learning
rates: a step reads its row by a counter there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.models.attention import has_ragged_kernel
from fairrec_pipeline.objectives.base import State
from fairrec_pipeline.training.batches import Batches, CutSteps, FixedSizeBatches
from fairrec_pipeline.training.step import TrainingStep

_ROOM = 4
"""Batches of the first epoch may grow by so many grains before what was recorded is recorded again."""


class EpochOutcome(NamedTuple):
    """What S steps leave behind, (S, B) each: indices of their users, losses in nats, the objective's weights."""

    users: Tensor
    losses: Tensor
    weights: Tensor


class StepRunner:
    """Runs steps that Python launches one by one, on batches that are cut on the CPU.

    The state is that of the objective before the first step, on the device.
    """

    def __init__(self, step: TrainingStep, batches: Batches, state: State) -> None:
        self.step, self.batches, self.state = step, batches, state

    def run(self, users: Tensor, learning_rates: Sequence[float], first: int) -> EpochOutcome:
        """Run S steps on users (S, B), int64 on the CPU; `first` is the number of the first step, from 0."""
        outcomes = []
        for number, (drawn, rate) in enumerate(zip(users, learning_rates, strict=True), first):
            batch = self.batches.batch(drawn)
            for group in self.step.optimizer.param_groups:
                group["lr"] = rate
            losses, weights, self.state = self.step(batch, self.state, number)
            outcomes.append((batch.users, losses, weights))
        return EpochOutcome(*map(torch.stack, zip(*outcomes, strict=True)))


class GraphRunner(StepRunner):
    """Runs steps of which the device is asked nothing, recorded as CUDA graphs where there is CUDA.

    A batch has one of a few sizes (`FixedSizeBatches`). The first step of a size is launched by Python, which also
    makes what is made at first use; the second is recorded, and it and every further one are played back. From here on
    parameters, optimiser and state may be read between calls, and written in place, but not be replaced.

    The step has to be `recordable`; every call has users of the same shape (S, B).
    """

    def __init__(self, step: TrainingStep, batches: Batches, state: State, shape: tuple[int, int]) -> None:
        super().__init__(step, batches, dict(state))
        device = batches.device
        self.batches_of_fixed_size = FixedSizeBatches(batches, shape[1])
        self._users = torch.zeros(shape, dtype=torch.int64, device=device)
        self._rates = torch.zeros(shape[0], device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._steps: CutSteps | None = None
        self._outcome: tuple[Tensor, Tensor] | None = None  # losses and weights of every step
        self._rate = torch.zeros((), device=device)
        for group in step.optimizer.param_groups:
            group["lr"], group["capturable"] = self._rate, True
        self._known: set[tuple[int, bool]] = set()  # size, and whether the objective is not asked yet
        self.graphs: dict[tuple[int, bool], torch.cuda.CUDAGraph] = {}
        self._buffers: list[Tensor] = []  # a graph goes on writing where it was recorded, so that has to stay
        self.records = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self.records else None
        self._pool: Any = None

    def run(self, users: Tensor, learning_rates: Sequence[float], first: int) -> EpochOutcome:
        self._users.copy_(users)
        self._rates.copy_(torch.tensor(learning_rates))
        self._at.zero_()
        sizes = self.batches_of_fixed_size.sizes(users)
        with self._on_recording_stream():
            self._cut(sizes)
            for number, size in enumerate(sizes, first):
                self._run_one(size, number)
        assert self._outcome is not None  # there was a step
        return EpochOutcome(*(x.clone() for x in (self._users, *self._outcome)))

    def _cut(self, sizes: list[int]) -> None:
        """The batches of all steps, where the graphs read them."""
        width = max(sizes)
        if self._steps is not None and self._steps.cells.shape[2] >= width:
            new = self.batches_of_fixed_size.cut(self._users, sizes, self._steps.cells.shape[2])
            for kept, now in zip(self._steps, new, strict=True):
                kept.copy_(now)
            return
        # with room for larger ones: what was recorded reads from the old tensors, and has to be recorded again
        width += _ROOM * self.batches_of_fixed_size.grain
        self._steps = self.batches_of_fixed_size.cut(self._users, sizes, width)
        self.graphs.clear()
        if self.records:  # torch does not record into memory whose graphs are gone while a tensor is left there
            self._pool = torch.cuda.graph_pool_handle()
        self._known.clear()  # what is compiled for them is compiled in a launched step: no recording survives that

    def _run_one(self, size: int, number: int) -> None:
        kind = (size, number < self.step.warm_start_steps)
        if self.records and kind in self._known and kind not in self.graphs:
            self.graphs[kind] = self._recorded(size, number)
        if kind in self.graphs:
            self.graphs[kind].replay()
        else:
            self._known.add(kind)
            self.launch(size, number)

    def _recorded(self, size: int, number: int) -> torch.cuda.CUDAGraph:
        """The launches of a step, none of which is done."""
        graph = torch.cuda.CUDAGraph()
        try:
            # graphs share their memory: none needs what another has left there
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                self.launch(size, number)
        except Exception as error:  # the end of a failed recording hides what went wrong in it
            message = f"a step cannot be recorded: {error.__context__ or error}. train.cuda_graphs=false does without"
            raise OptionError(message) from error
        self._buffers.append(self.step.head.buffer)
        return graph

    def launch(self, size: int, number: int) -> None:
        """One step on the users at the counter; all that stays of it is written into tensors of this object."""
        assert self._steps is not None  # `run` has cut them
        step = self.step.compiled(_read)(self._steps, self._rates, self._at, self._rate)
        outcome = self.step(self.batches_of_fixed_size.batch(step, size), self.state, number)
        for name, value in outcome.state.items():
            if value is not self.state[name]:  # else it was written in place
                self.state[name].copy_(value)
        if self._outcome is None:  # in the first step, which is not recorded
            shape = self._users.shape
            self._outcome = outcome.losses.new_zeros(shape), outcome.weights.new_zeros(shape)
        self.step.compiled(_keep)(self._outcome, outcome[:2], self._at)

    @contextlib.contextmanager
    def _on_recording_stream(self) -> Iterator[None]:
        """On the stream that records: what is made on another one cannot be recorded."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)


def _read(steps: CutSteps, rates: Tensor, at: Tensor, rate: Tensor) -> CutSteps:
    """The step at the counter (1,); its learning rate goes where the optimiser reads it."""
    rate.copy_(rates.index_select(0, at)[0])
    return steps.at(at)


def _keep(kept: Sequence[Tensor], new: Sequence[Tensor], at: Tensor) -> None:
    """Each of the new tensors goes into the row at the counter, which goes on."""
    for rows, row in zip(kept, new, strict=True):
        rows.index_copy_(0, at, row[None])
    at += 1


def make_runner(
    step: TrainingStep, batches: Batches, state: State, shape: tuple[int, int], *, cuda_graphs: bool = True
) -> StepRunner:
    """A `GraphRunner` where that is wanted and possible: on CUDA, if nothing in a step is asked of the device."""
    possible = step.recordable and step.bf16  # which attention without padding needs
    if cuda_graphs and possible and has_ragged_kernel(step.model.head_width, step.model.dropout, batches.device):
        return GraphRunner(step, batches, state, shape)
    return StepRunner(step, batches, state)
