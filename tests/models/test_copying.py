"""The copy mechanism against loops, and against a mixture of two dense distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.copying import FEATURES, Encounters, OwnItems
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.training.scoring import ModelScorer, encode

N_ITEMS, WINDOW = 7, 5
CPU = torch.device("cpu")


def histories() -> Histories:
    """Users with many repeats and held-out items; one history is longer than the model's 6 tokens, one is empty."""
    rng = np.random.default_rng(0)
    lengths = np.array([1, 2, 3, 9, 0, 5, 4])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items, held_out = rng.integers(0, N_ITEMS, size=offsets[-1]), rng.integers(0, N_ITEMS, size=len(lengths))
    repeats = np.zeros(len(lengths), dtype=bool)
    return Histories(np.arange(len(lengths)), np.arange(N_ITEMS), items, offsets, held_out, repeats)


def lists_of(sequences: Histories) -> list[list[int]]:
    return [sequences.items[start:stop].tolist() for start, stop in itertools.pairwise(sequences.offsets.tolist())]


def copying_model(*, window: int = WINDOW, weights: bool = True) -> SASRec:
    torch.manual_seed(0)
    backbone = {"dim": 8, "feed_forward": 8, "blocks": 1, "heads": 1, "dropout": 0.3, "max_length": 6, "init_std": 0.5}
    model = SASRec(N_ITEMS, **backbone, copy_window=window).eval()
    if model.copy is not None and weights:
        model.copy.weights.copy_(torch.randn(len(FEATURES)))
    return model


def features_by_loops(scores: list[float], history: list[int]) -> dict[int, dict[str, float]]:
    """Features of every own item by its code and their names."""
    newest = list(dict.fromkeys(reversed(history[-WINDOW:])))
    counts = {item: history.count(item) for item in newest}
    return {
        item: {
            "bias": 1.0,
            "log_count": np.log(counts[item]),
            "log_recency": np.log(1 + recency),
            "newest": float(recency == 0),
            "score": scores[item],
            "new_items": np.log(sum(np.exp(score) for item, score in enumerate(scores) if item not in newest)),
            "habit": np.log(np.mean(list(counts.values()))),
        }
        for recency, item in enumerate(newest)
    }


def test_own_items_of_an_example() -> None:
    """Items b a b a c: after the last, c is newest, then a, then b, which the window shows once."""
    items = np.array([1, 0, 1, 0, 2])
    met = Encounters.of(np.zeros(5, dtype=np.int64), items, CPU)
    own = met.own_items(torch.tensor([4, 2]), torch.tensor([5, 3]), 3)
    assert own.items.tolist() == [[2, 0, 1], [1, 0, 0]]
    assert own.counts.tolist() == [[1, 2, 2], [2, 1, 0]]


@pytest.mark.parametrize("window", [1, 3, 5, 12])
def test_own_items_by_loops(window: int) -> None:
    test = histories()
    own = ModelScorer(copying_model(window=window), test).own_items(torch.arange(test.n_users))
    assert own.items.shape == own.counts.shape == (test.n_users, window)
    for history, items, counts in zip(lists_of(test), own.items.tolist(), own.counts.tolist(), strict=True):
        newest = list(dict.fromkeys(reversed(history[-window:])))
        assert items[: len(newest)] == newest
        assert counts == [history.count(item) for item in newest] + [0] * (window - len(newest))


def test_scores_are_a_mixture_of_copying_and_a_softmax_over_new_items() -> None:
    """The softmax of all scores is gate * copy distribution + (1 - gate) * softmax of the plain scores of new items."""
    test, model = histories(), copying_model()
    assert model.copy is not None
    users = torch.arange(test.n_users)
    plain = (encode(model, test) @ model.output_table.detach().T).double()
    found = torch.softmax(ModelScorer(model, test)(users).double(), 1)
    weights = dict(zip(FEATURES, model.copy.weights.tolist(), strict=True))
    for history, scores, probabilities in zip(lists_of(test), plain, found, strict=True):
        features = features_by_loops(scores.tolist(), history)
        own = torch.tensor(list(features), dtype=torch.int64)
        tops = [float(scores[i]) + sum(weights[name] * x for name, x in of_i.items()) for i, of_i in features.items()]
        copied = torch.tensor(tops, dtype=torch.float64)
        new = torch.ones(N_ITEMS, dtype=torch.bool).index_fill_(0, own, value=False)
        log_odds = torch.logsumexp(copied, 0) - torch.logsumexp(scores[new], 0)
        gate = torch.sigmoid(log_odds)
        expected = torch.zeros(N_ITEMS, dtype=torch.float64)
        expected[new] = (1 - gate) * torch.softmax(scores[new], 0)
        expected[own] = gate * torch.softmax(copied, 0)
        torch.testing.assert_close(probabilities, expected, rtol=1e-5, atol=1e-6)


def test_without_weights_it_is_the_plain_model() -> None:
    test, users = histories(), torch.arange(7)
    plain, copying = copying_model(window=0), copying_model(weights=False)
    assert plain.copy is None
    assert set(copying.state_dict()) - set(plain.state_dict()) == {"copy.weights"}
    assert torch.equal(ModelScorer(copying, test)(users), ModelScorer(plain, test)(users))


def test_new_items_keep_their_scores_and_users_are_alone() -> None:
    """Whoever is scored beside a user changes nothing; nor does an encounter before the window but the counts."""
    test, model = histories(), copying_model()
    scorer = ModelScorer(model, test)
    together = scorer(torch.arange(7)).clone()
    for users in (torch.tensor([3]), torch.tensor([6, 3, 0])):
        torch.testing.assert_close(scorer(users), together[users])
    plain, own = scorer.plain(torch.arange(7)).clone(), scorer.own_items(torch.arange(7))
    is_own = torch.zeros_like(plain, dtype=torch.int64).scatter_add_(1, own.items, own.counts) > 0
    assert torch.equal(together[~is_own], plain[~is_own])
    assert not (together[is_own] == plain[is_own]).any()


def test_no_gradient_reaches_the_weights() -> None:
    model = copying_model()
    assert model.copy is not None
    assert "copy.weights" not in dict(model.named_parameters())
    scores = torch.randn(2, N_ITEMS)
    own = OwnItems(torch.zeros(2, WINDOW, dtype=torch.int64), torch.zeros(2, WINDOW, dtype=torch.int64))
    added: Tensor = model.copy(scores, own)
    assert added.tolist() == [[0.0] * WINDOW] * 2  # nobody has an own item
