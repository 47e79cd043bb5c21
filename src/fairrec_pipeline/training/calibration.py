"""The calibration of the copy mechanism: how much the items of the history get on top, chosen on validation."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fairrec_pipeline.interactions.histories import UNKNOWN, Histories
from fairrec_pipeline.metrics.ranking import SCORES_AT_ONCE, ndcg
from fairrec_pipeline.models.copying import CopyMechanism
from fairrec_pipeline.training.scoring import ModelScorer

CUTOFF = 20
# from small to large: among equals the first is taken, and (0, 0) leaves the scores as they are
BIASES = sorted(np.arange(-2, 8.5, 0.5).tolist(), key=abs)
EXPONENTS = np.arange(0, 3.25, 0.25).tolist()


@torch.no_grad()
def calibrate(copy: CopyMechanism, scorer: ModelScorer, validation: Histories) -> None:
    """Set the calibration to the bias and exponent, of those in BIASES and EXPONENTS, with the best mean NDCG@20.

    Every user counts the same, whatever the objective. One pass over the scores serves all candidates.

    Args:
        copy: of the scorer's model, in evaluation mode.
        scorer: of the histories of `validation`, which have targets.
    """
    copy.calibration.zero_()
    decisive = _decisive_scores(scorer, validation)
    candidates = itertools.product(BIASES, EXPONENTS)
    copy.calibration.copy_(torch.tensor(max(candidates, key=lambda candidate: _total_ndcg(decisive, *candidate))))


class _DecisiveScores(NamedTuple):
    """What of the scores decides the NDCG@20 of n users, whatever the m items of their histories get on top.

    Attributes:
        target: (n,) score of the target.
        best_new: (n, at most 21) the best scores of items outside of the history; with 21 a target that is not
            among the first 20 of them has a rank beyond 20.
        user: (m,) whose history an item is of.
        repeated: (m,) its score.
        feature: (m,) its `log(n / (1 + r))`.
        wanted: (m,) whether it is the target.
    """

    target: Tensor
    best_new: Tensor
    user: Tensor
    repeated: Tensor
    feature: Tensor
    wanted: Tensor


def _decisive_scores(scorer: ModelScorer, validation: Histories) -> _DecisiveScores:
    assert validation.targets is not None  # only evaluation sequences have targets
    all_targets = torch.from_numpy(validation.targets)
    known = (all_targets != UNKNOWN).nonzero()[:, 0]  # the other users are misses whatever is added
    parts, before = [], 0
    for users in known.split(max(1, SCORES_AT_ONCE // validation.n_items)):
        scores, copied = scorer(users), scorer.copied_items(users)
        targets = all_targets[users].to(scores.device)
        target, repeated = scores.gather(1, targets[:, None])[:, 0], scores[copied.rows, copied.items]
        scores[copied.rows, copied.items] = float("-inf")
        best_new = scores.topk(min(CUTOFF + 1, scores.shape[1])).values
        wanted = copied.items == targets[copied.rows]
        user, feature = copied.rows + before, copied.log_frequency_over_recency
        parts.append(_DecisiveScores(target, best_new, user, repeated, feature, wanted))
        before += len(users)
    return _DecisiveScores(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _total_ndcg(scores: _DecisiveScores, bias: float, exponent: float) -> float:
    repeated, target = scores.repeated + bias + exponent * scores.feature, scores.target.clone()
    target[scores.user[scores.wanted]] = repeated[scores.wanted]
    rank = torch.count_nonzero(scores.best_new >= target[:, None], dim=1)  # exact up to 20, else more
    rank.index_add_(0, scores.user, (repeated >= target[scores.user]).long())
    return float(ndcg(rank.cpu().numpy(), CUTOFF).sum())
