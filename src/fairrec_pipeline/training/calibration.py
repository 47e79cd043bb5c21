"""The copy mechanism is fitted on held-out targets: its weights by their likelihood, how much it copies by NDCG@20.

The likelihood is that of a choice which every user makes: one of the own items, or something new. It is concave in the
weights. A softmax that is too sure of its first items needs more copying in a ranking than a likelihood asks for, in
which new items count as one; so a constant is added at last, which is the best of some for the ranking.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fairrec_pipeline.interactions.histories import UNKNOWN, Histories
from fairrec_pipeline.metrics.ranking import SCORES_AT_ONCE, ndcg
from fairrec_pipeline.models.copying import FEATURES, CopyMechanism, log_mass_of_new_items, own_features
from fairrec_pipeline.training.scoring import ModelScorer

CUTOFF = 20
RIDGE = 1e-4
"""Half of it times the squared weights is the penalty on a target's mean log-likelihood. It leaves what ten thousand
targets say, and makes the weights finite where the targets alone do not, as where no target is a repeat."""
SHIFTS = sorted(np.arange(-2, 4.25, 0.25).tolist(), key=abs)
"""From small to large: among equals the first is taken."""
_MOST_STEPS = 100
_ENOUGH = 1e-10  # nats a target


@torch.no_grad()
def calibrate(copy: CopyMechanism, scorer: ModelScorer, validation: Histories) -> None:
    """Set the weights: the most likely ones, and of SHIFTS the one with the best mean NDCG@20 on top of the bias.

    Every user counts the same, whatever the objective. Two passes over the own items serve all shifts.

    Args:
        copy: of the scorer's model.
        scorer: of the histories of `validation`, which have targets.
    """
    copy.weights.zero_()
    choices = _choices(scorer, validation)
    if not bool(torch.isfinite(choices.new).all()):  # the model diverged, which the ranking will tell
        return
    weights = most_likely(choices)
    own = choices.score + choices.features @ weights
    weights[FEATURES.index("bias")] += max(SHIFTS, key=lambda shift: total_ndcg(choices, own + shift))
    copy.weights.copy_(weights)


class Choices(NamedTuple):
    """What n users chose, and between what: new items, and the m items of their histories; float64 on the CPU.

    Attributes:
        new: (n,) log of the mass of new items, logsumexp of their scores.
        best_new: (n, at most 21) their best scores; with 21 a target that is not among the first 20 of them has a rank
            beyond 20.
        target: (n,) plain score of the target; not a number where training never saw it.
        repeats: (n,) bool, the target is an own item.
        user: (m,) whose item it is.
        score: (m,) its plain score.
        features: (m, f) what it gets weights for.
        wanted: (m,) bool, it is the target.
    """

    new: Tensor
    best_new: Tensor
    target: Tensor
    repeats: Tensor
    user: Tensor
    score: Tensor
    features: Tensor
    wanted: Tensor


def _choices(scorer: ModelScorer, validation: Histories) -> Choices:
    assert validation.targets is not None  # only evaluation sequences have targets
    all_targets = torch.from_numpy(validation.targets)
    parts, before = [], 0
    for users in torch.arange(validation.n_users).split(max(1, SCORES_AT_ONCE // validation.n_items)):
        scores, own, targets = scorer.plain(users), scorer.own_items(users), all_targets[users, None]
        real = own.counts > 0
        targets = targets.to(scores.device)
        of_target = scores.gather(1, targets.clamp(min=0)).masked_fill(targets == UNKNOWN, float("nan"))[:, 0]
        features, score = own_features(scores, own)[real], scores.gather(1, own.items)[real]
        new = log_mass_of_new_items(scores, own)
        scores.scatter_add_(1, own.items, torch.where(real, float("-inf"), 0.0))
        best_new = scores.topk(min(CUTOFF + 1, scores.shape[1])).values
        wanted, user = (own.items == targets) & real, real.nonzero()[:, 0] + before
        part = (new, best_new, of_target, wanted.any(1), user, score, features, wanted[real])
        parts.append(tuple((x.double() if x.is_floating_point() else x).cpu() for x in part))
        before += len(users)
    return Choices(*(torch.cat(part) for part in zip(*parts, strict=True)))


def most_likely(choices: Choices) -> Tensor:
    """(f,) weights; Newton's method, with half the step where a whole one leads down."""
    weights = choices.features.new_zeros(choices.features.shape[1])
    value, probabilities = _log_likelihood(choices, weights)
    for _ in range(_MOST_STEPS):
        step = _newton_step(choices, weights, probabilities)
        while True:
            new_value, new_probabilities = _log_likelihood(choices, weights + step)
            if new_value >= value or float(step.abs().max()) < _ENOUGH:
                break
            step = step / 2
        gain = new_value - value
        weights, value, probabilities = weights + step, new_value, new_probabilities
        if gain < _ENOUGH:
            break
    return weights


def total_ndcg(choices: Choices, own: Tensor) -> float:
    """Sum over users of NDCG@20 if the own items have the scores (m,)."""
    target = choices.target.clone()
    target[choices.user[choices.wanted]] = own[choices.wanted]
    rank = torch.count_nonzero(choices.best_new >= target[:, None], dim=1)  # exact up to 20, else more
    rank.index_add_(0, choices.user, (own >= target[choices.user]).long())
    return float(ndcg(rank.masked_fill(torch.isnan(target), 0).numpy(), CUTOFF).sum())


def _log_likelihood(choices: Choices, weights: Tensor) -> tuple[float, Tensor]:
    """Mean over users minus the penalty, in nats, and (m,) the probability of each own item."""
    own, user, n = choices.score + choices.features @ weights, choices.user, len(choices.new)
    highest = choices.new.scatter_reduce(0, user, own, "amax")
    total = torch.exp(choices.new - highest).index_add(0, user, torch.exp(own - highest[user]))
    normaliser = highest + total.log()
    log_probabilities = own - normaliser[user]
    of_repeats, of_new = log_probabilities[choices.wanted].sum(), (choices.new - normaliser)[~choices.repeats].sum()
    penalty = RIDGE / 2 * weights.square().sum()
    return float((of_repeats + of_new) / n - penalty), log_probabilities.exp()


def _newton_step(choices: Choices, weights: Tensor, probabilities: Tensor) -> Tensor:
    n, features = len(choices.new), choices.features
    expected = features * probabilities[:, None]
    of_users = features.new_zeros(n, features.shape[1]).index_add_(0, choices.user, expected)
    gradient = (features[choices.wanted].sum(0) - expected.sum(0)) / n - RIDGE * weights
    curvature = (features.T @ expected - of_users.T @ of_users) / n
    curvature.diagonal().add_(RIDGE)
    step: Tensor = torch.linalg.solve(curvature, gradient)
    return step
