"""SASRec (Kang and McAuley 2018) as the paper trains it: a causal transformer with softmax over the whole catalogue.

Differences to the usual code, none of which changes the function computed: sequences are packed instead of padded,
and the output layer is left to `softmax_head`, which needs no logits tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairrec_pipeline.models.attention import causal_attention, newest_attention
from fairrec_pipeline.models.copying import CopyMechanism
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.packing import Buckets, Layout, Ragged, pad, rows_of_table


def lookup(table: Tensor, indices: Tensor) -> Tensor:
    """(n, dim) rows of a table (rows, dim) by index (n,)."""
    if table.device.type == "cpu" or torch.compiler.is_compiling():  # the compiler has a way of its own
        return functional.embedding(indices, table)
    return rows_of_table(table, indices)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Sizes of a SASRec.

    Attributes:
        dim, feed_forward: width of a state, and of the hidden layer of a block.
        blocks, heads: how many; every block has so many heads.
        dropout: rate on embeddings, attention weights, blocks and the output embedding.
        max_length: most recent tokens that are looked at.
        init_std: standard deviation of the embedding tables; torch's default, used by the published model, is 1.
        tied_embeddings: one table for input (times sqrt(dim)) and output, as in SASRec's first code; the paper has two.
        copy_window: how many of a user's newest events a copy mechanism looks at; 0 for none, as in the paper.
    """

    dim: int
    feed_forward: int
    blocks: int
    heads: int
    dropout: float
    max_length: int
    init_std: float
    tied_embeddings: bool = False
    copy_window: int = 0


class SASRec(nn.Module):
    """Item embedding plus learned positions, pre-norm encoder blocks, a final norm and an output embedding.

    Positions count from the end: the newest item of every sequence has position 0. Token `n_items` is the start token.
    Dropout is active in training mode and draws its masks from `mask_source`. The sizes are the fields of `Backbone`.
    """

    def __init__(self, n_items: int, **backbone: Any) -> None:
        super().__init__()
        sizes = Backbone(**backbone)
        dim, max_length, dropout, tied = sizes.dim, sizes.max_length, sizes.dropout, sizes.tied_embeddings
        self.n_items, self.max_length, self.dropout = n_items, max_length, dropout
        self.head_width = dim // sizes.heads
        self.item_embedding = nn.Embedding(n_items + 1, dim)
        self.position_embedding = nn.Embedding(max_length, dim)
        self.output_embedding = None if tied else nn.Embedding(n_items, dim)
        self.input_scale = dim**0.5 if tied else 1.0
        for table in (self.item_embedding, self.position_embedding, self.output_embedding):
            if table is not None:
                nn.init.normal_(table.weight, std=sizes.init_std)
        self.blocks = nn.ModuleList(Block(dim, sizes.feed_forward, sizes.heads, dropout) for _ in range(sizes.blocks))
        self.final_norm = nn.LayerNorm(dim)
        self.copy = CopyMechanism(sizes.copy_window) if sizes.copy_window else None
        self.mask_source = MaskSource(0)  # a training sets another one for every epoch

    @property
    def output_table(self) -> Tensor:
        """(n_items, dim) output embedding, without dropout."""
        return self.item_embedding.weight[:-1] if self.output_embedding is None else self.output_embedding.weight

    def forward(self, tokens: Tensor, positions: Tensor, layout: Layout, masks: MaskSource | None = None) -> Tensor:
        """States after each token.

        Args:
            tokens: (n,) packed items and start tokens, oldest first within a sequence.
            positions: (n,) distance of each token to the end of its sequence, below `max_length`.
            layout: the sequences, for attention; those of buckets come by falling length.
            masks: of dropout; None for those of `mask_source`.

        Returns:
            (n, dim) states; the score of item i after token t is `state[t] @ output_table[i]`, plus what the copy
            mechanism adds.
        """
        masks = masks or self.mask_source
        x = masks.dropout(self._embedded(tokens, positions), self.dropout if self.training else 0.0)
        for block in self.blocks:
            x = block(x, layout, masks)
        return cast(Tensor, self.final_norm(x))

    def newest_states(self, tokens: Tensor, positions: Tensor, layout: Layout, ends: Tensor) -> Tensor:
        """(B, dim) `forward(...)[ends]` without dropout, where the last block works on the newest positions only."""
        x = self._embedded(tokens, positions)
        for block in self.blocks[:-1]:
            x = block(x, layout, self.mask_source)
        return cast(Tensor, self.final_norm(cast(Block, self.blocks[-1]).newest(x, layout, ends)))

    def output_weight(self) -> Tensor:
        """(n_items, dim) output embedding; in training mode with dropout on its elements."""
        return self.mask_source.dropout(self.output_table, self.dropout if self.training else 0.0)

    def _embedded(self, tokens: Tensor, positions: Tensor) -> Tensor:
        of_positions = lookup(self.position_embedding.weight, positions)
        of_items = lookup(self.item_embedding.weight, tokens)
        # in one pass, and in none for the scale where it is 1
        return torch.add(of_positions, of_items, alpha=self.input_scale)


class Block(nn.Module):
    """Pre-norm encoder block with ReLU feed-forward: `torch.nn.TransformerEncoderLayer(norm_first=True)`, packed."""

    def __init__(self, dim: int, feed_forward: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.attention_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.expand, self.contract = nn.Linear(dim, feed_forward), nn.Linear(feed_forward, dim)
        # as torch.nn.MultiheadAttention initialises itself
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.attention_out.bias)

    def forward(self, x: Tensor, layout: Layout, mask_source: MaskSource) -> Tensor:
        rate = self.dropout if self.training else 0.0
        qkv = self.qkv(self.attention_norm(x))
        attended = self.attention_out(causal_attention(qkv, layout, self.heads, mask_source, rate))
        x = x + mask_source.dropout(attended, rate)
        inner = mask_source.dropout(torch.relu(self.expand(self.feed_forward_norm(x))), rate)
        return x + mask_source.dropout(self.contract(inner), rate)

    def newest(self, x: Tensor, layout: Layout, ends: Tensor) -> Tensor:
        """(B, dim) `forward(...)[ends]` without dropout: keys and values of all positions, the rest of the newest."""
        dim = x.shape[1]
        normed = self.attention_norm(x)
        queries = functional.linear(normed[ends], self.qkv.weight[:dim], self.qkv.bias[:dim])
        keys_values = functional.linear(normed, self.qkv.weight[dim:], self.qkv.bias[dim:])
        if isinstance(layout, Ragged):
            attended = newest_attention(queries, keys_values, layout, self.heads)
        else:
            attended = self._newest_of_buckets(queries, keys_values, layout, ends)
        newest = x[ends] + self.attention_out(attended)
        return cast(Tensor, newest + self.contract(torch.relu(self.expand(self.feed_forward_norm(newest)))))

    def _newest_of_buckets(self, queries: Tensor, keys_values: Tensor, buckets: Buckets, ends: Tensor) -> Tensor:
        lengths, dim = torch.diff(ends, prepend=ends.new_tensor([-1])), queries.shape[1]
        parts, first = [], 0
        for bucket, rows in zip(buckets, keys_values.split([bucket.rows for bucket in buckets]), strict=True):
            b, length = bucket.sequences, bucket.length
            q = queries[first : first + b].view(b, self.heads, 1, -1)
            k, v = pad(rows, bucket).view(b, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
            real = torch.arange(length, device=rows.device) < lengths[first : first + b, None]
            attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None])
            parts.append(attended.reshape(b, dim))
            first += b
        return torch.cat(parts)
