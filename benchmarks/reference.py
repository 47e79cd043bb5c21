"""The plain padded SASRec, as most repositories write it: what the benchmarks compare with and the tests believe.

`torch.nn.TransformerEncoder` on left-padded rectangles, a logits tensor over the whole catalogue, autograd from one
scalar, batches made of Python lists, evaluation through top-k lists. It computes the same function as
`fairrec_pipeline.models.sasrec`, by other means, so that the two can check each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives.base import LossBatch, Objective, State

IGNORED = -100
_NEVER = -1e9  # finite, so that a padded query, which may look at padding only, has a softmax and no nan


@dataclass(frozen=True)
class PaddedBatch:
    """Left-padded rectangles, as long as the longest sequence of the batch.

    Attributes:
        users: B indices into `sequences.users`.
        tokens: (B, L) items, start tokens and padding.
        padding: (B, L) bool, True where there is no token.
        targets: (B, L) item to predict after each token, `IGNORED` on padding; None at evaluation.
    """

    users: list[int]
    tokens: Tensor
    padding: Tensor
    targets: Tensor | None


class PaddedBatches:
    """Cuts padded batches out of Python lists, one user at a time.

    Args:
        sequences: histories; with targets they are cut for evaluation, without for training.
        max_length: most recent tokens a sequence keeps.
    """

    def __init__(self, sequences: Histories, *, max_length: int) -> None:
        items, offsets = sequences.items.tolist(), sequences.offsets.tolist()
        self.histories = [items[start:stop] for start, stop in pairwise(offsets)]
        self.start_token, self.padding_token = sequences.n_items, sequences.n_items + 1
        self.max_length, self.for_training = max_length, sequences.targets is None

    def batch(self, users: list[int]) -> PaddedBatch:
        tokens, targets = [], []
        for user in users:
            history = [self.start_token, *self.histories[user]]
            tokens.append((history[:-1] if self.for_training else history)[-self.max_length :])
            targets.append(history[1:][-self.max_length :])
        longest = max(len(row) for row in tokens)
        padded = torch.tensor([[self.padding_token] * (longest - len(row)) + row for row in tokens])
        padded_targets = None
        if self.for_training:
            padded_targets = torch.tensor([[IGNORED] * (longest - len(row)) + row for row in targets])
        return PaddedBatch(users, padded, padded == self.padding_token, padded_targets)


class PaddedSASRec(nn.Module):
    """SASRec on padded rectangles; arguments as `SASRec`, token `n_items` starts and token `n_items + 1` pads.

    Args:
        padding: `masked`: no real position looks at padding. `attended`: the fault of the published implementation
            (METHODS: backbone), whose mask, 1 on padding and 0 elsewhere, is added to the attention scores; a user's
            states then depend on how much longer the longest user of the batch is.
    """

    def __init__(
        self,
        n_items: int,
        *,
        dim: int,
        feed_forward: int,
        blocks: int,
        heads: int,
        dropout: float,
        max_length: int,
        init_std: float,
        padding: Literal["masked", "attended"] = "masked",
    ) -> None:
        super().__init__()
        self.padding = padding
        self.item_embedding = nn.Embedding(n_items + 2, dim)
        self.position_embedding = nn.Embedding(max_length, dim)
        self.output_embedding = nn.Embedding(n_items, dim)
        for table in (self.item_embedding, self.position_embedding, self.output_embedding):
            nn.init.normal_(table.weight, std=init_std)
        layer = nn.TransformerEncoderLayer(dim, heads, feed_forward, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)
        self.output_norm = nn.LayerNorm(dim)
        self.input_dropout, self.output_dropout = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """(B, L, dim) states after each token, from (B, L) tokens and their padding mask."""
        length = tokens.shape[1]
        positions = torch.arange(length - 1, -1, -1)  # counted from the end: the newest token has position 0
        x = self.input_dropout(self.item_embedding(tokens) + self.position_embedding(positions))
        causal = nn.Transformer.generate_square_subsequent_mask(length, dtype=x.dtype)
        added_to_scores = padding.to(x.dtype) * (_NEVER if self.padding == "masked" else 1.0)
        x = self.encoder(x, mask=causal, src_key_padding_mask=added_to_scores, is_causal=True)
        return self.output_norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """(..., n_items) scores of the whole catalogue after states (..., dim)."""
        return states @ self.output_dropout(self.output_embedding.weight).T


def copy_weights(source: SASRec, target: PaddedSASRec) -> None:
    """Give the padded model the weights of ours; its padding token, which ours has not, keeps its own."""
    with torch.no_grad():
        target.item_embedding.weight[:-1] = source.item_embedding.weight
        target.position_embedding.weight.copy_(source.position_embedding.weight)
        target.output_embedding.weight.copy_(source.output_embedding.weight)
        target.output_norm.load_state_dict(source.final_norm.state_dict())
        for name, parameter in parameter_pairs(source, target):
            if name.startswith("blocks."):
                parameter.copy_(source.get_parameter(name))


def parameter_pairs(source: SASRec, target: PaddedSASRec) -> list[tuple[str, Tensor]]:
    """Name of every parameter of our model, with the parameter of the padded model that plays its part.

    The item embedding of the padded model has one more row, the last, for padding.
    """
    pairs: list[tuple[str, Tensor]] = [
        (f"{table}.weight", target.get_parameter(f"{table}.weight"))
        for table in ("item_embedding", "position_embedding", "output_embedding")
    ]
    pairs += [(f"final_norm.{name}", parameter) for name, parameter in target.output_norm.named_parameters()]
    same_part = {
        "attention_norm": "norm1",
        "feed_forward_norm": "norm2",
        "attention_out": "self_attn.out_proj",
        "expand": "linear1",
        "contract": "linear2",
    }
    for number in range(len(source.blocks)):
        here, there = f"blocks.{number}", f"encoder.layers.{number}"
        for kind in ("weight", "bias"):
            pairs.append((f"{here}.qkv.{kind}", target.get_parameter(f"{there}.self_attn.in_proj_{kind}")))
            for ours, theirs in same_part.items():
                pairs.append((f"{here}.{ours}.{kind}", target.get_parameter(f"{there}.{theirs}.{kind}")))
    return pairs


class PaddedStep:
    """One optimiser step of the padded model: all logits, one scalar loss, autograd through everything.

    Args:
        model, optimizer: what is trained.
        objective: losses in, weights out.
        groups: (n_users,) int64 group of each user; None for group-agnostic objectives.
    """

    def __init__(
        self, model: PaddedSASRec, optimizer: torch.optim.Optimizer, objective: Objective, groups: Tensor | None
    ) -> None:
        self.model, self.optimizer, self.objective, self.groups = model, optimizer, objective, groups
        weights, parameter = objective.item_weights, model.output_embedding.weight
        self.item_weights = None if weights is None else weights.to(parameter)

    def __call__(self, batch: PaddedBatch, state: State, number: int = 0) -> tuple[Tensor, State]:
        """Step once; (B,) detached losses of `batch.users` in nats, and the objective's new state."""
        self.optimizer.zero_grad()
        losses, newest = self.losses(batch)
        groups = None if self.groups is None else self.groups[batch.users]
        lengths = (~batch.padding).sum(1)
        seen = LossBatch(losses.detach(), groups, torch.tensor(batch.users), newest.detach().float(), number, lengths)
        weights, state = self.objective.weights(seen, state)
        (weights * losses).sum().backward()
        self.optimizer.step()
        return losses.detach(), state

    def losses(self, batch: PaddedBatch) -> tuple[Tensor, Tensor]:
        """(B,) mean loss of each user over the real positions, with its graph, and (B, dim) their newest states."""
        assert batch.targets is not None  # a training batch
        states = self.model(batch.tokens, batch.padding)
        logits = self.model.logits(states)
        positions = functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="none"
        ).view(batch.targets.shape)
        if self.item_weights is not None:
            positions = positions * self.item_weights[batch.targets.clamp(min=0)]
        return positions.sum(1) / (~batch.padding).sum(1), states[:, -1]


