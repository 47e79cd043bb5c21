"""The calibration of the copy mechanism against a separate ranking for every candidate."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fairrec_pipeline.interactions.histories import UNKNOWN, Histories
from fairrec_pipeline.metrics.ranking import ndcg, rank_targets
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives.erm import Erm
from fairrec_pipeline.training.calibration import BIASES, EXPONENTS, _decisive_scores, _total_ndcg, calibrate
from fairrec_pipeline.training.fit import TrainingData, fit
from fairrec_pipeline.training.scoring import ModelScorer
from tests.worlds import spec_of

N_USERS, N_ITEMS = 60, 300  # most ranks are beyond 20


def histories(seed: int, repeats: float) -> Histories:
    """Users whose target is, at the given rate, the item they met most, and who know some items twice."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 12, N_USERS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, N_ITEMS, offsets[-1])
    items[1::3] = items[:-1:3][: len(items[1::3])]
    targets = rng.integers(0, N_ITEMS, N_USERS)
    for user in np.flatnonzero(rng.random(N_USERS) < repeats):
        targets[user] = np.bincount(items[offsets[user] : offsets[user + 1]]).argmax()
    targets[0] = UNKNOWN
    return Histories(np.arange(N_USERS), np.arange(N_ITEMS), items, offsets, targets, np.zeros(N_USERS, dtype=bool))


def copying_model(window: int) -> SASRec:
    torch.manual_seed(0)
    backbone = {"dim": 8, "feed_forward": 8, "blocks": 1, "heads": 1, "dropout": 0.0, "max_length": 10, "init_std": 0.5}
    model = SASRec(N_ITEMS, **backbone, copy_window=window).eval()
    torch.nn.init.normal_(model.copy.recency_embedding.weight, std=0.3)
    return model


def mean_ndcg(model: SASRec, sequences: Histories) -> float:
    return float(ndcg(rank_targets(ModelScorer(model, sequences), sequences, filter_seen=False), 20).mean())


@pytest.mark.parametrize("window", [3, 12])
def test_it_takes_the_best_of_all_candidates(window: int) -> None:
    sequences, model = histories(0, repeats=0.5), copying_model(window)
    before = mean_ndcg(model, sequences)
    decisive = _decisive_scores(ModelScorer(model, sequences), sequences)
    by_candidate = {}
    for bias in BIASES:
        for exponent in EXPONENTS:
            model.copy.calibration.copy_(torch.tensor([bias, exponent]))
            by_candidate[bias, exponent] = mean_ndcg(model, sequences)
            found = _total_ndcg(decisive, bias, exponent) / N_USERS
            assert found == pytest.approx(by_candidate[bias, exponent], abs=1e-12), (bias, exponent)
    calibrate(model.copy, ModelScorer(model, sequences), sequences)
    bias, exponent = model.copy.calibration.tolist()
    assert by_candidate[bias, exponent] == max(by_candidate.values()) == mean_ndcg(model, sequences)
    assert mean_ndcg(model, sequences) > before + 0.05
    assert bias > 0
    assert exponent > 0


def test_without_repeats_copied_items_sink() -> None:
    sequences = histories(1, repeats=0.0)
    for user in range(N_USERS):  # no target at all is an own item
        own = set(sequences.items[sequences.offsets[user] : sequences.offsets[user + 1]].tolist())
        sequences.targets[user] = next(item for item in range(N_ITEMS) if item not in own)
    model = copying_model(window=12)
    calibrate(model.copy, ModelScorer(model, sequences), sequences)
    assert model.copy.calibration[0] < 0


def test_among_equals_it_takes_the_least() -> None:
    sequences, model = histories(2, repeats=0.5), copying_model(window=6)
    sequences.targets[:] = UNKNOWN
    model.copy.calibration.fill_(1)
    calibrate(model.copy, ModelScorer(model, sequences), sequences)
    assert model.copy.calibration.tolist() == [0, 0]


def test_a_training_keeps_that_of_its_best_epoch() -> None:
    validation = histories(4, repeats=0.6)
    train = dataclasses.replace(histories(4, repeats=0.6), targets=None, repeats=None)
    backbone = {"dropout": 0.0, "max_length": 10, "init_std": 0.5, "copy_window": 6}
    train_block = {"epochs": 3, "steps_per_epoch": 2, "batch_size": 20}
    for filter_seen in (False, True):
        spec = spec_of(model=backbone, train=train_block, filter_seen=filter_seen)
        fitted = fit(spec, TrainingData(train, validation, None), Erm())
        chosen = fitted.history.set_index("epoch").loc[fitted.best_epoch, ["own_item_bias", "own_item_exponent"]]
        assert fitted.weights["copy.calibration"].tolist() == chosen.tolist()
        assert (chosen == 0).all() == filter_seen
        model = SASRec(N_ITEMS, **vars(spec.model))
        model.load_state_dict(fitted.weights)
        ranks = rank_targets(ModelScorer(model, validation), validation, filter_seen=filter_seen)
        assert float(ndcg(ranks, 20).mean()) == fitted.best_ndcg


def test_a_model_from_before_there_was_a_calibration() -> None:
    model = copying_model(window=6)
    tensors = model.state_dict()
    del tensors["copy.calibration"]
    model.copy.calibration.fill_(1)
    model.load_state_dict(tensors)
    assert model.copy.calibration.tolist() == [0, 0]


def test_training_does_not_see_the_calibration() -> None:
    sequences, model = histories(3, repeats=0.5), copying_model(window=6)
    scorer, users = ModelScorer(model, sequences), torch.arange(5)
    states, copied = torch.randn(5, 8), scorer.copied_items(users)
    plain = model.copy(states, copied).values
    model.copy.calibration.copy_(torch.tensor([2.0, 1.5]))
    expected = plain + 2 + 1.5 * torch.log(copied.counts / (1.0 + copied.recency))
    torch.testing.assert_close(model.copy(states, copied).values, expected)
    torch.testing.assert_close(model.copy.train()(states, copied).values, plain)
