"""What a robust objective is: user losses in, weights out.

Every method minimises `sum_u q_u l_u`, where the weights q follow from the detached losses of the batch (METHODS:
notation). An objective therefore never sees the model, and the training step never sees the method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]
"""What an objective remembers between batches; saved with the checkpoint, so it is all there is to remember.

A tensor with a row per user may be written in place: a copy of it at every step would cost more than the step itself.
"""

_NONE = torch.empty(0)


@dataclass(frozen=True)
class LossBatch:
    """What an objective may look at.

    Attributes:
        losses: (B,) mean cross-entropy of each user in nats, detached; with `item_weights`, of the weighted positions.
        groups: (B,) int64 group of each user; None for an objective that asked for no groups.
        users: (B,) int64 indices of the users among all of them, for what is remembered by user.
        states: (B, dim) float32 state of each user after the newest training token, detached.
        step: number of the optimiser step, from 0, for warm-up and what is refreshed now and then.
        lengths: (B,) int64 number of positions of each user, at most `max_length`, of which its loss is the mean.
    """

    losses: Tensor
    groups: Tensor | None = None
    users: Tensor = _NONE
    states: Tensor = _NONE
    step: int = 0
    lengths: Tensor = _NONE


@dataclass(frozen=True)
class Population:
    """What an objective may know before the first batch: sizes, and frequencies in the training data.

    Attributes:
        item_counts: (n_items,) training interactions of each item.
        group_users: (G,) users of each group; None without groups.
        group_interactions: (G,) training interactions of each group; None without groups.
        group_names: (G,) for the columns of the history.
        n_users: number of training users.
        state_dim: width of a user's state.
    """

    item_counts: Tensor
    group_users: Tensor | None = None
    group_interactions: Tensor | None = None
    group_names: Sequence[str] = ()
    n_users: int = 0
    state_dim: int = 0

    @property
    def n_groups(self) -> int:
        return 0 if self.group_users is None else len(self.group_users)


class Constant:
    """A tensor that depends on the shape of another one alone, made at the first call: a GPU launches nothing for it.

    Args:
        make: from a tensor like those to come.
    """

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        self._make, self._known = make, _NONE

    def like(self, x: Tensor) -> Tensor:
        """The constant for x; it is not to be written to."""
        known = self._known
        if (known.shape, known.dtype, known.device) != (x.shape, x.dtype, x.device):
            self._known = self._make(x)
        return self._known


class Objective(ABC):
    """A robust objective.

    Attributes:
        item_weights: (n_items,) factor on the loss of a position by its target; None for 1.
        balanced_batches: draw batches in which every group has an equal share, whatever its size.
        share_with_weight: about which share of the users of a batch gets a weight above 0. It decides how a step
            computes, never what.
        decides_on_host: `weights` is another program from step to step, or looks at numbers on the device; then steps
            cannot be recorded as CUDA graphs.
        reads_states: whether `weights` looks at the states of the users.
    """

    item_weights: Tensor | None = None
    balanced_batches: bool = False
    share_with_weight: float = 1.0
    decides_on_host: bool = False
    reads_states: bool = False

    @abstractmethod
    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        """Weights q (B,) of the users' losses, and the state after this batch. Neither carries a gradient."""

    def initial_state(self) -> State:
        """State before the first batch, on the CPU."""
        return {}

    def history(self, state: State) -> dict[str, float]:
        """Columns of the training history that tell of the state, such as group weights."""
        return {}
