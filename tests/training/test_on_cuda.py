"""What only a GPU can show: the kernels and graphs of CUDA against the same steps launched one by one."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

from fairrec_pipeline.interactions.sequences import Sequences
from fairrec_pipeline.models.attention import causal_attention
from fairrec_pipeline.models.packing import Ragged, buckets_of
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.steps import RecordedSteps, Steps, Taken
from tests.training.test_exactness import LENGTHS
from tests.training.test_steps import RATES, RECORDABLE, USERS, state_of, step_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
CUDA = torch.device("cuda")


def test_ragged_attention_is_that_of_buckets() -> None:
    """Forward and backward, in bfloat16."""
    lengths, heads, dim = torch.tensor([20, 11, 10, 4, 4, 1]), 2, 32
    torch.manual_seed(0)
    qkv = torch.randn(int(lengths.sum()), 3 * dim, device=CUDA, dtype=torch.bfloat16)
    upstream = torch.randn(len(qkv), dim, device=CUDA, dtype=torch.bfloat16)
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), torch.cumsum(lengths, 0))).to(CUDA, torch.int32)
    found = []
    for layout in (Ragged(offsets, 30), buckets_of(lengths, CUDA)):
        x = qkv.clone().requires_grad_()
        attended = causal_attention(x, layout, heads, None, 0.0)  # type: ignore[arg-type]
        attended.backward(upstream)
        found.append((attended.detach(), x.grad))
    torch.testing.assert_close(*found, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("loss", RECORDABLE)
@pytest.mark.parametrize("copy_window", [0, 4])
def test_recorded_steps_are_launched_ones(
    make_sequences: Callable[..., Sequences], make_model: Callable[..., SASRec], loss: str, copy_window: int
) -> None:
    """The losses of twelve steps, of which most are played back, to the rounding of bfloat16."""
    train, found = make_sequences(LENGTHS), dict[str, Taken]()
    for kind in ("launched", "recorded"):
        model = make_model(dtype=torch.float32, copy_window=copy_window).to(CUDA).train()
        step = step_of(loss, model, train, CUDA, bf16=True)
        batches = Batches(train, max_length=12, device=CUDA, copy_window=copy_window)
        users, rates = USERS.repeat(3, 1), [rate / 8 for rate in RATES] * 3
        if kind == "launched":
            steps = Steps(step, batches, state_of(step, CUDA))
        else:
            steps = RecordedSteps(step, batches, state_of(step, CUDA), (len(rates), users.shape[1]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a step that cannot be recorded
            taken = steps.take(users, rates, 0)
        order = torch.argsort(taken.users, dim=1, stable=True)
        found[kind] = Taken(*(part.gather(1, order).cpu() for part in taken))
        if isinstance(steps, RecordedSteps):
            assert steps._graphs
    assert torch.equal(found["launched"].users, found["recorded"].users)
    torch.testing.assert_close(found["recorded"].losses, found["launched"].losses, rtol=5e-2, atol=5e-2)


def test_masks_are_others_in_every_step_that_is_played(
    make_sequences: Callable[..., Sequences], make_model: Callable[..., SASRec]
) -> None:
    """The same users with a learning rate of 0: only dropout differs from step to step, and repeats with its seed."""
    train = make_sequences(LENGTHS)
    model = make_model(dtype=torch.float32, dropout=0.4).to(CUDA).train()
    step = step_of("erm", model, train, CUDA, bf16=True)
    steps = RecordedSteps(step, Batches(train, max_length=12, device=CUDA), {}, (6, 5))
    users, rates = USERS[:1].repeat(6, 1), [0.0] * 6
    steps.take(users, rates, 0)  # records
    epochs = []
    for _ in range(2):
        torch.manual_seed(5)
        epochs.append(steps.take(users, rates, 0).losses.clone())
    assert len(torch.unique(epochs[0], dim=0)) == 6
    torch.testing.assert_close(*epochs, rtol=1e-5, atol=1e-5)
