"""What a robust objective is: user losses in, weights out.

Every method minimises `sum_u q_u l_u`, where the weights q are found from the detached losses of the batch (METHODS:
notation). An objective therefore never sees the model, and the training step never sees the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

State = dict[str, Tensor]
"""What an objective remembers between batches; saved with the checkpoint, so it is all there is to remember."""


@dataclass(frozen=True)
class LossBatch:
    """What an objective may look at.

    Attributes:
        losses: (B,) mean cross-entropy of each user in nats, detached; with `item_weights`, of the weighted positions.
        groups: (B,) int64 group of each user; None for an objective that asked for no groups.
    """

    losses: Tensor
    groups: Tensor | None


@dataclass(frozen=True)
class Population:
    """Frequencies in the training data.

    Attributes:
        item_counts: (n_items,) training interactions of each item.
        group_users: (G,) users of each group; None without groups.
        group_interactions: (G,) training interactions of each group; None without groups.
    """

    item_counts: Tensor
    group_users: Tensor | None = None
    group_interactions: Tensor | None = None

    @property
    def n_groups(self) -> int:
        return 0 if self.group_users is None else len(self.group_users)


class Objective(Protocol):
    """A robust objective.

    Attributes:
        item_weights: (n_items,) factor on the loss of a position by its target; None for 1.
    """

    item_weights: Tensor | None

    def initial_state(self) -> State:
        """State before the first batch, on the CPU."""
        ...

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        """Weights q (B,) of the users' losses, and the state after this batch. Neither carries a gradient."""
        ...
