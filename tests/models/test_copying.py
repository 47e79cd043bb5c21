"""The copy mechanism against loops and dense logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.copying import Encounters, copied_items, copied_items_of_fixed_number
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.models.softmax_head import Additions, SoftmaxHead
from fairrec_pipeline.objectives.cvar import CVaR
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.scoring import ModelScorer, encode
from fairrec_pipeline.training.step import TrainingStep

N_ITEMS, WINDOW = 7, 5


def histories(*, targets: bool = False) -> Histories:
    """Users with many repeats; one history is longer than the model's 6 tokens."""
    rng = np.random.default_rng(0)
    lengths = np.array([1, 2, 3, 9, 5, 4])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, N_ITEMS, size=offsets[-1])
    held_out = rng.integers(0, N_ITEMS, size=len(lengths)) if targets else None
    repeats = np.zeros(len(lengths), dtype=bool) if targets else None
    return Histories(np.arange(len(lengths)), np.arange(N_ITEMS), items, offsets, held_out, repeats)


def newest_first(history: list[int]) -> list[int]:
    """Distinct items among the last WINDOW of a history, newest first."""
    return list(dict.fromkeys(reversed(history[-WINDOW:])))


def copying_model(*, dropout: float = 0.0, tied_embeddings: bool = False) -> SASRec:
    torch.manual_seed(0)
    model = SASRec(
        N_ITEMS,
        dim=8,
        feed_forward=8,
        blocks=1,
        heads=1,
        dropout=dropout,
        max_length=6,
        init_std=0.5,
        tied_embeddings=tied_embeddings,
        copy_window=WINDOW,
    ).double()
    assert model.copy is not None
    torch.nn.init.normal_(model.copy.recency_embedding.weight)
    return model


def test_copied_items_of_an_example() -> None:
    """Items a b a c: after the last, c is newest, then a (met at its second time), then b."""
    items = np.array([0, 1, 0, 2])
    met = Encounters.of(np.zeros(4, dtype=np.int64), items, torch.device("cpu"))
    assert met.gaps.tolist()[0] == 2
    assert (met.gaps[1:] > 10).all()
    assert met.counts.tolist() == [1, 1, 2, 1]
    copied = copied_items(torch.tensor([3, 1]), torch.tensor([4, 2]), torch.from_numpy(items), met)
    found = {(row, item): rest for row, item, *rest in zip(*(part.tolist() for part in copied[:4]), strict=True)}
    assert found == {(0, 2): [0, 1], (0, 0): [1, 2], (0, 1): [2, 1], (1, 1): [0, 1], (1, 0): [1, 1]}
    assert copied.items.tolist() == sorted(copied.items.tolist())


def test_copied_items_of_nobody() -> None:
    nothing = copied_items(
        torch.tensor([-1, -1]),
        torch.tensor([0, 0]),
        torch.arange(3),
        Encounters.of(*np.zeros((2, 3), int), torch.device("cpu")),
    )
    assert [len(part) for part in nothing[:4]] == [0, 0, 0, 0]


def test_copied_items_of_batches_by_loops() -> None:
    train = histories()
    batch = Batches(train, max_length=6, device=torch.device("cpu"), copy_window=WINDOW).batch(torch.arange(6))
    assert batch.copied is not None
    expected, position = set(), 0
    for user, length in zip(batch.users.tolist(), batch.lengths.tolist(), strict=True):
        history = train.items[train.offsets[user] : train.offsets[user + 1]].tolist()
        for known in range(len(history) - length, len(history)):  # items known at each position that is kept
            known_items = newest_first(history[:known])
            expected |= {(position, item, rank, history[:known].count(item)) for rank, item in enumerate(known_items)}
            position += 1
    assert set(zip(*(part.tolist() for part in batch.copied[:4]), strict=True)) == expected


def test_a_fixed_number_of_own_items_are_the_same_and_others_that_are_not_real() -> None:
    train = histories()
    met = Encounters.of(train.event_users, train.items, torch.device("cpu"))
    newest = torch.arange(len(train.items))
    reach = torch.minimum(
        newest - torch.from_numpy(train.offsets)[torch.from_numpy(train.event_users)] + 1, torch.tensor(WINDOW)
    )
    items = torch.from_numpy(train.items)
    packed = copied_items(newest, reach, items, met)
    fixed = copied_items_of_fixed_number(newest, reach, items, met, WINDOW)
    assert fixed.real is not None
    assert [len(part) for part in fixed] == [WINDOW * len(newest)] * 5
    real = [part[fixed.real].tolist() for part in fixed[:4]]
    assert sorted(zip(*real, strict=True)) == sorted(zip(*(part.tolist() for part in packed[:4]), strict=True))
    assert 0 < len(packed.rows) < WINDOW * len(newest)
    assert int(fixed.recency.min()) >= 0
    assert int(fixed.recency.max()) < WINDOW  # what is not real is looked up as well


