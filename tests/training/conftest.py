"""Small random histories and models for the tests of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.sasrec import SASRec

MakeSequences = Callable[..., Histories]
MakeModel = Callable[..., SASRec]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors of a few hundred numbers gain nothing from threads, and tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_sequences() -> MakeSequences:
    """Function of (lengths, n_items, seed, held_out): random histories of those lengths."""

    def make(lengths: list[int], *, n_items: int = 37, seed: int = 0, held_out: bool = False) -> Histories:
        rng = np.random.default_rng(seed)
        items = rng.integers(0, n_items, size=sum(lengths))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        users = 100 + np.arange(len(lengths))
        targets = rng.integers(0, n_items, size=len(lengths)) if held_out else None
        repeats = np.zeros(len(lengths), dtype=bool) if held_out else None
        return Histories(users, np.arange(n_items), items, offsets, targets, repeats)

    return make


@pytest.fixture
def make_model() -> MakeModel:
    """Function of the backbone's arguments: a small SASRec whose norms and biases are not those of a fresh one."""

    def make(n_items: int = 37, dtype: torch.dtype = torch.float64, **changes: float) -> SASRec:
        backbone = {"dim": 16, "feed_forward": 24, "blocks": 2, "heads": 2, "dropout": 0.0, "max_length": 12}
        torch.manual_seed(3)
        model = SASRec(n_items, **(backbone | {"init_std": 0.5} | changes)).to(dtype)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return make
