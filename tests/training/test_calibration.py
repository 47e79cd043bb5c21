"""The copy mechanism's weights against a general optimiser on dense softmaxes, and where they are known beforehand."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fairrec_pipeline.interactions.histories import UNKNOWN, Histories
from fairrec_pipeline.metrics.ranking import ndcg, rank_targets
from fairrec_pipeline.models.copying import FEATURES, own_features
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives.base import Objective
from fairrec_pipeline.objectives.cvar import CVaR
from fairrec_pipeline.objectives.erm import Erm
from fairrec_pipeline.training import calibration
from fairrec_pipeline.training.calibration import RIDGE, calibrate
from fairrec_pipeline.training.fit import Fitted, TrainingData, fit
from fairrec_pipeline.training.scoring import ModelScorer
from tests.worlds import spec_of

N_USERS, N_ITEMS = 60, 300  # most ranks are beyond 20


def histories(seed: int, repeats: float, n_users: int = N_USERS) -> Histories:
    """Users whose target is, at the given rate, the item they met most, and who know some items twice."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 12, n_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, N_ITEMS, offsets[-1])
    items[1::3] = items[:-1:3][: len(items[1::3])]
    targets = rng.integers(0, N_ITEMS, n_users)
    for user in np.flatnonzero(rng.random(n_users) < repeats):
        targets[user] = np.bincount(items[offsets[user] : offsets[user + 1]]).argmax()
    targets[0] = UNKNOWN
    return Histories(np.arange(n_users), np.arange(N_ITEMS), items, offsets, targets, np.zeros(n_users, dtype=bool))


def copying_model(window: int) -> SASRec:
    torch.manual_seed(0)
    backbone = {"dim": 8, "feed_forward": 8, "blocks": 1, "heads": 1, "dropout": 0.0, "max_length": 10, "init_std": 0.5}
    return SASRec(N_ITEMS, **backbone, copy_window=window).eval()


def mean_ndcg(model: SASRec, sequences: Histories) -> float:
    return float(ndcg(rank_targets(ModelScorer(model, sequences), sequences, filter_seen=False), 20).mean())


@pytest.fixture
def no_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SHIFTS", [0.0])


def fitted_weights(model: SASRec, sequences: Histories) -> torch.Tensor:
    assert model.copy is not None
    calibrate(model.copy, ModelScorer(model, sequences), sequences)
    return model.copy.weights.clone()


@pytest.mark.usefixtures("no_shift")
@pytest.mark.parametrize("window", [3, 12])
def test_no_weights_are_likelier(window: int) -> None:
    """Dense: one softmax a user over all scores, new targets known by the sum of the probabilities of new items."""
    sequences, model = histories(0, repeats=0.5), copying_model(window)
    before = mean_ndcg(model, sequences)
    scorer, users = ModelScorer(model, sequences), torch.arange(N_USERS)
    plain, own = scorer.plain(users).clone(), scorer.own_items(users)
    features = own_features(plain, own).double().numpy()
    rows = []
    for user in range(N_USERS):
        is_own = np.zeros(N_ITEMS, dtype=bool)
        n = int((own.counts[user] > 0).sum())
        items = own.items[user, :n].numpy()
        is_own[items] = True
        rows.append((plain[user].double().numpy(), items, features[user, :n], is_own, int(sequences.targets[user])))

    def loss(weights: np.ndarray) -> float:
        total = 0.0
        for scores, items, of_items, is_own, target in rows:
            all_scores = scores.copy()
            all_scores[items] += of_items @ weights
            probabilities = np.exp(all_scores - all_scores.max())
            probabilities /= probabilities.sum()
            repeats = target != UNKNOWN and is_own[target]
            total -= np.log(probabilities[target] if repeats else probabilities[~is_own].sum())
        return total / N_USERS + RIDGE / 2 * float(weights @ weights)

    found = fitted_weights(model, sequences).double().numpy()
    best = minimize(loss, found + 0.3, method="BFGS", options={"gtol": 1e-7})
    assert loss(found) <= best.fun + 1e-7
    np.testing.assert_allclose(found, best.x, atol=2e-2)
    assert mean_ndcg(model, sequences) > before + 0.05


@pytest.mark.usefixtures("no_shift")
def test_it_finds_the_weights_that_made_the_targets() -> None:
    """Targets of 4,000 users drawn from the softmax with known weights; what own items get is found to a few tenths."""
    sequences, model = histories(5, repeats=0.0, n_users=4000), copying_model(window=12)
    assert model.copy is not None
    known = torch.tensor([3.0, 1.2, -0.8, 0.5, -0.3, 0.2, 1.0])
    model.copy.weights.copy_(known)
    assert len(known) == len(FEATURES)
    scorer, generator = ModelScorer(model, sequences), torch.Generator().manual_seed(0)
    probabilities = torch.softmax(scorer(torch.arange(4000)), 1)
    drawn = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
    sequences = dataclasses.replace(sequences, targets=drawn.numpy())
    scores, own = scorer.plain(torch.arange(1000)), scorer.own_items(torch.arange(1000))
    expected = model.copy(scores, own)
    fitted_weights(model, sequences)
    found = model.copy(scorer.plain(torch.arange(1000)), own)
    assert float((found - expected)[own.counts > 0].abs().mean()) < 0.2
    assert float(expected[own.counts > 0].std()) > 0.8


