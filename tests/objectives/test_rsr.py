"""RSR: weights by hand, gradients by finite differences, k-means against scipy, and its limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from fairrec_pipeline.objectives.base import LossBatch, Population, State
from fairrec_pipeline.objectives.rsr import UNSEEN, RsrHard, RsrSoft, cluster_table

N_USERS, DIM, B = 40, 3, 10
POPULATION = Population(torch.ones(1), n_users=N_USERS, state_dim=DIM)
HARD = {"clusters": 3, "temperature": 0.5, "weight_learning_rate": 0.2, "refresh_steps": 4}
SOFT = {
    "clusters": 3,
    "temperature": 0.5,
    "weight_learning_rate": 0.2,
    "prototype_learning_rate": 0.1,
    "clustering_weight": 0.05,
}


def hard(**changes: Any) -> RsrHard:
    return RsrHard(POPULATION, **(HARD | changes))


def soft(**changes: Any) -> RsrSoft:
    return RsrSoft(POPULATION, **(SOFT | changes))


def random_batch(step: int = 0, seed: int = 0) -> LossBatch:
    generator = torch.Generator().manual_seed(100 * seed + step)
    return LossBatch(
        4 * torch.rand(B, generator=generator, dtype=torch.float64),
        users=torch.randperm(N_USERS, generator=generator)[:B],
        states=torch.randn(B, DIM, generator=generator),
        step=step,
    )


@pytest.mark.parametrize("make", [hard, soft])
@pytest.mark.parametrize("changes", [{"clusters": 1}, {"temperature": 1e12}])
def test_one_cluster_or_an_infinite_temperature_is_erm(make: Any, changes: dict[str, Any]) -> None:
    objective = make(**changes, weight_learning_rate=10.0)
    state = objective.initial_state()
    for step in range(10):
        q, state = objective.weights(random_batch(step), state)
        torch.testing.assert_close(q, torch.full_like(q, 1 / B), rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [hard, soft])
def test_the_first_weights_are_those_of_erm(make: Any) -> None:
    q, _ = make().weights(random_batch(), make().initial_state())
    torch.testing.assert_close(q, torch.full_like(q, 1 / B), rtol=1e-6, atol=0)


def placed(scores: list[float]) -> State:
    """A state of `hard` after a clustering: cluster k along axis k, nobody seen."""
    centroids = torch.eye(DIM)
    return hard().initial_state() | {
        "cluster_scores": torch.tensor(scores, dtype=torch.float64),
        "centroids": centroids,
    }


def test_hard_by_hand() -> None:
    """Users 7, 8, 9 in clusters 0, 0, 2; tau = 1/2, v = (0, 5, ln 2 / 2): w ~ 1 and 4^(1/2) = 2, so q = (1, 1, 2) / 4.

    l = (2, 4, 1): q.l = 2, the gradient of v is q (l - 2) / tau summed by cluster: (1/4 x 0 + 1/4 x 2) x 2 = 1 for
    cluster 0, nothing for 1, 1/2 x (-1) x 2 = -1 for 2; v moves by 0.2 of it.
    """
    states = torch.tensor([[3.0, 0.1, 0.0], [9.0, 0.0, 0.2], [0.0, 0.0, 0.5]])
    batch = LossBatch(torch.tensor([2.0, 4.0, 1.0], dtype=torch.float64), users=torch.tensor([7, 8, 9]), states=states)
    q, state = hard().weights(batch, placed([0.0, 5.0, math.log(2) / 2]))
    torch.testing.assert_close(q, torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64))
    expected = [0.2, 5.0, math.log(2) / 2 - 0.2]
    torch.testing.assert_close(state["cluster_scores"], torch.tensor(expected, dtype=torch.float64))
    assert state["clusters"][[7, 8, 9, 10]].tolist() == [0, 0, 2, UNSEEN]
    assert state["user_states"][9].tolist() == [0, 0, 1]  # normalised


def test_a_user_keeps_its_cluster_until_the_next_clustering() -> None:
    """User 5 looks like cluster 2 now, but was put into 0; user 6 is new."""
    state = placed([0.0, 0.0, 0.0])
    state["clusters"][5] = 0
    batch = LossBatch(torch.ones(2), users=torch.tensor([5, 6]), states=torch.tensor([[0.0, 0, 1], [0.0, 0, 1]]))
    _, state = hard().weights(batch, state)
    assert state["clusters"][[5, 6]].tolist() == [0, 2]


def test_clusterings_are_lloyds_and_start_at_the_last_centroids() -> None:
    """Refreshed after steps 3, 7, 11, ...: from the second on, scipy's k-means from the same start gives the same."""
    objective = hard()
    state = objective.initial_state()
    clusterings = 0
    for step in range(24):
        batch = random_batch(step)
        before = state["centroids"].clone()
        _, state = objective.weights(batch, state)
        if step % 4 != 3:
            assert torch.equal(state["centroids"], before)
            continue
        if bool(before.any()):
            seen = state["clusters"] != UNSEEN
            points = state["user_states"][seen]
            with np.errstate(all="ignore"):
                centroids, _ = kmeans2(points.numpy(), before.numpy().copy(), iter=20, minit="matrix")
            distances = torch.cdist(points, state["centroids"])
            np.testing.assert_allclose(state["centroids"], centroids, atol=1e-5)
            assert torch.equal(distances.argmin(1), state["clusters"][seen])
            clusterings += 1
        else:
            assert step == 3
    assert clusterings == 5


