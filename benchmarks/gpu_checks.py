"""`python -m benchmarks.gpu_checks`: what only a GPU can show, each check a function that needs nothing but torch.

The kernels and graphs of CUDA against the same steps launched one by one. `tests/training/test_on_cuda.py` runs the
same checks under pytest where it is installed. On the CPU (`--device cpu`) most compare the CPU with itself, which
shows that they run.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.attention import causal_attention, has_ragged_kernel
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.packing import Ragged
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives import make_objective
from fairrec_pipeline.objectives.base import Objective
from fairrec_pipeline.training import compiled as compiled_module
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.compiled import CompiledStep
from fairrec_pipeline.training.cuda_graphs import EpochOutcome, GraphRunner
from fairrec_pipeline.training.fit import resolve_device
from fairrec_pipeline.training.loss_groups import population
from fairrec_pipeline.training.scoring import encode
from fairrec_pipeline.training.step import TrainingStep
from fairrec_pipeline.training.turns import CudaLane, Turns, Work
from fairrec_pipeline.training.validation import Validation

_BY_GROUP: dict[str, Any] = {"eta": 0.1, "absent_groups": "keep"}
OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "erm": ("erm:Erm", {}),
    "cb": ("class_balanced:class_balanced", {"log": False}),
    "cb_log": ("class_balanced:class_balanced", {"log": True}),
    "ipw": ("inverse_propensity:InversePropensity", {"count": "users", "log": False}),
    "ipw_log": ("inverse_propensity:InversePropensity", {"count": "users", "log": True}),
    "gdro": ("group_dro:GroupDro", _BY_GROUP),
    "sdro": ("group_dro:GroupDro", _BY_GROUP | {"beta": 0.1}),
    "cvar": ("cvar:CVaR", {"alpha": 0.3}),
    "erm_positions": ("erm:ErmPositions", {}),
    "cvar_doro": ("cvar:CVaRDoro", {"alpha": 0.3, "eps": 0.2}),
    "cvar_smooth": ("cvar:CVaRSmooth", {"alpha": 0.3, "h": 0.15}),
    "chi2": ("chi2:Chi2", {"alpha": 0.5}),
    "kl": ("kl:Kl", {"tau": 1.0}),
    "arl": ("arl:Arl", {"adversary_learning_rate": 0.1}),
    "rsr_soft": (
        "rsr:RsrSoft",
        {
            "clusters": 3,
            "temperature": 0.5,
            "weight_learning_rate": 0.5,
            "prototype_learning_rate": 0.1,
            "clustering_weight": 0.05,
        },
    ),
}
"""Every objective whose steps ask the device nothing, and options; the table of methods would need pydantic."""
BY_GROUP = ("ipw", "ipw_log", "gdro", "sdro")
STEPS = (TrainingStep, CompiledStep)
HEADS = ((2, 32), (1, 256))  # a small one, and the published backbone
LENGTHS = (1, 1, 2, 3, 3, 5, 8, 9, 11, 12, 13, 14, 20, 31)
USERS = torch.tensor([[0, 13, 5, 7, 1], [2, 3, 4, 6, 8], [9, 9, 10, 11, 12], [13, 12, 11, 10, 0]])
SHORT = torch.tensor([[0, 1, 2, 3, 4], [1, 3, 0, 2, 4], [4, 2, 1, 0, 3], [2, 4, 3, 1, 0]])
"""Users whose batches are so small that those of `USERS` outgrow the room that is made for them."""
RATES = [2**-7, 2**-6, 2**-8, 2**-7]


def histories(*, held_out: bool = False) -> Histories:
    """Random ones of `LENGTHS` over 37 items."""
    rng, n = np.random.default_rng(0), len(LENGTHS)
    items = rng.integers(0, 37, size=sum(LENGTHS))
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    held = (rng.integers(0, 37, size=n), np.zeros(n, dtype=bool)) if held_out else ()
    return Histories(np.arange(n), np.arange(37), items, offsets, *held)


def model_on(device: torch.device, **changes: Any) -> SASRec:
    """A small one."""
    torch.manual_seed(3)
    sizes = {"dim": 16, "feed_forward": 24, "blocks": 2, "heads": 2, "dropout": 0.2, "max_length": 12, "init_std": 0.5}
    return SASRec(37, **(sizes | changes)).to(device)


def step_on(
    loss: str, model: SASRec, train: Histories, kind: type[TrainingStep] = TrainingStep, **options: Any
) -> TrainingStep:
    """A step of an objective of `OBJECTIVES`, its users in three groups."""
    path, arguments = OBJECTIVES[loss]
    codes, device = np.arange(train.n_users) % 3, model.output_table.device
    objective: Objective = make_objective(path, population(train, codes, ["a", "b", "c"], 16), arguments)
    groups = torch.from_numpy(codes).to(device) if loss in BY_GROUP else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.1, fused=True)
    return kind(model, optimizer, objective, groups, **options)


def runner_of(step: TrainingStep, train: Histories, shape: tuple[int, int]) -> GraphRunner:
    """Batches of it have several sizes, so graphs share memory."""
    device = step.model.output_table.device
    state = {name: value.to(device) for name, value in step.objective.initial_state().items()}
    runner = GraphRunner(step, Batches(train, max_length=12, device=device), state, shape)
    runner.batches_of_fixed_size.grain = 8
    return runner


def _packed(dim: int) -> tuple[torch.Tensor, Ragged]:
    lengths = torch.tensor([20, 11, 10, 4, 4, 1])
    torch.manual_seed(0)
    offsets = torch.tensor([0, *lengths.cumsum(0).tolist()], dtype=torch.int32)
    return torch.randn(int(lengths.sum()), 3 * dim).bfloat16(), Ragged(offsets, 30)


# --- the checks


def ragged_attention(device: torch.device, heads: int, dim: int) -> None:
    """Forward and backward, in bfloat16, against single precision on the CPU."""
    qkv, layout = _packed(dim)
    upstream = torch.randn(len(qkv), dim).bfloat16()
    found = []
    for where, dtype in ((device, torch.bfloat16), (torch.device("cpu"), torch.float32)):
        x = qkv.to(where, dtype, copy=True).requires_grad_()
        attended = causal_attention(x, Ragged(layout.offsets.to(where), layout.longest), heads, MaskSource(0), 0.0)
        attended.backward(upstream.to(where, dtype))
        assert x.grad is not None
        found.append((attended.detach().cpu().float(), x.grad.cpu().float()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=5e-2, atol=5e-2)


def dropout_of_ragged_attention(device: torch.device, heads: int, dim: int) -> None:
    """The backward pass has the mask of the forward pass: the outcome is linear in v. The mean over masks has none."""
    if device.type == "cpu":
        return  # its dropout draws other masks in every call of the same kernel: there is nothing of CUDA to see
    qkv, layout = _packed(dim)
    layout = Ragged(layout.offsets.to(device), layout.longest)
    x, upstream = qkv.to(device, copy=True).requires_grad_(), torch.randn(len(qkv), dim, device=device).bfloat16()
    attended = causal_attention(x, layout, heads, MaskSource(0), 0.2)
    attended.backward(upstream)
    assert x.grad is not None
    by_v = (x.grad[:, 2 * dim :].double() * x.detach()[:, 2 * dim :].double()).sum()
    torch.testing.assert_close(by_v, (attended.detach().double() * upstream.double()).sum(), rtol=2e-2, atol=1.0)
    draws = torch.stack([causal_attention(x.detach(), layout, heads, MaskSource(0), 0.2) for _ in range(400)]).double()
    assert float(draws.std(0).max()) > 0.1
    whole = causal_attention(x.detach(), layout, heads, MaskSource(0), 0.0).double()
    # a weight w is 0 or w / .8, whose standard deviation is w / 2; 400 draws, and |v| mostly below 3
    assert float((draws.mean(0) - whole).abs().mean()) < 0.05


def played_steps(device: torch.device, loss: str, warm_start_steps: int, first_users: torch.Tensor = USERS) -> None:
    """The same kernels with the same random numbers: losses, weights and state of 24 steps in two calls.

    Batches have three sizes, and the head's buffer grows after the first recording. After `SHORT` as users of the first
    call, the larger batches of the second are recorded anew.
    """
    train, found = histories(), dict[str, tuple[list[EpochOutcome], Any]]()
    rates = [rate / 8 for rate in RATES] * 3
    calls = {first: users.repeat(3, 1) for first, users in ((0, first_users), (len(rates), USERS))}
    kinds = ("launched", "played") if device.type == "cuda" else ("launched", "again")
    for kind in kinds:
        model = model_on(device).train()
        step = step_on(loss, model, train, bf16=device.type == "cuda", warm_start_steps=warm_start_steps)
        runner = runner_of(step, train, (len(rates), USERS.shape[1]))
        runner.records = kind == "played"
        outcomes = []
        with _checked_recording() if kind == "played" else mock.patch.dict({}):
            for first, users in calls.items():
                torch.manual_seed(first)
                model.mask_source = MaskSource(first)
                outcomes.append(runner.run(users, rates, first))
        assert len({size for size, _ in runner.graphs}) == (3 if kind == "played" else 0)
        found[kind] = outcomes, runner.state
    torch.testing.assert_close(*(found[kind] for kind in reversed(kinds)), rtol=5e-3, atol=5e-3, equal_nan=True)


def compiled_steps(device: torch.device, loss: str) -> None:
    """Steps without dropout, compiled and played, against launched ones in single precision on the CPU.

    Losses of 24 steps; on the CPU nothing is compiled, since `tests/training/test_compiled.py` does that.
    """
    train, found = histories(), list[EpochOutcome]()
    users, rates = USERS.repeat(6, 1), [rate / 8 for rate in RATES] * 6
    uncompiled = mock.patch.object(compiled_module, "compiled", lambda function, **_: function)
    for where, kind in ((device, CompiledStep), (torch.device("cpu"), TrainingStep)):
        model = model_on(where, dropout=0.0).train()
        step = step_on(loss, model, train, kind, bf16=where.type == "cuda")
        with uncompiled if where.type == "cpu" else nullcontext():
            runner = runner_of(step, train, (len(rates), users.shape[1]))
            found.append(EpochOutcome(*(x.cpu() for x in runner.run(users, rates, 0))))
        assert (len(runner.graphs) > 0) == (where.type == "cuda")
    torch.testing.assert_close(found[0].losses, found[1].losses, rtol=5e-2, atol=5e-2)


def trainings_by_turns(device: torch.device, kind: type[TrainingStep]) -> None:
    """Two that take turns, with dropout, against each alone: the losses of three epochs of steps."""
    train, rates = histories(), [rate / 8 for rate in RATES] * 3
    users = USERS.repeat(3, 1)
    lane: Callable[[], Any] = CudaLane if device.type == "cuda" else lambda: nullcontext
    uncompiled = mock.patch.object(compiled_module, "compiled", lambda function, **_: function)

    def work(seed: int) -> Work[list[torch.Tensor]]:
        model = model_on(device, dropout=0.4 if device.type == "cuda" else 0.0).train()
        step = step_on("erm", model, train, kind, bf16=device.type == "cuda")
        runner, found = runner_of(step, train, (len(rates), users.shape[1])), []
        for epoch in range(3):
            torch.manual_seed(10 * seed + epoch)
            outcome = runner.run(users.roll(seed, 0), rates, 0)
            yield
            found.append(outcome.losses.cpu())
        return found

    with uncompiled if device.type == "cpu" else nullcontext():
        alone = []
        for seed in (0, 1):
            by_itself = Turns[list[torch.Tensor]](1, lane)
            by_itself.add("it", work(seed))
            alone.append(by_itself.result("it"))
        turns = Turns[list[torch.Tensor]](2, lane)
        for seed in (0, 1):
            turns.add(str(seed), work(seed))
        for seed in (0, 1):
            torch.testing.assert_close(turns.result(str(seed)), alone[seed], rtol=5e-3, atol=5e-3)
    assert not torch.allclose(alone[0][0], alone[1][0], rtol=5e-2, atol=5e-2)


def masks_of_played_steps(device: torch.device, kind: type[TrainingStep]) -> None:
    """The same users with a learning rate of 0: only dropout differs from step to step, and repeats with its seed."""
    train = histories()
    model = model_on(device, dropout=0.4).train()
    runner = runner_of(step_on("erm", model, train, kind, bf16=device.type == "cuda"), train, (6, 5))
    users, rates = USERS[:1].repeat(6, 1), [0.0] * 6
    uncompiled = mock.patch.object(compiled_module, "compiled", lambda function, **_: function)
    epochs = []
    with uncompiled if device.type == "cpu" else nullcontext():
        runner.run(users, rates, 0)  # records
        assert len(runner.graphs) == (device.type == "cuda")
        for _ in range(2):
            torch.manual_seed(5)
            model.mask_source = MaskSource(5)
            epochs.append(runner.run(users, rates, 0).losses)
    assert len(torch.unique(epochs[0], dim=0)) == 6
    torch.testing.assert_close(*epochs, rtol=1e-5, atol=1e-5)


def validation_in_bf16(device: torch.device) -> None:
    """Ranks of a validation as a training on a GPU makes it, against the exact ones: NDCG@20 within .002.

    The 400 users rank 37 items by a model that is made to know their targets a little.
    """
    rng, n = np.random.default_rng(0), 400
    lengths = rng.integers(1, 40, size=n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = rng.integers(0, 37, size=offsets[-1])
    held_out = Histories(
        np.arange(n), np.arange(37), items, offsets, items[offsets[1:] - 1].copy(), np.zeros(n, dtype=bool)
    )
    model = model_on(device, tied_embeddings=True).eval()
    exact, quick = (Validation(model, held_out, filter_seen=False, bf16=bf16).ndcg() for bf16 in (False, True))
    assert exact > 0.3, exact
    assert abs(exact - quick) < 0.002, (exact, quick)
    states = [encode(model, held_out, bf16=bf16) for bf16 in (False, True)]
    assert not torch.equal(*states)
    torch.testing.assert_close(*reversed(states), rtol=3e-2, atol=3e-2)


@contextmanager
def _checked_recording() -> Any:
    """A recording also checks that what it reads is still there, where torch can do that."""
    if "check_input_liveness" not in inspect.signature(torch.cuda.graph.__init__).parameters:
        yield
        return
    with mock.patch.object(torch.cuda, "graph", partial(torch.cuda.graph, check_input_liveness=True)):
        yield


Check = Callable[[torch.device], None]
CHECKS: dict[str, Check] = {
    **{
        f"{check.__name__}-{heads}-{dim}": partial(check, heads=heads, dim=dim)
        for check in (ragged_attention, dropout_of_ragged_attention)
        for heads, dim in HEADS
    },
    "validation_in_bf16": validation_in_bf16,
    "larger_batches": partial(played_steps, loss="erm", warm_start_steps=0, first_users=SHORT),
    **{
        f"played_steps-{loss}-warm{warm}": partial(played_steps, loss=loss, warm_start_steps=warm)
        for loss in OBJECTIVES
        for warm in (0, 3)
    },
    **{
        f"{check.__name__}-{kind.__name__}": partial(check, kind=kind)
        for kind in STEPS
        for check in (masks_of_played_steps, trainings_by_turns)
    },
    **{
        f"compiled_steps-{loss}": partial(compiled_steps, loss=loss) for loss in ("erm", "erm_positions", "cvar", "arl")
    },
}
"""All checks by name; each takes a device and raises AssertionError, or what else goes wrong. Those that compile come
last: they take the longest."""


def run_checks(device: torch.device, *, few: bool = False) -> dict[str, Any]:
    """One after the other: how many passed, and the last lines of what went wrong in the others.

    Each is printed when it is done, for whoever looks at a run that was killed.

    Args:
        device: CUDA, or the CPU.
        few: of the many over the objectives only those of erm.
    """
    failures: dict[str, str] = {}
    begun = time.monotonic()
    checks = {
        name: check
        for name, check in CHECKS.items()
        if not (few and name.startswith("played_steps-") and "-erm-" not in name)
    }
    for name, check in checks.items():
        try:
            check(device)
        except Exception:
            failures[name] = traceback.format_exc()[-2000:]
        state = "failed" if name in failures else "passed"
        print(f"{name}: {state}, {time.monotonic() - begun:.0f} s since the start", flush=True)
    passed = len(checks) - len(failures)
    return {"passed": passed, "failed": len(failures), "failures": failures, "seconds": time.monotonic() - begun}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_checks", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--few", action="store_true", help="of the many over the objectives only those of erm")
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    if device.type == "cuda" and not has_ragged_kernel(256, 0.2, device):
        sys.exit("gpu_checks: torch has no flash attention for this GPU, so steps are launched one by one there")
    result = run_checks(device, few=options.few)
    print(json.dumps(result))
    if result["failed"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