@pytest.mark.parametrize("repeats", [0.2, 0.5])
def test_it_takes_the_best_of_all_shifts(repeats: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is ranked as an evaluation ranks it."""
    sequences, model = histories(6, repeats), copying_model(window=12)
    assert model.copy is not None
    shifts, likeliest = calibration.SHIFTS, {}
    for shift in shifts:
        monkeypatch.setattr(calibration, "SHIFTS", [shift])
        likeliest[shift] = float(fitted_weights(model, sequences)[0]), mean_ndcg(model, sequences)
    monkeypatch.setattr(calibration, "SHIFTS", shifts)
    chosen, found = float(fitted_weights(model, sequences)[0]), mean_ndcg(model, sequences)
    best = max(score for _, score in likeliest.values())
    assert found == best > min(score for _, score in likeliest.values())
    first_of_the_best = next(bias for bias, score in likeliest.values() if score == best)
    assert chosen == first_of_the_best
    biases = [bias for bias, _ in likeliest.values()]
    assert [bias - biases[0] for bias in biases] == pytest.approx(shifts, abs=1e-5)


def test_without_repeats_own_items_sink() -> None:
    sequences = histories(1, repeats=0.0)
    for user, (start, stop) in enumerate(itertools.pairwise(sequences.offsets.tolist())):
        own = set(sequences.items[start:stop].tolist())
        sequences.targets[user] = next(item for item in range(N_ITEMS) if item not in own)
    model = copying_model(window=12)
    assert torch.isfinite(fitted_weights(model, sequences)).all()
    assert model.copy is not None
    scorer, users = ModelScorer(model, sequences), torch.arange(N_USERS)
    own = scorer.own_items(users)
    added = model.copy(scorer.plain(users), own)
    assert float(added[own.counts > 0].mean()) < -3


def test_it_is_the_same_again_and_in_any_order_of_users() -> None:
    sequences, model = histories(0, repeats=0.5), copying_model(window=6)
    first = fitted_weights(model, sequences)
    assert torch.equal(fitted_weights(model, sequences), first)
    parts = [sequences.items[start:stop] for start, stop in itertools.pairwise(sequences.offsets.tolist())]
    turned = dataclasses.replace(
        sequences,
        items=np.concatenate(parts[::-1]),
        offsets=np.append(0, np.cumsum([len(part) for part in parts[::-1]])),
        targets=sequences.targets[::-1].copy(),
    )
    torch.testing.assert_close(fitted_weights(model, turned), first, rtol=1e-4, atol=1e-4)


def trained(objective: Objective, *, copy_window: int, filter_seen: bool = False) -> tuple[Fitted, Any, Histories]:
    validation = histories(4, repeats=0.6)
    train = dataclasses.replace(validation, targets=None, repeats=None)
    backbone = {"dropout": 0.2, "max_length": 10, "init_std": 0.5, "copy_window": copy_window}
    block = {"epochs": 3, "steps_per_epoch": 2, "batch_size": 20}
    spec = spec_of(model=backbone, train=block, filter_seen=filter_seen)
    return fit(spec, TrainingData(train, validation, None), objective), spec, validation


@pytest.mark.parametrize("filter_seen", [False, True])
def test_a_training_keeps_the_weights_of_its_best_epoch(filter_seen: bool) -> None:
    fitted, spec, validation = trained(Erm(), copy_window=6, filter_seen=filter_seen)
    columns = [f"own_item_{feature}" for feature in FEATURES]
    chosen = fitted.history.set_index("epoch").loc[fitted.best_epoch, columns]
    assert fitted.weights["copy.weights"].tolist() == chosen.tolist()
    assert (chosen == 0).all() == filter_seen  # items of the history are not ranked
    model = SASRec(N_ITEMS, **vars(spec.model))
    model.load_state_dict(fitted.weights)
    ranks = rank_targets(ModelScorer(model, validation), validation, filter_seen=filter_seen)
    assert float(ndcg(ranks, 20).mean()) == fitted.best_ndcg


@pytest.mark.parametrize("objective", [Erm(), CVaR(alpha=0.4)], ids=["erm", "cvar"])
def test_the_training_itself_does_not_know_it(objective: Objective) -> None:
    """Losses of the plain training, to the bit."""
    plain, copying = (trained(objective, copy_window=window)[0] for window in (0, 6))
    assert copying.history["loss"].tolist() == plain.history["loss"].tolist()
    assert copying.history["validation_ndcg_at_20"].max() > plain.history["validation_ndcg_at_20"].max() + 0.05


def test_scores_that_are_not_finite_fit_nothing() -> None:
    sequences, model = histories(0, repeats=0.5), copying_model(window=6)
    torch.nn.init.constant_(model.item_embedding.weight, float("nan"))
    assert fitted_weights(model, sequences).tolist() == [0.0] * len(FEATURES)
