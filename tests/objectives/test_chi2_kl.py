"""Chi-square and KL DRO against duality: a feasible q whose value is that of the dual is optimal.

Chi-square, `max_q q.l` over `1/2 mean (B q - 1)^2 <= rho`: the dual is `min_eta eta + C sqrt(mean relu(l - eta)^2)`,
here solved by bisection on its derivative. KL, `max_q q.l - tau KL(q || 1/B)`: the dual is `tau log mean exp(l / tau)`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from fairrec_pipeline.objectives.base import LossBatch
from fairrec_pipeline.objectives.chi2 import Chi2
from fairrec_pipeline.objectives.kl import Kl

ALPHAS = [0.01, 0.1, 0.3, 1 / 3, 0.5, 0.7, 0.95, 0.999]
TAUS = [0.1, 0.3, 1.0, 3.0, 10.0]
RNG = np.random.default_rng(0)
LOSSES = {
    "random": RNG.exponential(3.0, size=37),
    "many": RNG.normal(9.0, 1.0, size=512),
    "ties": RNG.integers(0, 3, size=24).astype(np.float64),
    "ties at the top": np.array([5.0, 1.0, 5.0, 2.0, 0.5, 5.0]),
    "batch of one": np.array([4.2]),
    "all equal": np.full(9, 1.5),
    "one huge": np.array([1.0, 2.0, 1e9, 3.0, 2.5, 0.5]),
    "nearly equal": 7.0 + 1e-9 * RNG.normal(size=16),
}


def chi2(losses: np.ndarray, alpha: float) -> np.ndarray:
    q, state = Chi2(alpha=alpha).weights(LossBatch(torch.from_numpy(losses)), {})
    assert state == {}
    return q.numpy()


def chi2_dual(losses: np.ndarray, alpha: float) -> float:
    """The derivative 1 - C mean relu / sqrt(mean relu^2) grows with eta; losses scaled to [-1, 0]."""
    c = np.sqrt(1 + (1 / alpha - 1) ** 2)
    scale = np.ptp(losses) or 1.0
    x = (losses - losses.max()) / scale

    def excess(eta: float) -> np.ndarray:
        return np.maximum(x - eta, 0)

    low, high = -1e4, 0.0
    for _ in range(200):
        eta = (low + high) / 2
        rising = eta == 0 or c * excess(eta).mean() < np.sqrt(np.mean(excess(eta) ** 2))
        low, high = (low, eta) if rising else (eta, high)
    return losses.max() + scale * (high + c * np.sqrt(np.mean(excess(high) ** 2)))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_chi2_is_feasible_and_has_the_value_of_the_dual(losses: np.ndarray, alpha: float) -> None:
    q, rho = chi2(losses, alpha), (1 / alpha - 1) ** 2 / 2
    assert q.sum() == pytest.approx(1)
    assert q.min() >= 0
    assert np.mean((len(q) * q - 1) ** 2) / 2 <= rho * (1 + 1e-6) + 1e-12
    assert q @ losses == pytest.approx(chi2_dual(losses, alpha), rel=1e-8)


def test_chi2_by_hand() -> None:
    """l = (0, 1, 2), alpha = 1/2, C^2 = 2. With all three above eta: (1 - eta)^2 (2 x 3 - 3) = 3 x 2/3, so that

    eta = 1 - sqrt(2/3) = .1835 > 0: not all are. With two, mean 1.5 and variance 1/4: (1.5 - eta)^2 (4 - 3) = 3 / 4,
    and eta = 1.5 - sqrt(3) / 2 = .6340. Weights (0, 1 - eta, 2 - eta) / (3 - 2 eta).
    """
    eta = 1.5 - np.sqrt(3) / 2
    expected = np.array([0, 1 - eta, 2 - eta]) / (3 - 2 * eta)
    np.testing.assert_allclose(chi2(np.array([0.0, 1.0, 2.0]), 0.5), expected, rtol=1e-12)


def test_chi2_of_a_small_batch_is_its_maximum() -> None:
    """alpha = .3: 1 + 2 rho = 1 + (7/3)^2 = 6.44. Six users: all on the maximum, shared where two have it."""
    losses = np.array([1.0, 4.0, 2.0, 3.0, 3.9, 0.0])
    np.testing.assert_array_equal(chi2(losses, 0.3), [0, 1, 0, 0, 0, 0])
    losses[4] = 4.0
    np.testing.assert_array_equal(chi2(losses, 0.3), [0, 0.5, 0, 0, 0.5, 0])
    assert np.count_nonzero(chi2(np.append(losses, 1.0), 0.3)) == 2  # 2 x 6.44 > 7: the tie is still enough


def test_chi2_of_alpha_one_is_erm() -> None:
    losses = torch.rand(128)
    assert torch.equal(Chi2(alpha=1.0).weights(LossBatch(losses), {})[0], torch.full_like(losses, 1 / 128))
    near, _ = Chi2(alpha=1 - 1e-7).weights(LossBatch(losses), {})
    torch.testing.assert_close(near, torch.full_like(losses, 1 / 128), rtol=1e-5, atol=0)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.5, float("nan")])
def test_chi2_impossible_balls(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\], got"):
        Chi2(alpha=alpha)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_kl_has_the_value_of_the_dual(losses: np.ndarray, tau: float) -> None:
    q = Kl(tau=tau).weights(LossBatch(torch.from_numpy(losses)), {})[0].numpy()
    assert q.sum() == pytest.approx(1)
    positive = q[q > 0]
    divergence = np.sum(positive * np.log(len(q) * positive))
    dual = tau * (logsumexp(losses / tau) - np.log(len(losses)))
    assert q @ losses - tau * divergence == pytest.approx(dual, rel=1e-9)


def test_kl_limits() -> None:
    """A high temperature is ERM, a low one the maximum."""
    losses = torch.tensor([1.0, 4.0, 2.0])
    torch.testing.assert_close(Kl(tau=1e9).weights(LossBatch(losses), {})[0], torch.full((3,), 1 / 3))
    assert Kl(tau=1e-3).weights(LossBatch(losses), {})[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_kl_impossible_temperatures(tau: float) -> None:
    with pytest.raises(ValueError, match="tau is a temperature above 0, got"):
        Kl(tau=tau)
