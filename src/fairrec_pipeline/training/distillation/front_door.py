"""The causal target of `causald` by front-door adjustment: teachers, and a predictor that sees through them.

    P(y | do(x)) = sum_m P(m | x) sum_x' P(x') P(y | m, x')

The mediators m of a history x are the states that T teachers have of it, P(m | x) is uniform over them, and the prior
P(x') is that of a batch of users. Our reconstruction (METHODS: causald); see docs/methods.md for what was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.training.batches import Batch

LOGITS_AT_ONCE = 2**22
"""Elements of the (positions, items) tensors that exist at a time."""


class Predictor(nn.Module):
    """P(y | m, x'): a mediator, corrected by a hidden layer that sees both, scored by the shared output embedding.

    The correction starts at 0, so an untrained predictor says what the teacher says. `dim` is the width of a state.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(2 * dim, dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)

    def forward(self, mediators: Tensor, histories: Tensor) -> Tensor:
        """(n, dim) states from (n, dim) mediators and (n, dim) descriptions of x'."""
        scaled = functional.layer_norm(histories, histories.shape[-1:])
        correction: Tensor = self.contract(torch.relu(self.expand(torch.cat((mediators, scaled), dim=-1))))
        return mediators + correction


class FrontDoor:
    """Mediators and targets of a batch; nothing here carries a gradient but what goes through the predictor.

    Args:
        teachers: models in evaluation mode with the same item and output embeddings.
        predictor: None for plain distillation from several teachers, without x'.
    """

    def __init__(self, teachers: Sequence[SASRec], predictor: Predictor | None = None) -> None:
        self.teachers, self.predictor = teachers, predictor
        self.output_weight = teachers[0].output_table.detach()

    @torch.no_grad()
    def mediators(self, batch: Batch) -> Tensor:
        """(T, n, dim) state of every teacher after each token of the batch."""
        return torch.stack([model(batch.tokens, batch.positions, batch.layout) for model in self.teachers])

    @torch.no_grad()
    def histories(self, batch: Batch) -> Tensor:
        """(n, dim) description of the history up to each token: the mean of its items' embeddings, the start included.

        It knows no order, so that it does not say again what the mediator says of the next item; a predictor that could
        read the next item off x' would not listen to m.
        """
        embedded: Tensor = self.teachers[0].item_embedding(batch.tokens).double()  # differences of long sums follow
        sums = embedded.cumsum(0)
        starts = (batch.ends - batch.lengths + 1)[batch.rows]
        before = sums[starts] - embedded[starts]
        counts = torch.arange(1, len(sums) + 1, device=sums.device) - starts
        return ((sums - before) / counts[:, None]).to(self.output_weight.dtype)

    @torch.no_grad()
    def target(self, mediators: Tensor, histories: Tensor, temperature: float = 1.0) -> Tensor:
        """P(y | do(x)), the mean softmax over teachers and x'.

        Args:
            mediators: (T, r, dim) of r positions.
            histories: (r, J, dim) descriptions of the x' of each; J = 0 is the teachers' own mean.
            temperature: divides the logits.

        Returns:
            (r, n_items) distributions.
        """
        states = list(mediators)
        if self.predictor is not None and histories.shape[1]:
            states = [self.predictor(of_teacher, others) for of_teacher in mediators for others in histories.unbind(1)]
        total = mediators.new_zeros(mediators.shape[1], len(self.output_weight))
        for state in states:
            total += torch.softmax(torch.mm(state, self.output_weight.T).div_(temperature), dim=1)
        return total.div_(len(states))


def predictor_loss_gradients(
    front_door: FrontDoor, batch: Batch, positions: Tensor, teachers: Tensor, head: SoftmaxHead
) -> float:
    """Backpropagate the predictor's mean cross-entropy where a history and its mediator belong together; returns it.

    Each of the r positions of the batch takes the mediator of one of the `teachers` (r,).
    """
    assert front_door.predictor is not None  # what is trained
    assert batch.targets is not None
    mediators, histories = front_door.mediators(batch)[teachers, positions], front_door.histories(batch)[positions]
    states = front_door.predictor(mediators, histories)
    entropies = head.losses(states.detach(), front_door.output_weight, batch.targets[positions])
    losses = entropies.losses
    gradient, _ = entropies.gradients(torch.full_like(losses, 1 / len(losses)))
    states.backward(gradient)
    return float(losses.mean())


def disagreement(states: Tensor, output_weight: Tensor) -> float:
    """Mean Jensen-Shannon divergence of the teachers' distributions, in nats: 0 if they agree, at most ln T.

    Args:
        states: (T, r, dim) of T teachers in r positions.
        output_weight: (n_items, dim) that they share.
    """
    divergence = 0.0
    for part in states.split(max(1, LOGITS_AT_ONCE // len(output_weight)), dim=1):
        mean = part.new_zeros(part.shape[1], len(output_weight))
        entropies = part.new_zeros(part.shape[1])
        for of_teacher in part:
            logs = torch.log_softmax(of_teacher @ output_weight.T, dim=1)
            entropies += torch.special.entr(logs.exp()).sum(1) / len(part)
            mean += logs.exp_() / len(part)
        divergence += float((torch.special.entr(mean).sum(1) - entropies).sum())
    return divergence / states.shape[1]


def drawn_positions(batch: Batch, number: int | None, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Positions of a batch, and how many of its user's positions each of them stands for.

    Drawn with replacement, `number` a user, which is an unbiased estimate of a mean over positions and needs no shapes
    from the device; None for all positions.
    """
    n, device = len(batch.tokens), batch.tokens.device
    if number is None:
        return torch.arange(n, device=device), torch.ones(n, device=device)
    shares = torch.from_numpy(random.random((len(batch.users), number))).to(device)
    starts = batch.ends - batch.lengths + 1
    positions = starts[:, None] + (shares * batch.lengths[:, None]).long()
    standing_for = (batch.lengths / number)[:, None].expand_as(positions)
    return positions.flatten(), standing_for.flatten()
