"""Validation in training: when it may be quicker than exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fairrec_pipeline.metrics.ranking import SeenItems
from fairrec_pipeline.training import fit as fit_module
from fairrec_pipeline.training import scoring
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.fit import TrainingData, fit
from fairrec_pipeline.training.validation import Validation
from tests.worlds import HISTORY_LENGTHS, objective_of, random_histories, small_model, spec_of


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_the_cpu_it_is_exact(world: TrainingData, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a training in bfloat16."""
    asked: list[bool] = []

    def watched(*arguments: Any, **options: Any) -> Validation:
        asked.append(options["bf16"])
        return Validation(*arguments, **options)

    monkeypatch.setattr(fit_module, "Validation", watched)
    fit(spec_of(train={"precision": precision, "epochs": 1}), world, objective_of("erm", world.train))
    assert asked == [False]


def test_on_cuda_it_is_as_quick_as_the_training(world: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a device that only says it is CUDA: products in bfloat16 where those of the training are."""
    asked: list[bool] = []

    class StopError(Exception):
        pass

    def watched(*_: Any, **options: Any) -> Validation:
        asked.append(options["bf16"])
        raise StopError

    class Cuda:
        """What `fit` asks of a device."""

        type = "cuda"

    monkeypatch.setattr(fit_module, "Validation", watched)
    monkeypatch.setattr(fit_module, "resolve_device", lambda _: Cuda())
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, _: self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, _: self)
    for precision in ("auto", "bf16", "fp32"):
        with pytest.raises(StopError):
            fit(spec_of(train={"precision": precision}), world, objective_of("erm", world.train))
    assert asked == [True, True, False]


def test_states_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of sequences as the kernel of a GPU takes them, which the CPU imitates, are those of padded ones."""
    model, histories = small_model(), random_histories(HISTORY_LENGTHS, held_out=True)
    batch = next(Batches(histories, max_length=12, device=torch.device("cpu")).in_order(10**6))
    inputs = (batch.tokens, batch.positions)
    padded = model.eval().newest_states(*inputs, batch.layout, batch.ends)
    torch.testing.assert_close(model.newest_states(*inputs, batch.ragged, batch.ends), padded, rtol=1e-12, atol=1e-12)
    asked: list[int] = []
    monkeypatch.setattr(scoring, "has_ragged_kernel", lambda width, *_: asked.append(width) or True)
    single = small_model(dtype=torch.float32)
    found, exact = (scoring.encode(single, histories, bf16=bf16) for bf16 in (True, False))
    torch.testing.assert_close(found, exact, rtol=3e-2, atol=3e-2)
    assert asked == [8]  # not where it is to be exact


@pytest.mark.parametrize("lengths", [[3, 0, 40, 1, 12], [0], [1]])
def test_seen_items_are_the_distinct_ones(lengths: list[int]) -> None:
    """Of every user; the oracle is a Python set."""
    histories = random_histories(lengths, n_items=9, held_out=True)
    rows, items = SeenItems(histories, "cpu").rows_and_items(0, len(lengths))
    found = list(zip(rows.tolist(), items.tolist(), strict=True))
    expected = set(zip(histories.event_users.tolist(), histories.items.tolist(), strict=True))
    assert found == sorted(expected)
    assert np.all(np.diff(rows.numpy()) >= 0)
