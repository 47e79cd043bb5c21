"""A catalogue that no single process can hold: each has the embeddings of some items, and all have the same batch.

Tables, their gradients and Adam's moments, the logits and the scores are those of the process's own items; the rest of
the model is the same everywhere. Per step the processes add up the embedded tokens, a normaliser and a target's logit
of every position, and the gradient of the states. So everything is exact (as in Megatron-LM's vocabulary parallelism).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.interactions.histories import UNKNOWN, Histories
from fairrec_pipeline.metrics.ranking import SCORES_AT_ONCE, SeenItems
from fairrec_pipeline.models.sasrec import Backbone, Block, SASRec, lookup
from fairrec_pipeline.models.softmax_head import SoftmaxHead, SoftmaxLosses
from fairrec_pipeline.training.scoring import encode
from fairrec_pipeline.training.team import Team

TABLES = ("item_embedding.weight", "output_embedding.weight")
"""The parameters that have a row per item."""
_BLOCK = 2**12


@dataclass(frozen=True)
class Shard:
    """The items `start .. stop - 1` of a catalogue of n_items, those of one process of a team."""

    n_items: int
    team: Team

    @property
    def start(self) -> int:
        return self.n_items * self.team.rank // self.team.size

    @property
    def stop(self) -> int:
        return self.n_items * (self.team.rank + 1) // self.team.size

    def rows(self, table: Tensor) -> Tensor:
        """The rows of a whole table that lie here; the start token's, where there is one, besides."""
        own = table[self.start : self.stop]
        return torch.cat((own, table[self.n_items :])) if len(table) > self.n_items else own

    def sum(self, own: Tensor) -> Tensor:
        """The sum over the processes, of which this one has `own`; in place."""
        self.team.add_up([own])
        return own

    def logsumexp(self, own: Tensor) -> Tensor:
        """(n,) logarithm of the sum of exponentials over the processes."""
        of_all = own.new_zeros(self.team.size, len(own))
        of_all[self.team.rank] = own
        return torch.logsumexp(self.sum(of_all), 0)


