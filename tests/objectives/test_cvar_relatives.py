"""CVaR without outliers (DORO) and CVaR with a smooth, remembered threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from fairrec_pipeline.objectives.base import LossBatch, Population, State
from fairrec_pipeline.objectives.cvar import CVaR, CVaRDoro, CVaRSmooth

RNG = np.random.default_rng(1)
LOSSES = {
    "random": RNG.exponential(3.0, size=37),
    "ties": RNG.integers(0, 3, size=24).astype(np.float64),
    "batch of one": np.array([4.2]),
    "all equal": np.full(9, 1.5),
    "one huge": np.array([1.0, 2.0, 1e9, 3.0, 2.5, 0.5]),
}
ALPHAS = [0.05, 0.3, 0.5, 0.95, 1.0]


def doro(losses: np.ndarray, alpha: float, eps: float) -> np.ndarray:
    return CVaRDoro(alpha=alpha, eps=eps).weights(LossBatch(torch.from_numpy(losses)), {})[0].numpy()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_without_outliers_doro_is_cvar(losses: np.ndarray, alpha: float) -> None:
    cvar, _ = CVaR(alpha=alpha).weights(LossBatch(torch.from_numpy(losses)), {})
    np.testing.assert_array_equal(doro(losses, alpha, 0.0), cvar.numpy())


@pytest.mark.parametrize(("alpha", "eps"), [(0.25, 0.2), (0.5, 0.2), (1.0, 0.6), (0.1, 0.5), (1.0, 0.0)])
def test_doro_is_the_published_sum_where_no_user_is_split(alpha: float, eps: float) -> None:
    """`sum l[n2:n1] / (alpha (B - n2))`, n2 = int(eps B), n1 = int((eps + alpha (1 - eps)) B), l falling, B = 100."""
    losses = RNG.exponential(3.0, size=100)
    n2, n1 = round(eps * 100), round((eps + alpha * (1 - eps)) * 100)
    value = np.sort(losses)[::-1][n2:n1].sum() / (alpha * (100 - n2))
    assert doro(losses, alpha, eps) @ losses == pytest.approx(value, rel=1e-12)


def test_doro_by_hand() -> None:
    """B = 6, eps = 1/4 drops int(1.5) = 1 user; of the 5 others alpha = 1/2 takes 2.5: 1/2.5, 1/2.5 and 1 - 2/2.5."""
    q = doro(np.array([2.0, 9.0, 4.0, 1.0, 3.0, 5.0]), 0.5, 0.25)
    np.testing.assert_allclose(q, [0, 0, 0.4, 0, 0.2, 0.4], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_doro_leaves_out_the_highest_and_gives_the_others_one(losses: np.ndarray) -> None:
    q = doro(losses, 0.3, 0.3)
    assert q.sum() == pytest.approx(1)
    dropped = int(0.3 * len(losses))
    assert np.count_nonzero(q[np.argsort(-losses, kind="stable")[:dropped]]) == 0


@pytest.mark.parametrize(("alpha", "eps"), [(0.3, 1.0), (0.3, -0.1), (0.0, 0.1), (0.3, float("nan"))])
def test_doro_impossible_shares(alpha: float, eps: float) -> None:
    with pytest.raises(ValueError, match=r"share of the .*, got"):
        CVaRDoro(alpha=alpha, eps=eps)


H = 0.15


def smooth_step(
    objective: CVaRSmooth, users: np.ndarray, losses: np.ndarray, state: State
) -> tuple[np.ndarray, State, float]:
    """Weights, new state and its threshold, in double precision."""
    q, state = objective.weights(LossBatch(torch.from_numpy(losses), users=torch.from_numpy(users)), state)
    return q.numpy(), state, float(state["threshold"])


def oracle(known: np.ndarray, batch: np.ndarray, alpha: float) -> np.ndarray:
    """`Phi((l - xi) / h) / (alpha B)`, xi by Brent's method over all known losses."""

    def gap(xi: float) -> float:
        return norm.cdf((xi - known) / H).mean() - (1 - alpha)

    xi = brentq(gap, known.min() - 20 * H, known.max() + 20 * H, xtol=1e-13)
    return norm.cdf((batch - xi) / H) / (alpha * len(batch))


def smooth(n_users: int, alpha: float, h: float = H) -> tuple[CVaRSmooth, State]:
    objective = CVaRSmooth(Population(torch.ones(1), n_users=n_users), alpha=alpha, h=h)
    state = objective.initial_state()
    return objective, {name: value.double() for name, value in state.items()}


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("losses", [LOSSES[name] for name in LOSSES if name != "one huge"])
def test_smooth_weights_against_brent(losses: np.ndarray, alpha: float) -> None:
    """Two batches: at the second the users of the first are remembered, and users without a loss are left out."""
    n = len(losses)
    objective, state = smooth(3 * n + 5, alpha)
    q, state, _ = smooth_step(objective, np.arange(n), losses, state)
    np.testing.assert_allclose(q, oracle(losses, losses, alpha), rtol=1e-6, atol=1e-9)
    later = RNG.exponential(2.0, size=n)
    q, state, _ = smooth_step(objective, 2 * n + np.arange(n), later, state)
    np.testing.assert_allclose(q, oracle(np.concatenate([losses, later]), later, alpha), rtol=1e-6, atol=1e-9)


def test_smooth_remembers_the_last_loss_of_a_user() -> None:
    """alpha = 1/2, losses 2, 4, 6: by symmetry xi is the middle one. User 3 goes from 6 to 3: of 2, 3, 4 it is 3."""
    objective, state = smooth(5, 0.5)
    _, state, first = smooth_step(objective, np.array([3, 1, 0]), np.array([6.0, 2.0, 4.0]), state)
    assert first == pytest.approx(4.0)
    _, state, second = smooth_step(objective, np.array([3]), np.array([3.0]), state)
    assert second == pytest.approx(3.0)
    assert state["last_losses"].isnan().tolist() == [False, False, True, False, True]


def test_smooth_weights_sum_to_one_over_all_users() -> None:
    """mean Phi((l - xi) / h) = alpha by the definition of xi; so sum Phi / (alpha B) = 1 if the batch is everybody."""
    losses = RNG.exponential(3.0, size=50)
    objective, state = smooth(50, 0.3)
    assert smooth_step(objective, np.arange(50), losses, state)[0].sum() == pytest.approx(1, abs=1e-9)


def test_a_narrow_smooth_threshold_is_cvar() -> None:
    """40 users, alpha = 1/4: the ten worst get 1/10."""
    losses = RNG.permutation(np.arange(40.0))
    objective, state = smooth(40, 0.25, h=1e-3)
    cvar, _ = CVaR(alpha=0.25).weights(LossBatch(torch.from_numpy(losses)), {})
    np.testing.assert_allclose(smooth_step(objective, np.arange(40), losses, state)[0], cvar.numpy(), atol=1e-6)


def test_smooth_alpha_one_is_erm() -> None:
    losses = torch.rand(64)
    objective = CVaRSmooth(Population(torch.ones(1), n_users=64), alpha=1.0, h=H)
    q, _ = objective.weights(LossBatch(losses, users=torch.arange(64)), objective.initial_state())
    torch.testing.assert_close(q, torch.full_like(losses, 1 / 64), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("alpha", "h"), [(0.0, 0.1), (1.1, 0.1), (0.3, 0.0)])
def test_smooth_impossible_options(alpha: float, h: float) -> None:
    with pytest.raises(ValueError, match=r"alpha is a share .* and h is above 0, got"):
        CVaRSmooth(Population(torch.ones(1)), alpha=alpha, h=h)
