"""One batch on several processes: each has a share of its users, and all have the losses and weights of all users.

The sum over the shares is the loss of the whole batch, so gradients are added up and not averaged.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairrec_pipeline.models.dropout import MasksOfPart, MaskSource
from fairrec_pipeline.models.packing import buckets_of, to_device
from fairrec_pipeline.objectives.base import LossBatch, State
from fairrec_pipeline.training.batches import Batch, Batches
from fairrec_pipeline.training.cuda_graphs import EpochOutcome, StepRunner
from fairrec_pipeline.training.step import StepOutcome, TrainingStep
from fairrec_pipeline.training.team import Team


@dataclass(frozen=True, kw_only=True)
class Share(Batch):
    """A process's share of a batch of B users: the b users of `Batch` are its own.

    Attributes:
        all_users: (B,) users of the whole batch, by falling length.
        places: (b,) where its own are among them.
        all_lengths: (B,) int64 on the CPU, number of positions of each user.
        mine: (B,) bool on the CPU, which users are its own.
    """

    all_users: Tensor
    places: Tensor
    all_lengths: Tensor
    mine: Tensor

    def masks(self, source: MaskSource) -> MaskSource:
        """Masks of the share, from the source of the whole batch."""
        rows = torch.repeat_interleave(self.mine, self.all_lengths).nonzero()[:, 0]
        buckets = [(bucket.sequences, bucket.length) for bucket in buckets_of(self.all_lengths, torch.device("cpu"))]
        inside = [part.nonzero()[:, 0] for part in self.mine.split([count for count, _ in buckets])]
        return MasksOfPart(source, rows, int(self.all_lengths.sum()), buckets, inside)


def share_of(batches: Batches, users: Tensor, team: Team) -> Share:
    """This process's share of the training batch of some users (CPU int64): about as many positions as the others'."""
    lengths = batches.lengths[users].clamp(max=batches.max_length)
    order = torch.argsort(lengths, descending=True, stable=True)  # as the whole batch would have it
    users, lengths = users[order], lengths[order]
    mine = torch.tensor(owners(lengths.tolist(), team.size)) == team.rank
    own = batches.batch(users[mine])
    device = batches.device
    return Share(
        **vars(own), all_users=users.to(device), places=mine.nonzero()[:, 0].to(device), all_lengths=lengths, mine=mine
    )


def owners(lengths: Sequence[int], n: int) -> list[int]:
    """Which of n processes takes each sequence: the one with the fewest positions so far; lengths falling.

    So no process has more positions than another by more than one sequence, and each has a sequence if there are n.
    """
    loads = [(0, rank) for rank in range(n)]
    found = []
    for length in lengths:
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + length, rank))
        found.append(rank)
    return found


class SharedStep(TrainingStep):
    """A training step on a share of a batch.

    Every process puts its losses and states where they belong in the whole batch. The sum is that of the whole batch;
    the objective sees it on every process alike, and so its state is the same everywhere.

    The arguments and options are those of `TrainingStep`. Batches are shares.
    """

    def __init__(self, *arguments: Any, team: Team, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.team = team
        self._whole: tuple[Tensor, Tensor]  # losses and weights of the last batch

    def __call__(self, batch: Batch, state: State, number: int = 0) -> StepOutcome:
        """Step once; losses and weights are those of the users of the whole batch."""
        outcome = self.backward(batch, state, number)
        for parameter in self.model.parameters():
            if parameter.requires_grad and parameter.grad is None:  # a share without a user that has weight
                parameter.grad = torch.zeros_like(parameter)
        self.team.add_up(x.grad for x in self.model.parameters() if x.grad is not None)
        self.optimizer.step()
        return StepOutcome(*self._whole, outcome.state)

    def weigh(self, batch: Batch, seen: LossBatch, state: State) -> tuple[Tensor, State]:
        assert isinstance(batch, Share)  # of `share_of`
        own = torch.cat((seen.losses[:, None], seen.states.to(seen.losses)), 1)
        whole = own.new_zeros(len(batch.all_users), own.shape[1]).index_copy_(0, batch.places, own)
        self.team.add_up([whole])
        losses, states = whole[:, 0].contiguous(), whole[:, 1:].to(seen.states)
        groups = None if self.groups is None else self.groups[batch.all_users]
        lengths = to_device(batch.all_lengths, losses.device)
        of_all = LossBatch(losses, groups, batch.all_users, states, seen.step, lengths)
        weights, state = super().weigh(batch, of_all, state)
        self._whole = losses, weights
        return weights[batch.places], state

    def masks(self, batch: Batch) -> MaskSource:
        assert isinstance(batch, Share)  # of `share_of`
        source = super().masks(batch)
        drawn_by_us = self.model.dropout > 0 and batch.tokens.device.type == "cpu"
        return batch.masks(source) if drawn_by_us else source


class SharedRunner(StepRunner):
    """Runs steps on shares; every process has the outcome of the whole batches."""

    def __init__(self, step: SharedStep, batches: Batches, state: State) -> None:
        super().__init__(step, batches, state)
        self.team = step.team

    def run(self, users: Tensor, learning_rates: Sequence[float], first: int) -> EpochOutcome:
        outcomes = []
        for number, (drawn, rate) in enumerate(zip(users, learning_rates, strict=True), first):
            batch = share_of(self.batches, drawn, self.team)
            for group in self.step.optimizer.param_groups:
                group["lr"] = rate
            losses, weights, self.state = self.step(batch, self.state, number)
            outcomes.append((batch.all_users, losses, weights))
        # sums on a GPU have no order: the states of the processes may part by a rounding
        self.team.follow_first(self.state.values())
        return EpochOutcome(*map(torch.stack, zip(*outcomes, strict=True)))
