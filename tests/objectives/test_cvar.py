"""CVaR against linear programs.

The weights solve the primal `max_q q.l` over `sum q = 1, 0 <= q_u <= 1 / (alpha B)`. Its value equals that of the dual
(Rockafellar and Uryasev 2000), `min_t t + mean relu(l - t) / alpha`, itself a linear program in t and z_u >= l_u - t.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from fairrec_pipeline.objectives.base import LossBatch
from fairrec_pipeline.objectives.cvar import CVaR

ALPHAS = [0.01, 0.1, 0.3, 1 / 3, 0.5, 0.7, 0.95, 1.0]
RNG = np.random.default_rng(0)
LOSSES = {
    "random": RNG.exponential(3.0, size=37),
    "ten": RNG.normal(5.0, 2.0, size=10),
    "ties": RNG.integers(0, 3, size=24).astype(np.float64),
    "batch of one": np.array([4.2]),
    "all equal": np.full(9, 1.5),
    "one huge": np.array([1.0, 2.0, 1e9, 3.0, 2.5, 0.5]),
}


def weights(losses: np.ndarray, alpha: float) -> np.ndarray:
    q, state = CVaR(alpha=alpha).weights(LossBatch(torch.from_numpy(losses), None), {})
    assert state == {}
    return q.numpy()


def primal(losses: np.ndarray, alpha: float) -> float:
    cap = 1 / (alpha * len(losses))
    scale = np.abs(losses).max()  # the solver's tolerance is absolute
    solution = linprog(-losses / scale, A_eq=np.ones((1, len(losses))), b_eq=[1], bounds=(0, max(cap, 1 / len(losses))))
    return -solution.fun * scale


def dual(losses: np.ndarray, alpha: float) -> float:
    """Variables (t, z): minimise t + sum z / (alpha B) with -t - z_u <= -l_u."""
    n, scale = len(losses), np.abs(losses).max()
    cost = np.concatenate([[1.0], np.full(n, 1 / (alpha * n))])
    constraint = np.hstack([-np.ones((n, 1)), -np.eye(n)])
    solution = linprog(cost, A_ub=constraint, b_ub=-losses / scale, bounds=[(None, None)] + [(0, None)] * n)
    return solution.fun * scale


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_value_and_weights_solve_the_linear_program(losses: np.ndarray, alpha: float) -> None:
    q = weights(losses, alpha)
    assert q.sum() == pytest.approx(1)
    assert q.min() >= 0
    assert q.max() <= max(1 / (alpha * len(losses)), 1 / len(losses)) * (1 + 1e-12)
    assert q @ losses == pytest.approx(primal(losses, alpha), rel=1e-7)
    assert q @ losses == pytest.approx(dual(losses, alpha), rel=1e-7)


def test_weights_by_hand() -> None:
    """B = 5, alpha = 0.5: alpha B = 2.5, k = 2. The two highest losses get 1 / 2.5 = 0.4, the third 1 - 0.8 = 0.2."""
    q = weights(np.array([1.0, 5.0, 3.0, 4.0, 2.0]), 0.5)
    np.testing.assert_allclose(q, [0.0, 0.4, 0.2, 0.4, 0.0], rtol=1e-12, atol=1e-15)


def test_ties_go_to_the_earlier_user() -> None:
    """B = 4, alpha = 0.5, k = 2, all alike: the first two of the batch get 1 / 2."""
    np.testing.assert_allclose(weights(np.ones(4), 0.5), [0.5, 0.5, 0.0, 0.0])


def test_a_share_below_one_user_is_the_worst_user() -> None:
    """alpha B = 0.1 x 3 < 1: no weight may exceed 1, all of it lies on the maximum."""
    np.testing.assert_allclose(weights(np.array([1.0, 3.0, 2.0]), 0.1), [0.0, 1.0, 0.0])


def test_alpha_one_is_erm() -> None:
    losses = torch.rand(128)
    q, _ = CVaR(alpha=1.0).weights(LossBatch(losses, None), {})
    assert torch.equal(q, torch.full_like(losses, 1 / 128))


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.5, float("nan")])
def test_impossible_shares(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\], got"):
        CVaR(alpha=alpha)
