"""The packed step computes what the plain padded implementation computes: losses, gradients, ten optimiser steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.reference import (
    IGNORED,
    PaddedBatch,
    PaddedBatches,
    PaddedSASRec,
    PaddedStep,
    copy_weights,
    parameter_pairs,
)
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.objectives.base import State
from fairrec_pipeline.training.batches import Batch, Batches, UserStream
from fairrec_pipeline.training.step import TrainingStep
from tests.worlds import HISTORY_LENGTHS, OPTIONS, groups_for, objective_of, random_histories, small_model

BATCH = 5
CASES: list[tuple[str, dict[str, Any]]] = [
    *((loss, {}) for loss in OPTIONS if loss != "causald"),
    ("ipw_log", {"count": "interactions"}),
    ("gdro", {"absent_groups": "climb"}),
    ("sdro", {"absent_groups": "decay", "beta": 0.3}),
]
"""Every objective, and options that change its formula; causald is another loss."""


def padded_twin(model: SASRec) -> PaddedSASRec:
    """A padded model with the weights of ours."""
    heads, layer = model.blocks[0].heads, model.blocks[0].expand
    twin = PaddedSASRec(
        model.n_items,
        dim=layer.in_features,
        feed_forward=layer.out_features,
        blocks=len(model.blocks),
        heads=heads,
        dropout=model.dropout,
        max_length=model.max_length,
        init_std=1.0,
    ).to(model.final_norm.weight.dtype)
    copy_weights(model, twin)
    return twin


def steps_of(
    case: tuple[str, dict[str, Any]],
    model: SASRec,
    twin: PaddedSASRec,
    train: Histories,
    head: SoftmaxHead | None = None,
) -> tuple[Callable[..., tuple[Tensor, State]], Callable[..., tuple[Tensor, State]]]:
    """One step of ours and one of the padded model, both from users to losses in the order of those users."""
    loss, options = case
    objective, groups = objective_of(loss, train, options), groups_for(loss, train)
    batches = Batches(train, max_length=model.max_length, device=torch.device("cpu"))
    padded_batches = PaddedBatches(train, max_length=model.max_length)
    step = TrainingStep(model, torch.optim.Adam(model.parameters(), lr=1e-2, fused=True), objective, groups, head=head)
    padded_step = PaddedStep(twin, torch.optim.Adam(twin.parameters(), lr=1e-2), objective, groups)

    def ours(users: Tensor, state: State, number: int = 0) -> tuple[Tensor, State]:
        batch = batches.batch(users)
        losses, *_, state = step(batch, state, number)
        by_user = dict(zip(batch.users.tolist(), losses, strict=True))
        return torch.stack([by_user[user] for user in users.tolist()]), state

    def theirs(users: Tensor, state: State, number: int = 0) -> tuple[Tensor, State]:
        return padded_step(padded_batches.batch(users.tolist()), state, number)

    return ours, theirs


def assert_same_parameters(model: SASRec, twin: PaddedSASRec, *, gradients: bool, rtol: float, atol: float) -> None:
    for name, parameter in parameter_pairs(model, twin):
        mine, theirs = model.get_parameter(name), parameter
        if gradients:
            assert mine.grad is not None, name
            assert theirs.grad is not None, name
            mine, theirs = mine.grad, theirs.grad
        elif name.endswith("qkv.bias"):
            # A key bias moves all scores of a query alike and changes nothing: its gradient is 0 but for rounding, and
            # Adam makes steps out of the rounding.
            dim = len(mine) // 3
            mine, theirs = (torch.cat((bias[:dim], bias[2 * dim :])) for bias in (mine, theirs))
        theirs = theirs[:-1] if name == "item_embedding.weight" else theirs
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("users", [[0, 13, 5, 7, 1], list(range(14))])
@pytest.mark.parametrize("backbone", [{}, {"heads": 1}, {"tied_embeddings": True}], ids=str)
@pytest.mark.parametrize("bf16", [False, True])
def test_a_second_pass_of_the_users_with_weight_is_exact(
    backbone: dict[str, int],
    users: list[int],
    bf16: bool,
) -> None:
    """With the dropout masks of the first one: CVaR's gradients are those of a step that keeps every user's graph."""
    train = random_histories(HISTORY_LENGTHS)
    batch = Batches(train, max_length=12, device=torch.device("cpu")).batch(torch.tensor(users))
    gradients, passes = [], []
    for share in (0.3, 1.0):
        model = small_model(dtype=torch.float32 if bf16 else torch.float64, dropout=0.4, **backbone).train()
        model.mask_source = MaskSource(3)
        model.final_norm.register_forward_hook(lambda *_, share=share: passes.append(share))
        objective = objective_of("cvar", train)
        objective.share_with_weight = share
        step = TrainingStep(model, torch.optim.Adam(model.parameters()), objective, None, bf16=bf16)
        assert (step.backward(batch, {}).weights > 0).sum() < len(users)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert passes == [0.3, 0.3, 1.0]
    tolerances = {"rtol": 1e-2, "atol": 1e-3} if bf16 else {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(*gradients, **tolerances)


def test_a_warm_start_has_no_second_pass() -> None:
    train, model, passes = random_histories(HISTORY_LENGTHS), small_model(), []
    model.final_norm.register_forward_hook(lambda *_: passes.append(1))
    optimizer, objective = torch.optim.Adam(model.parameters()), objective_of("cvar", train)
    step = TrainingStep(model, optimizer, objective, None, warm_start_steps=1)
    batch = Batches(train, max_length=12, device=torch.device("cpu")).batch(torch.arange(5))
    for number, expected in enumerate((1, 3)):
        weights = step(batch, {}, number).weights
        assert len(passes) == expected
        assert bool((weights == 0).any()) == (number > 0)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"),
    [
        pytest.param(torch.float64, 1e-9, 1e-9, id="float64"),
        # single precision: Adam divides a gradient by its own size, which blows up the rounding of the smallest ones
        pytest.param(torch.float32, 1e-4, 1e-4, id="float32"),
    ],
)
def test_ten_steps_equal_the_padded_reference(
    case: tuple[str, dict[str, Any]],
    dtype: torch.dtype,
    rtol: float,
    atol: float,
) -> None:
    train, model = random_histories(HISTORY_LENGTHS), small_model(dtype=dtype)
    twin = padded_twin(model)
    ours, theirs = steps_of(case, model, twin, train)
    state, their_state = (objective_of(case[0], train, case[1]).initial_state() for _ in range(2))
    stream = UserStream(train.n_users, BATCH, seed=1)
    for number in range(10):
        users = stream.users(number)
        losses, state = ours(users, state, number)
        their_losses, their_state = theirs(users, their_state, number)
        torch.testing.assert_close(losses, their_losses, rtol=rtol, atol=atol)
        torch.testing.assert_close(state, their_state, rtol=rtol, atol=atol, equal_nan=True)
        assert_same_parameters(model, twin, gradients=True, rtol=rtol, atol=atol)
        assert_same_parameters(model, twin, gradients=False, rtol=rtol, atol=atol)


def test_erm_of_positions_is_the_mean_cross_entropy_of_the_batch() -> None:
    """The padded model without any weights: torch's mean over all targets that are not padding."""
    train, model = random_histories(HISTORY_LENGTHS), small_model()
    twin, users = padded_twin(model), torch.arange(train.n_users)
    ours, _ = steps_of(("erm_positions", {}), model, twin, train)
    padded = PaddedBatches(train, max_length=model.max_length).batch(users.tolist())
    assert padded.targets is not None
    logits = twin.logits(twin(padded.tokens, padded.padding))
    functional.cross_entropy(logits.flatten(0, 1), padded.targets.flatten(), ignore_index=IGNORED).backward()
    ours(users, {})
    assert_same_parameters(model, twin, gradients=True, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "backbone", [{"blocks": 1, "heads": 1}, {"blocks": 3, "heads": 4}, {"heads": 8, "feed_forward": 5, "max_length": 7}]
)
@pytest.mark.parametrize("head", [SoftmaxHead(chunk=10), SoftmaxHead(keep_bytes=0, chunk=7), SoftmaxHead(chunk=64)])
def test_every_backbone_and_branch_of_the_head(
    backbone: dict[str, int],
    head: SoftmaxHead,
) -> None:
    train, model = random_histories(HISTORY_LENGTHS), small_model(**backbone)
    twin = padded_twin(model)
    for loss in ("cvar", "cb"):
        ours, theirs = steps_of((loss, {}), model, twin, train, head)
        users = torch.arange(train.n_users)
        torch.testing.assert_close(ours(users, {})[0], theirs(users, {})[0], rtol=1e-9, atol=1e-9)
        assert_same_parameters(model, twin, gradients=True, rtol=1e-9, atol=1e-9)


