"""bfloat16 copies of the weights, cast all at once: the numbers of autocast, with fewer kernels."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.half_weights import HalfWeights
from tests.worlds import HISTORY_LENGTHS, STEP_USERS, random_histories, small_model, state_of, step_of


def gradients(model: SASRec, half: HalfWeights | None) -> dict[str, torch.Tensor]:
    """Of some function of the states."""
    train = random_histories(HISTORY_LENGTHS)
    batch = Batches(train, max_length=12, device=torch.device("cpu")).batch(STEP_USERS[0])
    inputs = (batch.tokens, batch.positions, batch.layout)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        states = model(*inputs) if half is None else torch.func.functional_call(model, half.refresh(), inputs)
    model.zero_grad()
    states.backward(torch.linspace(-1, 1, states.numel()).view_as(states))
    if half is not None:
        half.move_gradients()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_gradients_are_those_of_autocast() -> None:
    """Bit for bit, and again after the weights have changed."""
    model = small_model(dtype=torch.float32)
    half = HalfWeights(model)
    for _ in range(2):
        expected, found = gradients(model, None), gradients(model, half)
        assert found.keys() == expected.keys() >= {"blocks.1.expand.weight", "blocks.0.qkv.bias"}
        for name, gradient in expected.items():
            assert gradient.dtype == torch.float32
            assert torch.equal(found[name], gradient), name
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)


def test_what_is_frozen_has_no_copy() -> None:
    model = small_model(dtype=torch.float32)
    frozen = model.get_parameter("blocks.0.qkv.weight").requires_grad_(False)
    half = HalfWeights(model)
    assert "blocks.0.qkv.weight" not in half.refresh()
    assert "blocks.0.qkv.bias" in half.refresh()
    gradients(model, half)
    assert frozen.grad is None


class Casts(TorchDispatchMode):
    """Counts operators that cast."""

    def __init__(self) -> None:
        super().__init__()
        self.each = self.at_once = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.each += func.overloadpacket is torch.ops.aten._to_copy
        self.at_once += func.overloadpacket is torch.ops.aten._foreach_copy_
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bf16", [False, True])
def test_a_step_casts_all_weights_in_one_call(bf16: bool) -> None:
    """And all gradients in another. Two blocks have 16 parameters of linear layers: 32 casts by autocast."""
    train = random_histories(HISTORY_LENGTHS)
    step = step_of("erm", small_model(dtype=torch.float32), train, bf16=bf16)
    batch = Batches(train, max_length=12, device=torch.device("cpu")).batch(STEP_USERS[0])
    with Casts() as casts:
        step.backward(batch, state_of(step))
    assert casts.at_once == (2 if bf16 else 0)
    plain = step_of("erm", small_model(dtype=torch.float32), train, bf16=bf16)
    plain.half_weights = None
    with Casts() as more:
        plain.backward(batch, state_of(plain))
    assert more.each - casts.each == (32 if bf16 else 0)
    for name, parameter in step.model.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, plain.model.get_parameter(name).grad), name
