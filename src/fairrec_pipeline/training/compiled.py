"""A training step whose element-wise work is compiled, for few and large kernels on a GPU.

A recorded step of the published backbone is some two hundred kernels, most of which take longer to start than to run.
inductor, the compiler of torch, makes one kernel of neighbouring norms, dropouts, casts and sums. Left to Python are
the objective and the order of both passes.

The compiled functions know nothing of a training, so that several trainings of one process share them. They leave the
number of positions open: batches of all sizes are compiled once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.models.dropout import TorchMasks
from fairrec_pipeline.models.packing import Ragged
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives.base import LossBatch, State
from fairrec_pipeline.storage import Where
from fairrec_pipeline.training.batches import Batch
from fairrec_pipeline.training.step import StepOutcome, TrainingStep

_MASKS = TorchMasks()
_FEW_POSITIONS = 8192
"""A sum over no more positions is one kernel. Split in two it would fill more of a GPU and start twice. A guess."""
_ALIGNED = 8
"""A product of bfloat16 is fast where rows are a multiple of so many numbers, as those of the logits are made."""
_FORMS = 2**16
"""A function may be compiled so often in a process: a grid over the backbone has many sizes. torch gives up at 8."""


class CompiledStep(TrainingStep):
    """A step of the same numbers but for rounding, and but for the draws of dropout.

    Compiled is a step on sequences without padding, if the logits may be kept; else it is that of `TrainingStep`.
    """

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return compiled(function, few_positions=True)

    def backward(self, batch: Batch, state: State, number: int = 0) -> StepOutcome:
        layout, parameter, n = batch.layout, self.model.output_table, len(batch.tokens)
        size = n * len(parameter) * (2 if self.bf16 else parameter.element_size())
        if not isinstance(layout, Ragged) or size > self.head.keep_bytes:
            return super().backward(batch, state, number)
        factors = self._factors(batch)
        assert batch.targets is not None  # a training batch
        assert factors is not None  # some of its positions are not real
        self.optimizer.zero_grad()
        for of_positions in (batch.tokens, batch.positions, batch.targets, factors, batch.rows):
            torch._dynamo.mark_dynamic(of_positions, 0)
        copies = self.half_weights.refresh() if self.half_weights else {}
        encoded = compiled(encode, few_positions=n <= _FEW_POSITIONS)
        where = (batch.tokens, batch.positions, layout.offsets, layout.longest)
        states, weight = encoded(self.model, copies, *where, self.bf16)
        with torch.no_grad():
            about = (batch.targets, factors, batch.rows, batch.lengths)
            head = HeadInputs(states.detach(), weight.detach(), len(parameter), *about)
            torch._dynamo.mark_dynamic(head.states, 0)
            logits, log_normaliser, per_user = compiled(losses)(head)
            groups = None if self.groups is None else self.groups[batch.users]
            seen = LossBatch(per_user, groups, batch.users, step=number, lengths=batch.lengths)
            if self.objective.reads_states:
                seen = replace(seen, states=head.states[batch.ends].float())
            weights, state = self.weigh(batch, seen, state)
            torch._dynamo.mark_dynamic(logits, 0)
            torch._dynamo.mark_dynamic(log_normaliser, 0)
            by_states, by_weight = compiled(gradients)(head, logits, log_normaliser, weights)
        self.propagate({states: by_states, weight: by_weight})
        return StepOutcome(per_user, weights, state)


@cache
def compiled(function: Callable[..., Any], *, few_positions: bool = False) -> Callable[..., Any]:
    """The function as inductor makes it at the first call; `few_positions` that it adds up in one kernel.

    The call raises an OptionError where inductor fails, as without Triton or a C compiler.
    """
    made = torch.compile(function, fullgraph=True, options=options(few_positions=few_positions))

    def call(*arguments: Any) -> Any:
        try:
            with torch._dynamo.config.patch(recompile_limit=_FORMS, accumulated_recompile_limit=_FORMS):
                return made(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise OptionError(f"a step cannot be compiled: {error}. train.compile=false does without") from error

    return call


def options(*, few_positions: bool) -> dict[str, Any]:
    """Options of inductor."""
    # a product that is padded to be faster would be measured first, while a job waits
    return {"combo_kernels": True, "split_reductions": not few_positions, "shape_padding": False}


def keep_compiled_beside(checkpoint: Where) -> None:
    """Keep what inductor makes in a folder beside a checkpoint, if that is local and nobody has said where."""
    if str(checkpoint) and "://" not in str(checkpoint):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(str(checkpoint)).resolve().parent / "compiled"))


def encode(
    model: SASRec,
    copies: Mapping[str, Tensor],
    tokens: Tensor,
    positions: Tensor,
    offsets: Tensor,
    longest: int,
    bf16: bool,
) -> tuple[Tensor, Tensor]:
    """States (n, dim) and output embedding (m, dim), both with dropout; m is n_items and rows of zeros.

    Args:
        copies: stand for parameters of the model.
        tokens, positions, offsets, longest: of the sequences; see `SASRec.forward` and `Ragged`.
        bf16: both in bfloat16, as are the products.
    """
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16, enabled=bf16, cache_enabled=False):
        inputs = (tokens, positions, Ragged(offsets, longest), _MASKS)
        states: Tensor = torch.func.functional_call(model, dict(copies), inputs)
    weight = _MASKS.dropout(model.output_table, model.dropout)
    weight = functional.pad(weight, (0, 0, 0, -len(weight) % _ALIGNED))
    return (states.bfloat16(), weight.bfloat16()) if bf16 else (states, weight)


class HeadInputs(NamedTuple):
    """What the losses of n positions of B users are made of.

    Attributes:
        states, weight: (n, dim) and (m, dim), whose products are the logits.
        n_items: the rows of `weight` from here on count nowhere.
        targets, factors, rows: (n,) item, what its loss counts with, and which of the users it is of.
        lengths: (B,) number of positions.
    """

    states: Tensor
    weight: Tensor
    n_items: int
    targets: Tensor
    factors: Tensor
    rows: Tensor
    lengths: Tensor


def losses(head: HeadInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, m); their normaliser (n,) and the losses of the users (B,) in nats, both float32 or wider."""
    logits = head.states @ head.weight.T
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    is_item = torch.arange(len(head.weight), device=logits.device) < head.n_items
    log_normaliser = torch.logsumexp(wide.masked_fill(~is_item, -math.inf), 1)
    of_positions = (log_normaliser - wide.gather(1, head.targets[:, None])[:, 0]) * head.factors
    # one sum for all users: to add each loss where it belongs would take three kernels
    is_own = torch.arange(len(head.lengths), device=logits.device)[:, None] == head.rows
    return logits, log_normaliser, torch.where(is_own, of_positions, 0.0).sum(1) / head.lengths


def gradients(head: HeadInputs, logits: Tensor, log_normaliser: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the losses (B,) times `weights` (B,) by the states and the output embedding; see `losses`."""
    coefficients = ((weights / head.lengths)[head.rows] * head.factors)[:, None]
    log_probabilities = logits.to(log_normaliser.dtype) - log_normaliser[:, None]
    items = torch.arange(len(head.weight), device=logits.device)
    is_target = items == head.targets[:, None]
    # probability - 1 without the rounding of a difference
    differences = torch.where(is_target, torch.expm1(log_probabilities), torch.exp(log_probabilities))
    by_logits = torch.where(items < head.n_items, differences * coefficients, 0.0).to(logits.dtype)
    return by_logits @ head.weight, by_logits.T @ head.states