class ShardedSASRec(SASRec):
    """A SASRec whose tables have the rows of one shard; on the CPU.

    With the same seed its fresh parameters are the same for any number of processes, and its dropout masks those of the
    whole model.

    Args:
        shard: has at least one item.
        backbone: sizes, as those of `SASRec`.

    Raises:
        OptionError: there is a copy mechanism, whose scores are not shared out, or fewer items than processes.
    """

    def __init__(self, shard: Shard, **backbone: Any) -> None:
        if backbone.get("copy_window") or shard.stop == shard.start:
            raise OptionError(
                f"a catalogue of {shard.n_items} items cannot be shared out over {shard.team.size} processes with "
                f"copy_window={backbone.get('copy_window', 0)}; set model.copy_window=0, and at most a process an item"
            )
        super().__init__(shard.stop - shard.start, **backbone)
        self.shard = shard
        self._initialise(Backbone(**backbone))

    @torch.no_grad()
    def _initialise(self, sizes: Backbone) -> None:
        """Fresh parameters that hang on the seed of torch alone: those after the tables would hang on their sizes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed())
            nn.init.normal_(self.position_embedding.weight, std=sizes.init_std)
            block = (sizes.dim, sizes.feed_forward, sizes.heads, sizes.dropout)
            self.blocks = nn.ModuleList(Block(*block) for _ in range(sizes.blocks))
        for number, name in enumerate(TABLES):
            if name in dict(self.named_parameters()):
                self._draw(self.get_parameter(name), sizes.init_std, number)

    def _draw(self, table: Tensor, std: float, number: int) -> None:
        """Fresh rows, the same for any number of processes."""
        shard, at = self.shard, 0
        start_token = range(shard.n_items, shard.n_items + len(table) - self.n_items)
        for rows in (range(shard.start, shard.stop), start_token):
            for drawn in _drawn(rows, table.shape[1], (torch.initial_seed(), number)):
                table[at : at + len(drawn)] = std * drawn
                at += len(drawn)

    def load_whole(self, weights: Mapping[str, Tensor]) -> None:
        """Take this shard's part of the weights of a `SASRec`."""
        self.load_state_dict({k: self.shard.rows(x) if k in TABLES else x for k, x in weights.items()})

    def output_weight(self) -> Tensor:
        rate = self.dropout if self.training else 0.0
        if rate == 0:
            return self.output_table
        table, shard = self.output_table, self.shard
        kept = self.mask_source.kept_rows((shard.n_items, table.shape[1]), rate, range(shard.start, shard.stop))
        return table * kept.to(table.dtype).mul_(1 / (1 - rate))

    def _embedded(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The start token's embedding is that of the last process."""
        shard, n = self.shard, self.n_items
        is_start = tokens == shard.n_items
        is_here = (tokens >= shard.start) & (tokens < shard.stop)
        if shard.team.rank == shard.team.size - 1:
            is_here |= is_start
        rows = torch.where(is_start, n, (tokens - shard.start).clamp(0, n - 1))
        own = lookup(self.item_embedding.weight, rows) * is_here[:, None]
        of_items = _sum_of_all(own, shard)
        return torch.add(lookup(self.position_embedding.weight, positions), of_items, alpha=self.input_scale)


def _drawn(rows: range, width: int, seed: tuple[int, int]) -> Iterator[Tensor]:
    """Some rows of a table of normal numbers, block by block, each with a seed of its own."""
    first = rows.start
    while first < rows.stop:
        block, offset = divmod(first, _BLOCK)
        word = int(np.random.SeedSequence((*seed, block)).generate_state(1, np.uint64)[0])
        drawn = torch.randn(_BLOCK, width, generator=torch.Generator().manual_seed(word))
        yield drawn[offset : offset + rows.stop - first]
        first = (block + 1) * _BLOCK


class _Sum(torch.autograd.Function):
    """The sum over the processes; what follows is the same in all, and so is the gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, shard: Shard) -> Tensor:
        return shard.sum(own.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


_sum_of_all: Callable[[Tensor, Shard], Tensor] = _Sum.apply


class ShardedHead(SoftmaxHead):
    """The head over the items of a shard: losses and gradients by the states are those of the whole catalogue.

    Args:
        options: those of `SoftmaxHead`.
    """

    def __init__(self, shard: Shard, **options: Any) -> None:
        super().__init__(**options)
        self.shard = shard

    def _made(self, *arguments: Any, **options: Any) -> SoftmaxLosses:
        return _ShardedLosses(self.shard, *arguments, **options)


class _ShardedLosses(SoftmaxLosses):
    def __init__(self, shard: Shard, states: Tensor, weight: Tensor, targets: Tensor, *rest: Any, **options: Any):
        self._shard = shard
        super().__init__(states, weight, targets - shard.start, *rest, **options)

    def _of_catalogue(self, log_normaliser: Tensor, target_logits: Tensor) -> tuple[Tensor, Tensor]:
        return self._shard.logsumexp(log_normaliser), self._shard.sum(target_logits)

    def gradients(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        by_states, by_weight = super().gradients(coefficients)
        return self._shard.sum(by_states), by_weight


@torch.no_grad()
def rank_over_shards(model: ShardedSASRec, sequences: Histories, *, filter_seen: bool) -> tuple[np.ndarray, np.ndarray]:
    """What `metrics.ranking.rank_and_loss` says of the whole model, with the scores of one shard in each process.

    Args:
        model: is put into evaluation mode.
        sequences: histories with targets.
        filter_seen: leave the items of a user's history out of the ranking.

    Returns:
        ranks (n_users,) int64, 0 where the target cannot be ranked; losses (n_users,) float32 in nats, nan where it is
        unknown. The same in all processes.

    Raises:
        ValueError: a target's score is not a number.
    """
    assert sequences.targets is not None  # only evaluation sequences have targets
    shard, states, table = model.shard, encode(model, sequences), model.output_table
    targets = torch.from_numpy(sequences.targets)
    seen = SeenItems(sequences, "cpu") if filter_seen else None
    n_users, rows = sequences.n_users, max(1, SCORES_AT_ONCE // shard.n_items)
    ranks, losses = torch.zeros(n_users, dtype=torch.int64), states.new_zeros(n_users)
    for start in range(0, n_users, rows):
        users = slice(start, min(start + rows, n_users))
        scores, here = states[users] @ table.T, targets[users] - shard.start
        is_here = (here >= 0) & (here < len(table))
        of_targets = scores.gather(1, here.clamp(0, len(table) - 1)[:, None])[:, 0]
        of_targets = shard.sum(torch.where(is_here, of_targets, 0))
        rank = torch.count_nonzero(scores >= of_targets[:, None], dim=1)
        if seen is not None:
            row, item = seen.rows_and_items(users.start, users.stop)
            mine = (item >= shard.start) & (item < shard.stop)
            ahead = scores[row[mine], item[mine] - shard.start] >= of_targets[row[mine]]
            rank.index_add_(0, row[mine], ahead.long(), alpha=-1)
        rank = shard.sum(rank)
        if seen is not None:
            rank[row[item == targets[users][row]]] = 0
        ranks[users] = rank.masked_fill(torch.isnan(of_targets), -1)
        losses[users] = shard.logsumexp(torch.logsumexp(scores, 1)) - of_targets
    known = targets != UNKNOWN
    if bool((ranks[known] < 0).any()):
        message = f"the scores of {int((ranks[known] < 0).sum())} targets are not numbers; did training diverge?"
        raise ValueError(message)
    unknown_loss = torch.full((), float("nan"))
    return torch.where(known, ranks, 0).numpy(), torch.where(known, losses.float(), unknown_loss).numpy()
