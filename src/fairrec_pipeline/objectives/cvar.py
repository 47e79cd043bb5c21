"""Conditional value at risk: the mean loss of the worst share of users, no groups needed (paper, equation 4).

And two relatives: one that leaves out the very worst as outliers (DORO), one whose threshold is smooth and remembered.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fairrec_pipeline.objectives.base import Constant, LossBatch, Objective, Population, State


class CVaR(Objective):
    """Maximiser q of `sum_u q_u l_u` over the simplex with q_u <= 1 / (alpha B) (Levy et al. 2020).

    With k = int(alpha B): the k highest losses get 1 / (alpha B), the next one what is left to 1, the others 0.

    Args:
        alpha: share of the batch in (0, 1]; 1 is ERM.
    """

    def __init__(self, *, alpha: float) -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha is the share of the worst users, in (0, 1], got {alpha}")
        self.alpha = self.share_with_weight = alpha
        self._by_rank = Constant(self._weights_by_rank)

    def _weights_by_rank(self, losses: Tensor) -> Tensor:
        size = self.alpha * len(losses)
        k = int(size)
        by_rank = torch.zeros_like(losses)
        by_rank[:k].fill_(1 / size)  # to assign a number would copy it to a GPU, which is waited for
        by_rank[k : k + 1].fill_(1 - k / size)
        return by_rank

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        by_rank = self._by_rank.like(batch.losses)
        order = torch.sort(batch.losses, descending=True, stable=True).indices
        return torch.empty_like(by_rank).index_copy_(0, order, by_rank), state


class CVaRDoro(Objective):
    """CVaR of a batch without its outliers (Zhai et al. 2021): the int(eps B) highest losses get 0, then `CVaR`.

    The published code leaves out the fraction of a user that CVaR gives to the next one; here eps = 0 is CVaR.

    Args:
        alpha: share of the remaining users in (0, 1].
        eps: share of the batch that counts as outliers, in [0, 1).
    """

    def __init__(self, *, alpha: float, eps: float) -> None:
        if not 0 <= eps < 1:
            raise ValueError(f"eps is the share of the outliers, in [0, 1), got {eps}")
        self.cvar, self.eps = CVaR(alpha=alpha), eps
        self.share_with_weight = alpha * (1 - eps)

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        order = torch.sort(batch.losses, descending=True, stable=True).indices
        kept = order[int(self.eps * len(order)) :].sort().values  # ties go to the earlier user, as in CVaR
        q, _ = self.cvar.weights(replace(batch, losses=batch.losses[kept]), {})
        return torch.zeros_like(batch.losses).index_copy_(0, kept, q), state


_FAR = 9.0
"""Standard deviations beyond which the normal distribution function is 0 or 1 in double precision."""


class CVaRSmooth(Objective):
    """CVaR with a smooth threshold (Togashi et al. 2024) that is known better than from one batch.

    `q_u = Phi((l_u - xi) / h) / (alpha B)`; xi solves `mean Phi((xi - l) / h) = 1 - alpha` over the last loss of every
    user that has been in a batch. The weights of a batch sum to 1 on average only: a batch of hard users counts more.

    Args:
        population: gives the number of users.
        alpha: share of the worst users in (0, 1]; 1 is ERM.
        h: width of the threshold in nats; towards 0 it becomes the step of CVaR.
    """

    def __init__(self, population: Population, *, alpha: float, h: float) -> None:
        if not (0 < alpha <= 1 and h > 0):
            raise ValueError(f"alpha is a share in (0, 1] and h is above 0, got {alpha} and {h}")
        self.n_users, self.alpha, self.h = population.n_users, alpha, h

    def initial_state(self) -> State:
        return {"last_losses": torch.full((self.n_users,), math.nan), "threshold": torch.zeros(())}

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        remembered = state["last_losses"]
        remembered.index_copy_(0, batch.users, batch.losses.to(remembered))
        xi = self._threshold(remembered.double())
        q = torch.special.ndtr((batch.losses.double() - xi) / self.h) / (self.alpha * len(batch.losses))
        return q.to(batch.losses), {"last_losses": remembered, "threshold": xi.to(state["threshold"])}

    def _threshold(self, losses: Tensor) -> Tensor:
        """xi by bisection; losses that are not finite are those of users who have none."""
        known = losses.isfinite()
        low = losses.masked_fill(~known, math.inf).amin() - _FAR * self.h
        high = losses.masked_fill(~known, -math.inf).amax() + _FAR * self.h
        for _ in range(40):
            middle = (low + high) / 2
            below = torch.special.ndtr((middle - losses) / self.h).masked_fill(~known, 0).sum() / known.sum()
            enough = below > 1 - self.alpha
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return low  # of alpha 1, where every threshold is too high, the lowest

    def history(self, state: State) -> dict[str, float]:
        return {"threshold": float(state["threshold"])}
