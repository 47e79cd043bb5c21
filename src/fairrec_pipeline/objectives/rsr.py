"""Robust sequential recommendation with one weight a cluster of users: our reconstruction.

After "Distributionally Robust Sequential Recommendation" (2023), of which only the project page could be read, neither
the paper nor its code: minimise over the model, maximise over the weights `w = softmax(v / tau)` of K clusters,

    q_u = sum_k a_uk w_k / sum_b sum_k a_bk w_k    over the users b of the batch,

a_uk the share that cluster k has in user u. After every batch, v makes one step of plain gradient up `sum_u q_u l_u`,
so that the weights come from the batches before, and begin as those of ERM. One cluster, or an infinite tau, is ERM.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fairrec_pipeline.objectives.base import LossBatch, Objective, Population, State

UNSEEN = -1
"""Cluster of a user that has not been in a batch of the method."""

_SEED = 0
_LLOYD_STEPS = 20
_LISTED = 16  # up to so many clusters the history has columns for each


class RsrHard(Objective):
    """A user belongs to one cluster: k-means on the L2-normalised user states.

    Until the first clustering all users form one cluster, which is ERM. Later ones begin at the centroids before, so
    that a cluster keeps its meaning and its weight. Between them a user keeps its cluster; a new one joins the nearest.

    Args:
        population: gives the number of users and the width of their states.
        clusters: K.
        temperature: tau; the smaller, the further the weights move apart.
        weight_learning_rate: of v.
        refresh_steps: optimiser steps between two clusterings of the last known states of all users.
    """

    decides_on_host = True
    reads_states = True

    def __init__(
        self,
        population: Population,
        *,
        clusters: int,
        temperature: float,
        weight_learning_rate: float,
        refresh_steps: int,
    ) -> None:
        self.n_users, self.dim = population.n_users, population.state_dim
        self.clusters, self.temperature = clusters, temperature
        self.weight_learning_rate, self.refresh_steps = weight_learning_rate, refresh_steps

    def initial_state(self) -> State:
        return {
            "cluster_scores": torch.zeros(self.clusters),
            "clusters": torch.full((self.n_users,), UNSEEN),
            "centroids": torch.zeros(self.clusters, self.dim),
            "user_states": torch.zeros(self.n_users, self.dim),
        }

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        losses, users, user_states = batch.losses, batch.users, state["user_states"]
        directions = functional.normalize(batch.states.to(user_states), dim=1)
        user_states.index_copy_(0, users, directions)
        before = state["clusters"][users]
        assigned = torch.where(before == UNSEEN, _nearest(directions, state["centroids"]), before)
        clusters = state["clusters"].index_copy_(0, users, assigned)

        scores = state["cluster_scores"].to(losses)
        q = torch.softmax(scores[assigned] / self.temperature, 0)
        gradient = torch.zeros_like(scores).index_add_(0, assigned, q * (losses - q @ losses)) / self.temperature
        new_state = {
            "cluster_scores": scores + self.weight_learning_rate * gradient,
            "clusters": clusters,
            "centroids": state["centroids"],
            "user_states": user_states,
        }
        if (batch.step + 1) % self.refresh_steps == 0:
            new_state |= _clustered(new_state)
        return q, new_state

    def history(self, state: State) -> dict[str, float]:
        return _history(state, self.temperature)


class RsrSoft(Objective):
    """A user belongs to every cluster by its nearness: `a_uk = softmax_k(-||z_u - c_k||^2)`, z_u the detached state.

    After every batch the prototypes c make one step of plain gradient down

        clustering_weight * mean_u sum_k a_uk ||z_u - c_k||^2 - sum_u q_u l_u.

    The weighted loss is subtracted: prototypes that minimised it would hide hard users in light clusters. The
    prototypes begin near the states of users of the first batch.

    Args:
        population: gives the number of users and the width of their states.
        clusters: K.
        temperature: tau; the smaller, the further the weights move apart.
        weight_learning_rate: of v.
        prototype_learning_rate: of c.
        clustering_weight: lambda.
    """

    reads_states = True

    def __init__(
        self,
        population: Population,
        *,
        clusters: int,
        temperature: float,
        weight_learning_rate: float,
        prototype_learning_rate: float,
        clustering_weight: float,
    ) -> None:
        self.n_users, self.dim = population.n_users, population.state_dim
        self.clusters, self.temperature = clusters, temperature
        self.weight_learning_rate, self.prototype_learning_rate = weight_learning_rate, prototype_learning_rate
        self.clustering_weight = clustering_weight

    def initial_state(self) -> State:
        # where there are more clusters than users in a batch, two of them begin at one user, and have to part
        noise = 0.01 * torch.randn(self.clusters, self.dim, generator=torch.Generator().manual_seed(_SEED))
        return {
            "cluster_scores": torch.zeros(self.clusters),
            "clusters": torch.full((self.n_users,), UNSEEN),
            "prototypes": noise,
            "placed": torch.tensor(False),
        }

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        losses, states = batch.losses, batch.states.to(batch.losses)
        scores, prototypes = state["cluster_scores"].to(losses), state["prototypes"].to(losses)
        evenly = torch.arange(self.clusters, device=losses.device) * len(losses) // self.clusters
        examples = states[torch.argsort(batch.users, stable=True)[evenly]]
        prototypes = torch.where(state["placed"], prototypes, examples + prototypes)

        with torch.enable_grad():
            scores, prototypes = scores.detach().requires_grad_(), prototypes.detach().requires_grad_()
            distances = _squared_distances(states, prototypes)
            log_shares = torch.log_softmax(-distances, 1)
            q = torch.softmax(torch.logsumexp(log_shares + scores / self.temperature, 1), 0)
            weighted = q @ losses
            clustering = (log_shares.exp() * distances).sum(1).mean()
            (up,) = torch.autograd.grad(weighted, scores, retain_graph=True)
            (down,) = torch.autograd.grad(self.clustering_weight * clustering - weighted, prototypes)
        return q.detach(), {
            "cluster_scores": scores.detach() + self.weight_learning_rate * up,
            "clusters": state["clusters"].index_copy_(0, batch.users, distances.argmin(1)),
            "prototypes": prototypes.detach() - self.prototype_learning_rate * down,
            "placed": torch.ones_like(state["placed"]),
        }

    def history(self, state: State) -> dict[str, float]:
        return _history(state, self.temperature)


def cluster_table(state: State, groups: np.ndarray, names: Sequence[str]) -> dict[str, list[float]]:
    """Whom the clusters hold: by group, its share of the users of each cluster.

    Args:
        state: of RSR; a user counts in the cluster in which it was last put (of soft clusters, the nearest).
        groups: (n_users,) group of each user.
        names: (G,) of the groups.

    Returns:
        K shares for every name; those of a cluster sum to 1, or are 0 if it is empty.
    """
    clusters, k = state["clusters"].cpu().numpy(), len(state["cluster_scores"])
    seen = clusters != UNSEEN
    counts = np.bincount(groups[seen] * k + clusters[seen], minlength=len(names) * k).reshape(len(names), k)
    shares = counts / np.maximum(counts.sum(0), 1)
    return dict(zip(names, shares.tolist(), strict=True))


def _history(state: State, temperature: float) -> dict[str, float]:
    """Entropies in nats; ln K is that of equal weights or sizes. Before the method starts all sizes are 0."""
    weights = torch.softmax(state["cluster_scores"] / temperature, 0)
    clusters = state["clusters"]
    counts = torch.bincount(clusters[clusters != UNSEEN], minlength=len(weights))
    shares = counts / counts.sum().clamp(min=1)
    columns = {
        "cluster_weight_entropy": float(torch.special.entr(weights).sum()),
        "cluster_size_entropy": float(torch.special.entr(shares).sum()),
        "cluster_size_min": float(shares.min()),
        "cluster_size_max": float(shares.max()),
    }
    if len(weights) <= _LISTED:
        columns |= {f"cluster_weight_{k}": weight for k, weight in enumerate(weights.tolist())}
        columns |= {f"cluster_size_{k}": share for k, share in enumerate(shares.tolist())}
    return columns


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """(n, K), from products: no (n, K, dim) tensor."""
    products = points @ centres.T
    return points.square().sum(1, keepdim=True) - 2 * products + centres.square().sum(1)


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return _squared_distances(points, centres).argmin(1)


def _clustered(state: State) -> State:
    """K-means of the last states of all users that have one: new `centroids` and `clusters`.

    An empty cluster stays where it is, and may get users later.
    """
    users = (state["clusters"] != UNSEEN).nonzero()[:, 0]
    points, centroids = state["user_states"][users], state["centroids"]
    if not bool(centroids.any()):
        centroids = _spread(points, len(centroids))
    nearest = _nearest(points, centroids)
    for _ in range(_LLOYD_STEPS):
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        counts = torch.bincount(nearest, minlength=len(centroids))[:, None]
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
        last, nearest = nearest, _nearest(points, centroids)
        if torch.equal(nearest, last):
            break
    return {"centroids": centroids, "clusters": state["clusters"].index_copy_(0, users, nearest)}


def _spread(points: Tensor, count: int) -> Tensor:
    """k-means++: each further point is drawn by its squared distance to those before it."""
    uniform = np.random.default_rng(_SEED).random(count)
    chosen = [int(uniform[0] * len(points))]
    nearest = _squared_distances(points, points[chosen])[:, 0]
    for draw in uniform[1:]:
        total = nearest.double().clamp(min=0).cumsum(0)
        at = int(torch.searchsorted(total, total[-1:] * draw, right=True).clamp(max=len(points) - 1))
        chosen.append(at)
        nearest = torch.minimum(nearest, _squared_distances(points, points[[at]])[:, 0])
    return points[chosen]