def test_clusters_find_separate_users_and_the_hard_ones_get_the_weight() -> None:
    """Three directions of states; users of direction 1 have two nats more. Their cluster gets most of the weight."""
    objective = hard()
    state, generator = objective.initial_state(), torch.Generator().manual_seed(0)
    for step in range(200):
        users = torch.randperm(N_USERS, generator=generator)[:B]
        kind = users % 3
        states = 5 * torch.eye(3)[kind] + 0.3 * torch.randn(B, 3, generator=generator)
        q, state = objective.weights(LossBatch(1.0 + 2.0 * (kind == 1), users=users, states=states, step=step), state)
    kinds = np.arange(N_USERS) % 3
    shares = np.array(list(cluster_table(state, kinds, ["a", "b", "c"]).values()))
    assert sorted(map(tuple, shares)) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    history = objective.history(state)
    hardest = shares[1].argmax()
    assert history[f"cluster_weight_{hardest}"] > 0.6
    assert history["cluster_weight_entropy"] < math.log(3)
    assert float(q[kind == 1].min()) > float(q[kind != 1].max())


def soft_value(scores: Tensor, prototypes: Tensor, batch: LossBatch) -> tuple[float, float]:
    """Weighted loss and clustering loss, written out."""
    z, n, k = batch.states.double(), len(batch.losses), len(scores)
    w = torch.softmax(scores / SOFT["temperature"], 0)
    a, clustering = torch.empty(n, k, dtype=torch.float64), 0.0
    for u in range(n):
        squares = torch.stack([((z[u] - prototypes[j]) ** 2).sum() for j in range(k)])
        a[u] = torch.exp(-squares) / torch.exp(-squares).sum()
        clustering += float((a[u] * squares).sum()) / n
    q = a @ w / (a @ w).sum()
    return float(q @ batch.losses), clustering