@pytest.mark.parametrize("keep_bytes", [0, 2**20])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_additions_in_the_head_equal_dense_logits(keep_bytes: int, masked: bool, fixed: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.randn(9, generator=generator, dtype=torch.float64, requires_grad=True)
    items = torch.tensor([0, 0, 2, 3, 3, 3, 8, 10, 10])
    rows = torch.tensor([1, 4, 4, 0, 4, 5, 2, 2, 3])
    targets = torch.tensor([3, 3, 8, 10, 2, 9])
    coefficients = torch.rand(6, generator=generator, dtype=torch.float64) * torch.tensor(
        [1, 0, 1, 0, 1, 1] if masked else [1] * 6
    )
    logits = (states @ weight.T).index_put((rows, items), values, accumulate=True)
    expected = functional.cross_entropy(logits, targets, reduction="none")
    expected_gradients = torch.autograd.grad((coefficients * expected).sum(), (states, weight, values))
    head = SoftmaxHead(keep_bytes=keep_bytes, chunk=4)
    additions, real = Additions(rows, items, values.detach()), torch.ones(9, dtype=torch.bool)
    if fixed:  # in another order, with three that are not real, one of them beside a real one
        order, real = torch.tensor([4, 11, 0, 7, 9, 2, 1, 8, 10, 3, 6, 5]), torch.arange(12) < 9
        more = Additions(*(torch.cat((part, part[:3])) for part in additions[:3]), real)
        additions = Additions(*(part[order] for part in more))
    entropies = head.losses(states.detach(), weight.detach(), targets, additions)
    by_values = entropies.addition_gradients(coefficients)
    if fixed:
        by_values = torch.zeros_like(by_values).index_copy_(0, order, by_values)
        assert by_values[9:].tolist() == [0, 0, 0]
    actual = (entropies.losses, *entropies.gradients(coefficients), by_values[:9])
    torch.testing.assert_close(actual, (expected.detach(), *expected_gradients), rtol=1e-12, atol=1e-12)


def test_gradients_of_additions_in_bfloat16() -> None:
    """Logits that are large, and so far off in bfloat16: no probability above 1, and a sure target has next to none."""
    generator = torch.Generator().manual_seed(0)
    states = (6 * torch.randn(300, 16, generator=generator)).bfloat16()
    weight = (3 * torch.randn(50, 16, generator=generator)).bfloat16()
    best = (states.double() @ weight.double().T).argmax(1)  # two positions of three get what the model expects
    targets = torch.where(torch.arange(300) % 3 == 0, (best + 1) % 50, best)
    rows = torch.argsort(best, stable=True)
    items, coefficients = best[rows], torch.ones(300)
    values = torch.rand(300, generator=generator)
    logits = (states.double() @ weight.double().T).index_put((rows, items), values.double(), accumulate=True)
    expected = torch.softmax(logits, 1)[rows, items] - (items == targets[rows]).double()
    head = SoftmaxHead(chunk=7)
    gradients = head.losses(states, weight, targets, Additions(rows, items, values)).addition_gradients(coefficients)
    assert float(gradients.abs().max()) <= 1
    of_targets = items == targets[rows]
    assert bool((gradients[of_targets] <= 0).all())
    sure = of_targets & (expected > -1e-3)
    assert int(sure.sum()) > 20
    assert float(gradients[sure].abs().max()) < 1e-2


def scores_by_loops(model: SASRec, states: Tensor, weight: Tensor, histories_of_rows: list[list[int]]) -> Tensor:
    assert model.copy is not None
    scores = states @ weight.T
    added = torch.zeros_like(scores)
    for row, history in enumerate(histories_of_rows):
        for rank, item in enumerate(newest_first(history)):
            added[row, item] = states[row] @ model.copy.recency_embedding.weight[rank]
    return scores + added


@pytest.mark.parametrize("tied_embeddings", [False, True])
def test_a_step_equals_dense_autograd(tied_embeddings: bool) -> None:
    train, model = histories(), copying_model(dropout=0.3, tied_embeddings=tied_embeddings)
    batch = Batches(train, max_length=6, device=torch.device("cpu"), copy_window=WINDOW).batch(torch.arange(6))
    known = []
    for user, length in zip(batch.users.tolist(), batch.lengths.tolist(), strict=True):
        history = train.items[train.offsets[user] : train.offsets[user + 1]].tolist()
        known += [history[:until] for until in range(len(history) - length, len(history))]
    model.mask_source = MaskSource(3)
    states = model(batch.tokens, batch.positions, batch.layout)
    logits = scores_by_loops(model, states, model.output_weight(), known)
    assert batch.targets is not None
    losses = functional.cross_entropy(logits, batch.targets, reduction="none")
    per_user = torch.zeros(6, dtype=torch.float64).index_add(0, batch.rows, losses) / batch.lengths
    worst = per_user.topk(3).values.mean()
    expected = dict(
        zip(dict(model.named_parameters()), torch.autograd.grad(worst, list(model.parameters())), strict=True)
    )
    model.mask_source = MaskSource(3)
    step = TrainingStep(model, torch.optim.Adam(model.parameters()), CVaR(alpha=0.5), None)
    found = step.backward(batch, {})
    torch.testing.assert_close(found.losses, per_user.detach(), rtol=1e-10, atol=1e-10)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-9, atol=1e-10, msg=name)


def test_scores_by_loops() -> None:
    test, model = histories(targets=True), copying_model().float().eval()
    with torch.no_grad():
        known = [test.items[test.offsets[user] : test.offsets[user + 1]].tolist() for user in range(6)]
        expected = scores_by_loops(model, encode(model, test), model.output_table, known)
    torch.testing.assert_close(ModelScorer(model, test)(torch.arange(6)), expected)
    torch.testing.assert_close(ModelScorer(model, test)(torch.arange(2, 4)), expected[2:4])


def test_at_first_it_adds_nothing() -> None:
    torch.manual_seed(0)
    backbone = {"dim": 8, "feed_forward": 8, "blocks": 1, "heads": 1, "dropout": 0.0, "max_length": 6, "init_std": 0.5}
    plain = SASRec(N_ITEMS, **backbone)
    torch.manual_seed(0)
    copying = SASRec(N_ITEMS, **backbone, copy_window=WINDOW)
    test = histories(targets=True)
    torch.testing.assert_close(ModelScorer(copying, test)(torch.arange(6)), ModelScorer(plain, test)(torch.arange(6)))
