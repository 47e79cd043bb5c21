"""States and scores of a model for whole histories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.attention import has_ragged_kernel
from fairrec_pipeline.models.copying import Encounters, OwnItems
from fairrec_pipeline.models.packing import to_device
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.training.batches import Batch, Batches

TOKENS_AT_ONCE = 2**15
"""Of a batch of histories on the CPU."""
TOKENS_AT_ONCE_ON_GPU = 2**17
"""A GPU wants few large batches: with those of the CPU it waits for Python. The encoder needs about 1 GiB for this."""


class CutHistories(NamedTuple):
    """Histories to score: what cuts them on the device, the batches of all of them once, by length, and who met what.

    The last is for a model with a copy mechanism, else None.
    """

    batches: Batches
    cut: Iterable[Batch]
    met: Encounters | None


def cut_histories(model: SASRec, sequences: Histories, *, again: bool = False) -> CutHistories:
    """The histories as the model wants them; with `again` they can be scored more than once and are cut only now."""
    device = model.output_table.device
    batches = Batches(sequences, max_length=model.max_length, device=device)
    cut = batches.in_order(TOKENS_AT_ONCE if device.type == "cpu" else TOKENS_AT_ONCE_ON_GPU)
    met = None if model.copy is None else Encounters.of(sequences.event_users, sequences.items, device)
    return CutHistories(batches, list(cut) if again else cut, met)


@torch.no_grad()
def encode(model: SASRec, histories: Histories | CutHistories, *, bf16: bool = False) -> Tensor:
    """(n_users, dim) float32 state of every user after the newest item of the history.

    Args:
        model: is put into evaluation mode.
        bf16: run the products in bfloat16, as a training on a GPU does, there with the kernel that needs no padding.
    """
    if isinstance(histories, Histories):
        histories = cut_histories(model, histories)
    model.eval()
    states = torch.empty(histories.batches.n_users, model.output_table.shape[1], device=model.output_table.device)
    ragged = bf16 and has_ragged_kernel(model.head_width, 0.0, states.device)
    for batch in histories.cut:
        layout = batch.ragged if ragged else batch.layout
        with torch.autocast(states.device.type, dtype=torch.bfloat16, enabled=bf16):
            newest = model.newest_states(batch.tokens, batch.positions, layout, batch.ends)
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
        self.model, self._histories = model, histories
        self._states = encode(model, histories, bf16=bf16)
        self._buffer = self._states.new_empty(0)

    @torch.no_grad()
    def __call__(self, users: Tensor) -> Tensor:
        scores = self.plain(users)
        if self.model.copy is not None:
            own = self.own_items(users)
            scores.scatter_add_(1, own.items, self.model.copy(scores, own))
        return scores

    @torch.no_grad()
    def plain(self, users: Tensor) -> Tensor:
        """The scores without what the copy mechanism adds."""
        weight = self.model.output_table
        size = len(users) * len(weight)
        if self._buffer.numel() < size:
            self._buffer = self._states.new_empty(size)
        return torch.mm(self._states[users], weight.T, out=self._buffer[:size].view(len(users), len(weight)))

    def own_items(self, users: Tensor) -> OwnItems:
        """The items that the copy mechanism of the model scores for these users."""
        copy, met, batches = self.model.copy, self._histories.met, self._histories.batches
        assert copy is not None
        assert met is not None
        users = users.cpu()
        newest, lengths = batches.offsets[users] + batches.lengths[users] - 1, batches.lengths[users]
        return met.own_items(to_device(newest, batches.device), to_device(lengths, batches.device), copy.window)


def restored(weights: Mapping[str, Tensor], device: torch.device, **backbone: Any) -> SASRec:
    """A trained model in evaluation mode on the device; `backbone` are the arguments of `SASRec`."""
    model = SASRec(**backbone)
    model.load_state_dict(weights)
    return model.to(device).eval().requires_grad_(False)