class RecordedMasks(MaskSource):
    """Draws masks and remembers them; attention weights are left alone, since torch's layer hides them."""

    def __init__(self, *seed: int) -> None:
        super().__init__(*seed)
        self.masks: list[Tensor] = []

    def factors(self, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
        if len(shape) == 4:
            return torch.ones(*shape, dtype=dtype)
        self.masks.append(super().factors(shape, rate, dtype))
        return self.masks[-1]


class Replayed(nn.Module):
    """Multiplies by a mask that was drawn elsewhere."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


def impose_masks(twin: PaddedSASRec, masks: list[Tensor], batch: Batch, padded: PaddedBatch) -> None:
    """Give the padded model our masks, in the order in which our forward pass draws them."""
    order = {user: row for row, user in enumerate(padded.users)}
    rows = torch.tensor([order[user] for user in batch.users.tolist()])[batch.rows]
    columns = padded.tokens.shape[1] - 1 - batch.positions

    def rectangle(mask: Tensor) -> Replayed:
        out = mask.new_ones(*padded.tokens.shape, mask.shape[1])
        out[rows, columns] = mask
        return Replayed(out)

    first, *inner, last = masks
    twin.input_dropout, twin.output_dropout = rectangle(first), Replayed(last)  # type: ignore[assignment]
    for layer in twin.encoder.layers:
        layer.self_attn.dropout = 0.0
        layer.dropout1, layer.dropout, layer.dropout2 = (rectangle(inner.pop(0)) for _ in range(3))
    assert not inner


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_masks_give_the_same_losses_and_gradients(case: tuple[str, dict[str, Any]]) -> None:
    """Dropout on the input, on the three places of every block and on the output embedding, masks imposed."""
    train, model = random_histories(HISTORY_LENGTHS), small_model(dropout=0.3)
    twin = padded_twin(model)
    model.mask_source = recorded = RecordedMasks(5)
    batch = Batches(train, max_length=model.max_length, device=torch.device("cpu")).batch(torch.arange(train.n_users))
    padded = PaddedBatches(train, max_length=model.max_length).batch(batch.users.tolist())
    loss, options = case
    objective, groups = objective_of(loss, train, options), groups_for(loss, train)
    state = objective.initial_state()
    step = TrainingStep(model, torch.optim.Adam(model.parameters()), objective, groups)
    losses, *_ = step.backward(batch, state)
    assert len(recorded.masks) == 2 + 3 * len(model.blocks)

    impose_masks(twin, recorded.masks, batch, padded)
    their_step = PaddedStep(twin, torch.optim.SGD(twin.parameters(), lr=0.0), objective, groups)
    their_losses, _ = their_step(padded, objective.initial_state())
    torch.testing.assert_close(losses, their_losses, rtol=1e-9, atol=1e-9)
    assert_same_parameters(model, twin, gradients=True, rtol=1e-9, atol=1e-9)


def test_no_work_on_padding() -> None:
    """Linear layers, norms and the head see sum(min(length, L)) rows, however long the longest user is."""
    train, model = random_histories(HISTORY_LENGTHS), small_model()
    positions = sum(min(length, model.max_length) for length in HISTORY_LENGTHS)
    rows: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0].shape[0]))
    batch = Batches(train, max_length=model.max_length, device=torch.device("cpu")).batch(torch.arange(train.n_users))
    states = model(batch.tokens, batch.positions, batch.layout)
    assert len(batch.tokens) == len(states) == positions
    assert set(rows) == {positions}


def test_a_user_does_not_depend_on_the_batch_only_if_padding_is_masked() -> None:
    """The published fault: one user alone, and beside a user nine tokens longer."""
    train, model = random_histories([3, 12]), small_model()
    batches = PaddedBatches(train, max_length=model.max_length)
    alone, beside = batches.batch([0]), batches.batch([0, 1])
    twin = padded_twin(model)
    change = {}
    for padding in ("masked", "attended"):
        twin.padding = padding  # type: ignore[assignment]
        with torch.no_grad():
            states = twin(alone.tokens, alone.padding)[0, -1]
            others = twin(beside.tokens, beside.padding)[0, -1]
        change[padding] = float((others - states).norm() / states.norm())
    assert change["masked"] < 1e-12
    assert change["attended"] > 0.01


def test_a_step_in_bfloat16_is_near_that_in_single_precision() -> None:
    """The same masks; 8 bits of mantissa are 0.4 %, and a gradient adds up many of them."""
    train = random_histories(HISTORY_LENGTHS)
    losses, gradients = [], []
    for bf16 in (False, True):
        model = small_model(dtype=torch.float32, dropout=0.3)
        model.mask_source = MaskSource(5)
        batch = Batches(train, max_length=model.max_length, device=torch.device("cpu")).batch(torch.arange(4))
        step = TrainingStep(model, torch.optim.Adam(model.parameters()), objective_of("erm", train), None, bf16=bf16)
        losses.append(step.backward(batch, {}).losses)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(*losses, rtol=0.02, atol=0.02)
    for name, exact in gradients[0].items():
        assert gradients[1][name].dtype == torch.float32
        if not name.endswith("qkv.bias"):  # of a key's bias the gradient is nothing but rounding
            assert float((gradients[1][name] - exact).norm()) < 0.05 * float(exact.norm()), name
