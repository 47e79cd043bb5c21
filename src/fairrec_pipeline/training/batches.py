"""Batches of users as packed tensors, cut from the flat arrays without a loop over users.

A training sequence feeds the start token and all items but the last, and predicts every item; at evaluation the whole
history is fed and the state after its newest item is kept. Both see the last `max_length` tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.packing import Buckets, Layout, Ragged, buckets_of, to_device

_LEAST_GRAIN = 64
_SIZES_TO_THE_MEAN = 16
"""A batch is filled up by three or four per cent; half of that would double the number of sizes."""


@dataclass(frozen=True)
class Batch:
    """Packed sequences of B users; n positions in all.

    Attributes:
        users: (B,) indices into `sequences.users`.
        tokens, positions, layout: what `SASRec.forward` takes.
        targets: (n,) item to predict after each token; None at evaluation.
        rows: (n,) which of the B users a position belongs to.
        lengths: (B,) number of positions of each user.
        real: (n,) int64, 0 where a position only fills up a batch of a fixed size, else 1; None if there is no such.
    """

    users: Tensor
    tokens: Tensor
    positions: Tensor
    layout: Layout
    targets: Tensor | None
    rows: Tensor
    lengths: Tensor
    real: Tensor | None = None

    @property
    def ends(self) -> Tensor:
        """(B,) position of each user's newest token."""
        return torch.cumsum(self.lengths, 0) - 1

    @property
    def ragged(self) -> Ragged:
        """The same sequences for a kernel that takes them without padding; asks the device nothing."""
        assert isinstance(self.layout, Buckets)  # of `Batches.batch`
        offsets = functional.pad(torch.cumsum(self.lengths, 0), (1, 0)).to(torch.int32)
        return Ragged(offsets, max(bucket.length for bucket in self.layout))

    def part(self, users: Tensor) -> Part:
        """What the model needs of some of the users, by ascending index in the batch; on the CPU, from buckets."""
        assert isinstance(self.layout, Buckets)  # of `Batches.batch`
        kept = torch.zeros(len(self.users), dtype=torch.bool).index_fill_(0, users, value=True)
        rows = kept[self.rows].nonzero()[:, 0]
        sequences = [inside.nonzero()[:, 0] for inside in kept.split([bucket.sequences for bucket in self.layout])]
        buckets = buckets_of(self.lengths[users], self.lengths.device)  # those of the batch that keep a sequence
        return Part(self.tokens[rows], self.positions[rows], buckets, rows, sequences)


class Part(NamedTuple):
    """Some of the sequences of a batch.

    Attributes:
        tokens, positions, layout: what `SASRec.forward` takes.
        rows: (n,) their positions in the batch.
        sequences: of every bucket of the batch those that are kept, counted within the bucket.
    """

    tokens: Tensor
    positions: Tensor
    layout: Buckets
    rows: Tensor
    sequences: list[Tensor]