@torch.no_grad()
def mean_ndcg(model: PaddedSASRec, sequences: Histories, *, k: int, batch_size: int, filter_seen: bool) -> float:
    """Mean NDCG@k of the held-out items by top-k lists, user by user and item by item, as the published code has it.

    A tie is broken as `torch.topk` pleases.
    """
    assert sequences.targets is not None  # only evaluation sequences have targets
    model.eval()
    batches = PaddedBatches(sequences, max_length=model.position_embedding.num_embeddings)
    lists: list[list[tuple[int, float]]] = []
    for start in range(0, sequences.n_users, batch_size):
        batch = batches.batch(list(range(start, min(start + batch_size, sequences.n_users))))
        logits = model.logits(model(batch.tokens, batch.padding)[:, -1])
        if filter_seen:
            for row, user in enumerate(batch.users):
                logits[row, batches.histories[user]] = -math.inf
        top = torch.topk(logits, min(k, logits.shape[1]))
        lists += [
            [(int(top.indices[row][place]), float(top.values[row][place])) for place in range(top.indices.shape[1])]
            for row in range(len(batch.users))
        ]
    total = 0.0
    for target, ranked in zip(sequences.targets.tolist(), lists, strict=True):
        for place, (item, score) in enumerate(ranked):
            if item == target and score > -math.inf:
                total += 1 / math.log2(place + 2)
    return total / sequences.n_users
