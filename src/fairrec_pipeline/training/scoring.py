"""States and scores of a model for whole histories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.copying import CopiedItems
from fairrec_pipeline.models.packing import Buckets
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.training.batches import Batch, Batches

TOKENS_AT_ONCE = 2**15
"""Of a batch of histories on the CPU."""
TOKENS_AT_ONCE_ON_GPU = 2**17
"""A GPU wants few large batches: with those of the CPU it waits for Python. The encoder needs about 1 GiB for this."""


class CutHistories(NamedTuple):
    """Histories to score: what cuts them on the device, and the batches of all of them once, by length."""

    batches: Batches
    cut: Iterable[Batch]


def cut_histories(model: SASRec, sequences: Histories, *, again: bool = False) -> CutHistories:
    """The histories as the model wants them; with `again` they can be scored more than once and are cut only now."""
    device, window = model.output_table.device, model.copy_window
    batches = Batches(sequences, max_length=model.max_length, device=device, copy_window=window)
    cut = batches.in_order(TOKENS_AT_ONCE if device.type == "cpu" else TOKENS_AT_ONCE_ON_GPU)
    return CutHistories(batches, list(cut) if again else cut)


@torch.no_grad()
def encode(model: SASRec, histories: Histories | CutHistories, *, bf16: bool = False) -> Tensor:
    """(n_users, dim) float32 state of every user after the newest item of the history.

    Args:
        model: is put into evaluation mode.
        bf16: run the products in bfloat16, as a training on a GPU does.
    """
    if isinstance(histories, Histories):
        histories = cut_histories(model, histories)
    model.eval()
    states = torch.empty(histories.batches.n_users, model.output_table.shape[1], device=model.output_table.device)
    for batch in histories.cut:
        assert isinstance(batch.layout, Buckets)  # of `Batches.batch`
        with torch.autocast(states.device.type, dtype=torch.bfloat16, enabled=bf16):
            newest = model.newest_states(batch.tokens, batch.positions, batch.layout, batch.ends)
        states[batch.users] = newest.to(states.dtype)
    return states


class ModelScorer:
    """`Scorer` of `metrics.ranking`: users (b,) to scores (b, n_items), float32 whatever the training precision.

    The scores live in one buffer that the next call overwrites.

    Args:
        model: is put into evaluation mode.
        bf16: find the users' states with products in bfloat16; the scores are single precision all the same.
    """

    def __init__(self, model: SASRec, histories: Histories | CutHistories, *, bf16: bool = False) -> None:
        if isinstance(histories, Histories):
            histories = cut_histories(model, histories)
        self.model, self._histories = model, histories.batches
        self._states = encode(model, histories, bf16=bf16)
        self._buffer = self._states.new_empty(0)

    @torch.no_grad()
    def __call__(self, users: Tensor) -> Tensor:
        weight = self.model.output_table
        size = len(users) * len(weight)
        if self._buffer.numel() < size:
            self._buffer = self._states.new_empty(size)
        scores = torch.mm(self._states[users], weight.T, out=self._buffer[:size].view(len(users), len(weight)))
        if self.model.copy is not None:
            rows, items, values, _ = self.model.copy(self._states[users], self.copied_items(users))
            scores.index_put_((rows, items), values, accumulate=True)
        return scores

    def copied_items(self, users: Tensor) -> CopiedItems:
        """What the copy mechanism of the model scores for these users."""
        return self._histories.copied_of(users.cpu())


def restored(weights: Mapping[str, Tensor], device: torch.device, **backbone: Any) -> SASRec:
    """A trained model in evaluation mode on the device; `backbone` are the arguments of `SASRec`."""
    model = SASRec(**backbone)
    model.load_state_dict(weights)
    return model.to(device).eval().requires_grad_(False)