def test_soft_steps_are_its_gradients() -> None:
    """By central differences: v climbs the weighted loss, c descends lambda x clustering minus the weighted loss."""
    objective, h = soft(), 1e-5
    _, state = objective.weights(random_batch(0), objective.initial_state())
    for step in range(1, 4):
        batch, scores, prototypes = random_batch(step), state["cluster_scores"], state["prototypes"]
        q, state = objective.weights(batch, state)
        assert float(q @ batch.losses) == pytest.approx(soft_value(scores, prototypes, batch)[0], rel=1e-9)
        for index in np.ndindex(*scores.shape):
            move = torch.zeros_like(scores)
            move[index] = h
            up, down = (soft_value(scores + sign * move, prototypes, batch)[0] for sign in (1, -1))
            expected = scores[index] + SOFT["weight_learning_rate"] * (up - down) / (2 * h)
            assert float(state["cluster_scores"][index]) == pytest.approx(float(expected), abs=1e-8)
        for index in np.ndindex(*prototypes.shape):
            move = torch.zeros_like(prototypes)
            move[index] = h
            (up, far), (down, near) = (soft_value(scores, prototypes + sign * move, batch) for sign in (1, -1))
            gradient = (SOFT["clustering_weight"] * (far - near) - (up - down)) / (2 * h)
            expected = prototypes[index] - SOFT["prototype_learning_rate"] * gradient
            assert float(state["prototypes"][index]) == pytest.approx(float(expected), abs=1e-8)


def test_soft_prototypes_begin_near_users() -> None:
    """Three of ten users, evenly: those at places 0, 3 and 6 in the order of their numbers."""
    batch, objective = random_batch(), soft(prototype_learning_rate=1e-9)
    _, state = objective.weights(batch, objective.initial_state())
    chosen = batch.states[torch.argsort(batch.users)[[0, 3, 6]]].double()
    assert float((state["prototypes"] - chosen).norm(dim=1).max()) < 0.05
    assert not torch.equal(state["prototypes"], chosen)


def test_more_clusters_than_users_in_a_batch() -> None:
    """None of them coincide, so that every prototype can go another way."""
    objective = soft(clusters=25)
    state = objective.initial_state()
    for step in range(3):
        q, state = objective.weights(random_batch(step), state)
        assert float(q.sum()) == pytest.approx(1)
    distances = torch.cdist(state["prototypes"], state["prototypes"]).fill_diagonal_(1)
    assert float(distances.min()) > 1e-4
    hard_one = hard(clusters=25, refresh_steps=1)
    state = hard_one.initial_state()
    for step in range(3):
        q, state = hard_one.weights(random_batch(step), state)
        assert float(q.sum()) == pytest.approx(1)


def test_a_soft_user_is_counted_in_the_nearest_cluster() -> None:
    batch, objective = random_batch(), soft()
    _, state = objective.weights(batch, objective.initial_state())
    before = state["prototypes"]
    batch = random_batch(1)
    _, state = objective.weights(batch, state)
    expected = torch.cdist(batch.states.double(), before).argmin(1)
    assert torch.equal(state["clusters"][batch.users], expected)


def test_cluster_table_by_hand() -> None:
    """Clusters of six users: 0, 0, 0, 2, unseen, 2; groups a, b, a, b, a, b; cluster 1 is empty."""
    state = {"clusters": torch.tensor([0, 0, 0, 2, UNSEEN, 2]), "cluster_scores": torch.zeros(3)}
    table = cluster_table(state, np.array([0, 1, 0, 1, 0, 1]), ["a", "b"])
    assert table == {"a": [2 / 3, 0, 0], "b": [1 / 3, 0, 1]}


def test_history_of_many_clusters_tells_only_of_all() -> None:
    objective = soft(clusters=20)
    _, state = objective.weights(random_batch(), objective.initial_state())
    history = objective.history(state)
    assert list(history) == ["cluster_weight_entropy", "cluster_size_entropy", "cluster_size_min", "cluster_size_max"]
    assert history["cluster_weight_entropy"] == pytest.approx(math.log(20), abs=0.05)
    assert history["cluster_size_min"] == 0  # ten users cannot be in twenty clusters


def test_history_before_the_first_batch() -> None:
    history = hard().history(hard().initial_state())
    assert history["cluster_weight_entropy"] == pytest.approx(math.log(3))
    assert [history[f"cluster_size_{k}"] for k in range(3)] == [0, 0, 0]
