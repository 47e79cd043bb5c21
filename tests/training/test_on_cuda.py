"""What only a GPU can show: the kernels and graphs of CUDA against the same steps launched one by one."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch

from fairrec_pipeline.models.attention import causal_attention, has_ragged_kernel
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.packing import Ragged
from fairrec_pipeline.objectives.base import State
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.cuda_graphs import EpochOutcome, GraphRunner
from tests.worlds import (
    HISTORY_LENGTHS,
    RECORDABLE,
    STEP_RATES,
    STEP_USERS,
    random_histories,
    small_model,
    state_of,
    step_of,
)

CUDA = torch.device("cuda")
pytestmark = pytest.mark.skipif(
    not has_ragged_kernel(256, 0.2, CUDA if torch.cuda.is_available() else torch.device("cpu")),
    reason="torch sees no CUDA device with flash attention here",
)
HEADS = [(2, 32), (1, 256)]  # a small one, and the published backbone


def packed(dim: int) -> tuple[torch.Tensor, Ragged]:
    lengths = torch.tensor([20, 11, 10, 4, 4, 1])
    torch.manual_seed(0)
    offsets = torch.tensor([0, *lengths.cumsum(0).tolist()], dtype=torch.int32)
    return torch.randn(int(lengths.sum()), 3 * dim).bfloat16(), Ragged(offsets, 30)


@pytest.mark.parametrize(("heads", "dim"), HEADS)
def test_ragged_attention(heads: int, dim: int) -> None:
    """Forward and backward, in bfloat16, against single precision on the CPU."""
    qkv, layout = packed(dim)
    upstream = torch.randn(len(qkv), dim).bfloat16()
    found = []
    for device, dtype in ((CUDA, torch.bfloat16), (torch.device("cpu"), torch.float32)):
        x = qkv.to(device, dtype, copy=True).requires_grad_()
        here = Ragged(layout.offsets.to(device), layout.longest)
        attended = causal_attention(x, here, heads, MaskSource(0), 0.0)
        attended.backward(upstream.to(device, dtype))
        assert x.grad is not None
        found.append((attended.detach().cpu().float(), x.grad.cpu().float()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize(("heads", "dim"), HEADS)
def test_dropout_of_ragged_attention(heads: int, dim: int) -> None:
    """The backward pass has the mask of the forward pass: the outcome is linear in v. The mean over masks has none."""
    qkv, layout = packed(dim)
    layout = Ragged(layout.offsets.to(CUDA), layout.longest)
    x, upstream = qkv.to(CUDA, copy=True).requires_grad_(), torch.randn(len(qkv), dim, device=CUDA).bfloat16()
    attended = causal_attention(x, layout, heads, MaskSource(0), 0.2)
    attended.backward(upstream)
    assert x.grad is not None
    by_v = (x.grad[:, 2 * dim :].double() * x.detach()[:, 2 * dim :].double()).sum()
    torch.testing.assert_close(by_v, (attended.detach().double() * upstream.double()).sum(), rtol=2e-2, atol=1.0)
    draws = torch.stack([causal_attention(x.detach(), layout, heads, MaskSource(0), 0.2) for _ in range(400)]).double()
    assert float(draws.std(0).max()) > 0.1
    whole = causal_attention(x.detach(), layout, heads, MaskSource(0), 0.0).double()
    # a weight w is 0 or w / .8, whose standard deviation is w / 2; 400 draws, and |v| mostly below 3
    assert float((draws.mean(0) - whole).abs().mean()) < 0.05


@pytest.mark.parametrize("loss", RECORDABLE)
@pytest.mark.parametrize(("copy_window", "warm_start_steps"), [(0, 0), (4, 0), (0, 3)])
def test_played_steps_are_launched_ones(
    monkeypatch: pytest.MonkeyPatch,
    loss: str,
    copy_window: int,
    warm_start_steps: int,
) -> None:
    """The same kernels with the same random numbers: losses, weights and state of 24 steps in two calls.

    Batches have three sizes, so graphs share memory, and the head's buffer grows after the first recording.
    """
    if "check_input_liveness" in inspect.signature(torch.cuda.graph.__init__).parameters:
        monkeypatch.setattr(torch.cuda, "graph", partial(torch.cuda.graph, check_input_liveness=True))
    train, found = random_histories(HISTORY_LENGTHS), dict[str, tuple[list[EpochOutcome], State]]()
    users, rates = STEP_USERS.repeat(3, 1), [rate / 8 for rate in STEP_RATES] * 3
    for kind in ("launched", "played"):
        model = small_model(dtype=torch.float32, copy_window=copy_window, dropout=0.2).to(CUDA).train()
        step = step_of(loss, model, train, device="cuda", bf16=True, warm_start_steps=warm_start_steps)
        batches = Batches(train, max_length=12, device=CUDA, copy_window=copy_window)
        runner = GraphRunner(step, batches, state_of(step, "cuda"), (len(rates), users.shape[1]))
        runner._batches.grain = 8
        runner._records = kind == "played"
        outcomes = []
        for first in (0, len(rates)):
            torch.manual_seed(first)
            outcomes.append(runner.run(users, rates, first))
        assert len({size for size, _ in runner._graphs}) == (0 if kind == "launched" else 3)
        found[kind] = outcomes, runner.state
    torch.testing.assert_close(found["played"], found["launched"], rtol=5e-3, atol=5e-3, equal_nan=True)


def test_masks_are_others_in_every_step_that_is_played() -> None:
    """The same users with a learning rate of 0: only dropout differs from step to step, and repeats with its seed."""
    train = random_histories(HISTORY_LENGTHS)
    model = small_model(dtype=torch.float32, dropout=0.4).to(CUDA).train()
    step = step_of("erm", model, train, device="cuda", bf16=True)
    runner = GraphRunner(step, Batches(train, max_length=12, device=CUDA), {}, (6, 5))
    users, rates = STEP_USERS[:1].repeat(6, 1), [0.0] * 6
    runner.run(users, rates, 0)  # records
    assert len(runner._graphs) == 1
    epochs = []
    for _ in range(2):
        torch.manual_seed(5)
        epochs.append(runner.run(users, rates, 0).losses)
    assert len(torch.unique(epochs[0], dim=0)) == 6
    torch.testing.assert_close(*epochs, rtol=1e-5, atol=1e-5)
