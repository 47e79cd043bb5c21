"""Chi-square DRO: the worst distribution within a chi-square ball around the batch (Hashimoto et al. 2018).

Form and scale of Levy et al. 2020: the value is `min_eta eta + C sqrt(mean relu(l - eta)^2)` with C = sqrt(1 + 2 rho).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairrec_pipeline.objectives.base import LossBatch, Objective, State


class Chi2(Objective):
    """`q_u` proportional to `relu(l_u - eta*)`: the further above the threshold, the more weight.

    eta* is exact. Let e = max l - eta and d_u = max l - l_u. Where the k highest losses lie above eta, the derivative
    in eta vanishes at `e = mean + sd sqrt(B / (C^2 k - B))`, mean and sd of the k smallest d; the right k is the first
    at which the derivative at `e = d_(k+1)` has changed sign. Where C^2 t >= B for the t users at the maximum (with
    t = 1: B <= 1 + 2 rho), there is no such e, and they share all the weight.

    Args:
        alpha: in (0, 1], rho = (1/alpha - 1)^2 / 2: the ball holds every group of at least that share; 1 is ERM.
    """

    def __init__(self, *, alpha: float) -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha sets the size of the ball, in (0, 1], got {alpha}")
        self.squared_c = 1 + (1 / alpha - 1) ** 2

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        size = len(batch.losses)
        if self.squared_c == 1:
            return torch.full_like(batch.losses, 1 / size), state
        losses = batch.losses.double()
        below = losses.max() - losses
        d = below.sort().values
        k = torch.arange(1, size + 1, device=d.device, dtype=d.dtype)
        first, second = d.cumsum(0), d.square().cumsum(0)  # sums over the k smallest

        # sums of relu(e - d) and its square at e = d_(k+1); the last k is right if no other is
        e = d[1:]
        linear = k[:-1] * e - first[:-1]
        quadratic = k[:-1] * e.square() - 2 * e * first[:-1] + second[:-1]
        passed = (e > 0) & (self.squared_c * linear.square() >= size * quadratic)
        at = torch.cat((passed, passed.new_ones(1))).int().argmax(0, keepdim=True)  # (1,): a scalar would be fetched

        mean = first[at] / k[at]
        variance = (second[at] / k[at] - mean.square()).clamp(min=0)
        spread = (variance * size / (self.squared_c * k[at] - size).clamp(min=torch.finfo(d.dtype).tiny)).sqrt()
        following = torch.cat((e, e.new_full((1,), torch.inf)))[at]
        excess = (torch.minimum((mean + spread).clamp(min=d[at]), following) - below).relu()
        excess = torch.where(excess.sum() > 0, excess, (below == 0).to(excess))
        return (excess / excess.sum()).to(batch.losses), state
