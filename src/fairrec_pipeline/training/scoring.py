"""States and scores of a model for whole histories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairrec_pipeline.interactions.sequences import Sequences
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.checkpoint import Snapshot

TOKENS_AT_ONCE = 2**15


@torch.no_grad()
def encode(model: SASRec, sequences: Sequences) -> Tensor:
    """(n_users, dim) float32 state of every user after the newest item of the history."""
    device = model.output_table.device
    model.eval()
    batches = Batches(sequences, max_length=model.max_length, device=device)
    states = torch.empty(sequences.n_users, model.output_table.shape[1], device=device)
    for batch in batches.in_order(TOKENS_AT_ONCE):
        newest = model.newest_states(batch.tokens, batch.positions, batch.buckets, batch.ends)
        states[batch.users] = newest.float()
    return states


@torch.no_grad()
def model_scorer(model: SASRec, sequences: Sequences) -> Callable[[Tensor], Tensor]:
    """Scorer of `evaluation.ranking`: users (b,) to scores (b, n_items), float32 whatever the training precision.

    The scores live in one buffer that the next call overwrites.
    """
    states = encode(model, sequences)
    histories = Batches(sequences, max_length=model.max_length, device=states.device, copy_window=model.copy_window)
    weight = model.output_table
    buffer = states.new_empty(0)

    @torch.no_grad()
    def score(users: Tensor) -> Tensor:
        nonlocal buffer
        size = len(users) * len(weight)
        if buffer.numel() < size:
            buffer = states.new_empty(size)
        scores = torch.mm(states[users], weight.T, out=buffer[:size].view(len(users), len(weight)))
        if model.copy is not None:
            rows, items, values = model.copy(states[users], histories.own_of(users.cpu()))
            scores.index_put_((rows, items), values, accumulate=True)
        return scores

    return score


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to score.

    Attributes:
        model: in evaluation mode, on the device.
        catalogue: (n_items,) item id of every code.
    """

    model: SASRec
    catalogue: np.ndarray

    @property
    def device(self) -> str:
        return self.model.output_table.device.type


def restore_model(snapshot: Snapshot, device: torch.device) -> TrainedModel:
    """The model of a saved arm; its description names the backbone and the catalogue."""
    model = SASRec(**snapshot.description["backbone"])
    model.load_state_dict(snapshot.tensors)
    return TrainedModel(model.to(device).eval(), np.asarray(snapshot.description["catalogue"]))