class Batches:
    """Cuts batches from histories that stay on the device: with targets for evaluation, without for training.

    Args:
        max_length: most recent tokens a sequence keeps.
    """

    def __init__(self, sequences: Histories, *, max_length: int, device: torch.device) -> None:
        self.n_users, self.start_token = sequences.n_users, sequences.n_items
        self.max_length, self.device = max_length, device
        self.for_training = sequences.targets is None
        # the item before the first one is the start token, so that tokens are the items shifted by one; where no user
        # has an item, there is one that is never looked at
        self.items = torch.from_numpy(sequences.items if len(sequences.items) else np.zeros(1, np.int64)).to(device)
        # lengths and offsets stay on the CPU: they decide shapes, and asking a GPU for shapes would stall it
        self.offsets = torch.from_numpy(sequences.offsets[:-1])
        self.lengths = torch.from_numpy(sequences.lengths)

    def batch(self, users: Tensor) -> Batch:
        """The packed batch of these users (CPU int64), by falling length."""
        history = self.lengths[users]
        tokens_of = history if self.for_training else history + 1  # training drops the last token, evaluation keeps it
        lengths = tokens_of.clamp(max=self.max_length)
        order = torch.argsort(lengths, descending=True, stable=True)
        users, history, tokens_of, lengths = users[order], history[order], tokens_of[order], lengths[order]

        n = int(lengths.sum())
        rows = torch.repeat_interleave(torch.arange(len(users)), lengths)
        within = torch.arange(n) - (torch.cumsum(lengths, 0) - lengths)[rows]  # 0 .. length - 1
        skipped = tokens_of - lengths
        token_number = within + skipped[rows]  # 0 is the start token, j the j-th item
        event = self.offsets[users][rows] + token_number  # of the item after this token
        is_start = token_number == 0

        event, is_start = self._to(event), self._to(is_start)
        return Batch(
            users=self._to(users),
            tokens=self.items[(event - 1).clamp(min=0)].masked_fill(is_start, self.start_token),
            positions=self._to(lengths[rows] - 1 - within),
            layout=buckets_of(lengths, self.device),
            targets=self.items[event] if self.for_training else None,
            rows=self._to(rows),
            lengths=self._to(lengths),
        )

    def _to(self, x: Tensor) -> Tensor:
        return to_device(x, self.device)

    def in_order(self, tokens: int) -> Iterator[Batch]:
        """All users once, by length, so that a batch has little to pad, and at most about so many tokens."""
        order = torch.argsort(self.lengths, stable=True)
        ends = torch.cumsum((self.lengths[order] + 1).clamp(max=self.max_length), 0)
        _, counts = torch.unique_consecutive(ends // tokens, return_counts=True)
        for users in order.split(counts.tolist()):
            yield self.batch(users)


class CutSteps(NamedTuple):
    """The positions of S batches, cut at once; W is the largest size.

    Attributes:
        users: (S, B) int64.
        lengths: (S, B) int64 number of positions of each user.
        offsets: (S, B + fillers + 1) int32, where each sequence begins and the last one ends.
        cells: (S, parts, W) int64; the parts are token, position, target, row in the batch, and whether it is real.
    """

    users: Tensor
    lengths: Tensor
    offsets: Tensor
    cells: Tensor

    def at(self, step: Tensor) -> CutSteps:
        """What there is of one step, whose number (1,) lies on the device; without the first dimension."""
        return CutSteps(*(x.index_select(0, step)[0] for x in self))


class FixedSizeBatches:
    """Cuts training batches on the device, into few sizes, so that no shape depends on whose histories they are.

    What is left of a size are more sequences, of start tokens, whose positions are not `real`. The batches of an epoch
    are cut at once, since each of the many small operators costs more than its numbers.
    """

    def __init__(self, batches: Batches, batch_size: int) -> None:
        assert batches.for_training
        self._batches = batches
        self._lengths = batches.lengths.clamp(max=batches.max_length)
        mean = float(self._lengths.double().mean()) * batch_size
        self.grain = max(_LEAST_GRAIN, round(mean / _SIZES_TO_THE_MEAN / _LEAST_GRAIN) * _LEAST_GRAIN)
        self._history, self._offsets = batches.lengths.to(batches.device), batches.offsets.to(batches.device)

    def sizes(self, users: Tensor) -> list[int]:
        """Number of positions for each of S batches, a multiple of `grain`; users (S, B) on the CPU.

        At least so many are not real that none of the `fillers` is empty.
        """
        real = self._lengths[users].sum(1) + self.fillers - 1
        return ((real // self.grain + 1) * self.grain).tolist()

    @property
    def fillers(self) -> int:
        """So many that they are about as long as a sequence can be: one long one would hold up the others."""
        return self.grain // self._batches.max_length + 1

    def cut(self, users: Tensor, sizes: list[int], width: int) -> CutSteps:
        """The positions of S batches.

        Args:
            users: (S, B) int64 on the device.
            sizes: S of them, from `sizes`.
            width: W, none of the sizes is larger.
        """
        items, max_length, n = self._batches.items, self._batches.max_length, users.shape[1]
        history = self._history[users]
        lengths = history.clamp(max=max_length)
        ends = torch.cumsum(lengths, 1)
        cells = torch.arange(width, device=users.device).repeat(len(users), 1)
        rows = torch.searchsorted(ends, cells, right=True)
        real = rows < n
        rows = rows.clamp(max=n - 1)
        to_end = ends.gather(1, rows) - 1 - cells
        token_number = history.gather(1, rows) - 1 - to_end  # 0 is the start token, j the j-th item
        event = (self._offsets[users].gather(1, rows) + token_number) * real  # of the item after this token
        is_start = ~real | (token_number == 0)
        tokens = items[(event - 1).clamp(min=0)].masked_fill(is_start, self._batches.start_token)
        parts = [tokens, to_end.clamp(min=0), items[event], rows, real.long()]
        numbers, last = torch.arange(1, self.fillers + 1, device=users.device), ends[:, -1:]
        fillers = last + numbers * (to_device(torch.tensor(sizes), users.device)[:, None] - last) // self.fillers
        offsets = functional.pad(torch.cat((ends, fillers), 1), (1, 0)).to(torch.int32)
        return CutSteps(users, lengths, offsets, torch.stack(parts, 1))

    def batch(self, step: CutSteps, size: int) -> Batch:
        """The batch of one of the steps of `cut`, of that size; its users in their order."""
        users, lengths, offsets, cells = step
        tokens, positions, targets, rows, real = cells[:, :size].unbind()
        longest_filler = -(-(self.grain + self.fillers - 1) // self.fillers)
        return Batch(
            users=users,
            tokens=tokens,
            positions=positions,
            layout=Ragged(offsets, max(self._batches.max_length, longest_filler)),
            targets=targets,
            rows=rows,
            lengths=lengths,
            real=real,
        )


class UserStream:
    """An endless shuffled stream of users: pass after pass over all of them, each pass in another order.

    Batch t is a function of (seed, t) alone, so a resumed training needs no generator state.

    Args:
        batch_size: users a batch; a batch may span two passes.
        balance: (n_users,) group of each user: every group has such a stream, and they take turns. Each then
            has an equal share of every batch, to one user; a user of a small group comes more often.
    """

    def __init__(self, n_users: int, batch_size: int, seed: int, balance: np.ndarray | None = None) -> None:
        self.batch_size, self.seed = batch_size, seed
        groups = np.zeros(n_users, dtype=np.int64) if balance is None else balance
        self._members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        self._passes: dict[tuple[int, int], np.ndarray] = {}

    def users(self, step: int) -> Tensor:
        """(batch_size,) users of batch `step`, counted from 0."""
        stream = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        users = np.empty_like(stream)
        needed = {}
        for group, members in enumerate(self._members):
            turns = np.flatnonzero(stream % len(self._members) == group)
            passes, at = np.divmod(stream[turns] // len(self._members), len(members))
            for number in np.unique(passes).tolist():
                key = (group, number)
                known = self._passes.get(key)
                needed[key] = self._shuffled(*key) if known is None else known
                here = passes == number
                users[turns[here]] = needed[key][at[here]]
        self._passes = needed
        return torch.from_numpy(users)

    def _shuffled(self, group: int, number: int) -> np.ndarray:
        return np.random.default_rng((self.seed, number, group)).permutation(self._members[group])
