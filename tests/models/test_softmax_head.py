"""The two-phase softmax head against autograd of the plain cross-entropy, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fairrec_pipeline.models.softmax_head import SoftmaxHead

N, ITEMS, DIM = 23, 101, 8
COEFFICIENTS = {
    "all": torch.linspace(0.1, 2.0, N, dtype=torch.float64),
    "some zero": torch.linspace(0.1, 2.0, N, dtype=torch.float64) * (torch.arange(N) % 3 == 0),
    "all zero": torch.zeros(N, dtype=torch.float64),
}


def random_head(seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """States, output embedding and targets; target 5 more than once, since its gradients add up."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(N, DIM, dtype=torch.float64, generator=generator) * scale
    weight = torch.randn(ITEMS, DIM, dtype=torch.float64, generator=generator)
    targets = torch.randint(ITEMS, (N,), generator=generator)
    targets[:4] = 5
    return states, weight, targets


def autograd(states: Tensor, weight: Tensor, targets: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    states, weight = states.clone().requires_grad_(), weight.clone().requires_grad_()
    losses = functional.cross_entropy(states @ weight.T, targets, reduction="none")
    gradients = torch.autograd.grad((coefficients * losses).sum(), [states, weight])
    return losses.detach(), *gradients


@pytest.mark.parametrize("coefficients", COEFFICIENTS.values(), ids=COEFFICIENTS)
@pytest.mark.parametrize("keep_bytes", [2**29, 0], ids=["kept", "recomputed"])
@pytest.mark.parametrize("chunk", [1, 7, 100, 101, 512])
def test_losses_and_gradients(chunk: int, keep_bytes: int, coefficients: Tensor) -> None:
    states, weight, targets = random_head()
    head = SoftmaxHead(keep_bytes=keep_bytes, chunk=chunk)
    expected = autograd(states, weight, targets, coefficients)
    entropies = head.losses(states, weight, targets)
    torch.testing.assert_close((entropies.losses, *entropies.gradients(coefficients)), expected, rtol=1e-11, atol=1e-11)


def test_buffers_serve_larger_and_smaller_batches() -> None:
    """What an earlier, larger batch left in the buffer does not show."""
    states, weight, targets = random_head()
    head = SoftmaxHead(chunk=16)
    for rows in (slice(0, 5), slice(0, N), slice(3, 9)):
        here = states[rows], weight, targets[rows]
        coefficients = COEFFICIENTS["some zero"][rows]
        entropies = head.losses(*here)
        torch.testing.assert_close(
            (entropies.losses, *entropies.gradients(coefficients)), autograd(*here, coefficients)
        )


@pytest.mark.parametrize("keep_bytes", [2**29, 0], ids=["kept", "recomputed"])
def test_large_logits_do_not_overflow(keep_bytes: int) -> None:
    """Logits of several thousand, in single precision: exp of them would be infinite."""
    states, weight, targets = (x.float() if x.is_floating_point() else x for x in random_head(scale=1000.0))
    head = SoftmaxHead(keep_bytes=keep_bytes, chunk=10)
    coefficients = COEFFICIENTS["all"].float()
    entropies = head.losses(states, weight, targets)
    actual = (entropies.losses, *entropies.gradients(coefficients))
    assert all(bool(torch.isfinite(x).all()) for x in actual)
    torch.testing.assert_close(actual, autograd(states, weight, targets, coefficients), rtol=1e-4, atol=1e-3)


def test_inputs_are_unchanged() -> None:
    states, weight, targets = random_head()
    copies = states.clone(), weight.clone(), targets.clone()
    head = SoftmaxHead(chunk=10)
    head.losses(states, weight, targets).gradients(COEFFICIENTS["all"])
    torch.testing.assert_close((states, weight, targets), copies, rtol=0, atol=0)


@pytest.mark.parametrize("coefficients", COEFFICIENTS.values(), ids=COEFFICIENTS)
@pytest.mark.parametrize("keep_bytes", [2**29, 0], ids=["kept", "recomputed"])
def test_logits_that_rise_from_chunk_to_chunk(keep_bytes: int, coefficients: Tensor) -> None:
    """Items 40 to 60 outgrow the first chunks by a factor beyond exp(46): a second level serves from there on."""
    states, weight, targets = random_head()
    weight[40:60] *= 30
    head = SoftmaxHead(keep_bytes=keep_bytes, chunk=10)
    expected = autograd(states, weight, targets, coefficients)
    entropies = head.losses(states, weight, targets)
    assert len(entropies._levels) > 1
    torch.testing.assert_close((entropies.losses, *entropies.gradients(coefficients)), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("rows", [slice(None), slice(None, None, 3)], ids=["all", "some"])
@pytest.mark.parametrize("keep_bytes", [2**29, 0], ids=["kept", "recomputed"])
@pytest.mark.parametrize("chunk", [10, 101])
def test_bfloat16_gradients_of_learned_targets(chunk: int, keep_bytes: int, rows: slice) -> None:
    """Popular targets at losses below 1e-3, where a sum of p x that is rounded to half a percent hides p - 1."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(400) % 4
    weight = torch.nn.functional.normalize(torch.randn(ITEMS, 16, generator=generator)).bfloat16()
    states = (20 * weight[targets] + 0.5 * torch.randn(len(targets), 16, generator=generator)).bfloat16()
    coefficients = torch.zeros(len(targets))
    coefficients[rows] = 1 / len(targets)
    losses, *expected = autograd(states.double(), weight.double(), targets, coefficients.double())
    assert 1e-6 < float(losses.mean()) < 1e-3
    head = SoftmaxHead(keep_bytes=keep_bytes, chunk=chunk)
    entropies = head.losses(states, weight, targets)
    for _ in range(2):  # what is kept serves more than once
        by_states, by_weight = entropies.gradients(coefficients)
        assert by_states.dtype == by_weight.dtype == torch.bfloat16
        for actual, exact in ((by_states[rows], expected[0][rows]), (by_weight[:4], expected[1][:4])):
            assert float((actual.double() - exact).norm() / exact.norm()) < 0.2


def test_no_subnormal_exponentials() -> None:
    """Logits 90 apart: exp(-90) is subnormal in single precision, and products of subnormal numbers crawl."""
    head = SoftmaxHead(chunk=3)
    head.losses(torch.ones(1, 1), torch.tensor([[0.0], [-59.0], [-61.0], [-90.0], [-1.0]]), torch.tensor([4]))
    kept = head.buffer
    assert kept.tolist()[0] == 1.0
    torch.testing.assert_close(kept[1:].log(), torch.tensor([-59.0, -60.0, -60.0, -1.0]))
    assert float(kept.min()) > torch.finfo(torch.float32).tiny


def test_the_floor_of_the_exponentials_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, with logits some of which are far below their level: a GPU does without the floor."""
    torch.manual_seed(0)
    states, weight = 20 * torch.randn(7, 4, dtype=torch.float64), torch.randn(50, 4, dtype=torch.float64)
    targets, coefficients = torch.randint(50, (7,)), torch.rand(7, dtype=torch.float64)
    found = []
    for floor in (-60.0, float("-inf")):
        monkeypatch.setattr("fairrec_pipeline.models.softmax_head._NOTHING_BELOW", floor)
        losses = SoftmaxHead().losses(states, weight, targets)
        found.append((losses.losses, *losses.gradients(coefficients)))
    assert float((states @ weight.T).max(1).values.max() - (states @ weight.T).min()) > 60
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
