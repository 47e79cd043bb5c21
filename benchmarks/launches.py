"""`python -m benchmarks.launches`: what a recorded step of the published job launches, counted without a GPU.

The step runs on torch's `meta` device, whose tensors have no values, and takes the branches of CUDA there. Autocast and
the fused dropout of CUDA are imitated. Counted is every operator that computes something; views and empty tensors are
nothing. Most are one kernel; a sort, a scan, an attention or a product may be several, so a profile on a GPU says a
little more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.jobs import LOSSES
from benchmarks.workloads import PUBLISHED
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.objectives import make_objective
from fairrec_pipeline.objectives.base import Population
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.cuda_graphs import GraphRunner
from fairrec_pipeline.training.step import TrainingStep

_NOTHING = (
    "empty", "new_empty", "detach", "alias", "_unsafe_view", "lift_fresh", "is_same_size", "set_", "resize",
    "_record_function", "promote_types",
)  # fmt: skip
"""Beginnings of the names of operators that launch nothing."""


POSITIONS = 1600
"""Of a batch: about those of a mean one of RetailRocket."""


class Launches(TorchDispatchMode):
    """Counts operators that compute something, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._pauses = 0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Without counting."""
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = func.overloadpacket.__name__
        if not self._pauses and not func.is_view and not name.startswith(_NOTHING):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def step_launches(loss: str = "erm", *, sizes: dict[str, Any] | None = None, n_items: int = 17_803) -> Counter[str]:
    """Operators of a recorded step by name, with the optimiser's as one.

    Args:
        loss: of `LOSSES`, one that needs no groups.
        sizes: of the backbone; None for the published ones.
        n_items: of the catalogue.
    """
    counting = Launches()
    with (
        mock.patch.object(torch, "autocast", _Autocast),
        mock.patch.object(functional, "dropout", lambda x, rate: torch.native_dropout(x, rate, True)[0]),
    ):
        runner = make_recorded_steps(loss, torch.device("meta"), sizes or PUBLISHED, n_items)
        runner.launch(POSITIONS, 0)  # what is made at first use
        with counting:
            runner.launch(POSITIONS, 1)
    counting.counts["fused Adam"] = 1
    return counting.counts


def make_recorded_steps(
    loss: str,
    device: torch.device,
    sizes: dict[str, Any],
    n_items: int,
    step_type: Callable[..., TrainingStep] = TrainingStep,
) -> GraphRunner:
    """Four steps of 128 users and `POSITIONS` positions each, that can be launched; the optimiser does nothing."""
    rng, lengths = np.random.default_rng(0), np.full(200, 12)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    train = Histories(np.arange(200), np.arange(n_items), rng.integers(0, n_items, size=offsets[-1]), offsets)
    path, options = LOSSES[loss]
    with device:
        model = SASRec(n_items, **sizes).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    optimizer.step = lambda *_: None  # type: ignore[assignment, method-assign]
    objective = make_objective(path, Population(torch.ones(n_items, dtype=torch.int64)), options)
    step = step_type(model, optimizer, objective, None, bf16=True, head=SoftmaxHead(chunk=n_items))
    batches = Batches(train, max_length=sizes["max_length"], device=device)
    runner = GraphRunner(step, batches, {}, (4, 128))
    runner._cut([POSITIONS] * 4)
    return runner


class _Autocast(TorchFunctionMode):
    """Linear layers in bfloat16, as autocast has them, for `torch.autocast`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is functional.linear:
            args = [x.bfloat16() for x in args]
        return func(*args, **(kwargs or {}))


def show(
    name: str, about: str | None, count: Callable[[str], Counter[str]], arguments: list[str] | None = None
) -> None:
    """Command `python -m <name>`: what a step of a loss launches, by kernel, most often first."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=about)
    parser.add_argument("--loss", default="erm", choices=("erm", "cvar"))
    counts = count(parser.parse_args(arguments).loss)
    for kernel, n in counts.most_common():
        print(f"{n:4} {kernel}")
    print(f"launches={counts.total()}")
    print(json.dumps(dict(counts)))


def main(arguments: list[str] | None = None) -> None:
    show("benchmarks.launches", __doc__, step_launches, arguments)


if __name__ == "__main__":
    main()
