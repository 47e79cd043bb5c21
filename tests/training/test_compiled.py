"""Compiled steps: the numbers of those that are not, and where they are taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import config

from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.models.dropout import TorchMasks
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.training import compiled as compiled_module
from fairrec_pipeline.training import fit as fit_module
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.checkpoint import Checkpoint
from fairrec_pipeline.training.compiled import CompiledStep, compiled
from fairrec_pipeline.training.cuda_graphs import GraphRunner
from fairrec_pipeline.training.fit import TrainingData, fit
from fairrec_pipeline.training.step import TrainingStep
from tests.worlds import (
    HISTORY_LENGTHS,
    RECORDABLE,
    STEP_RATES,
    STEP_USERS,
    assert_same_fit,
    objective_of,
    random_histories,
    small_model,
    spec_of,
    state_of,
    step_of,
)

CPU = torch.device("cpu")
USERS = STEP_USERS.clone()
USERS[2, 1] = 4  # instead of the user that is drawn twice: rounding decides which of two equal losses is the larger


def run_steps(loss: str, kind: type[TrainingStep], **model: Any) -> tuple[Any, ...]:
    """Losses, weights, state and parameters after four recorded steps in float64."""
    train = random_histories(HISTORY_LENGTHS)
    step = step_of(loss, small_model(**model), train, warm_start_steps=1)
    step.__class__ = kind
    step.model.mask_source = TorchMasks()
    state = {name: value.double() if value.is_floating_point() else value for name, value in state_of(step).items()}
    runner = GraphRunner(step, Batches(train, max_length=12, device=CPU), state, (4, 5))
    runner.batches_of_fixed_size.grain = 8  # else all have one size
    torch.manual_seed(0)
    outcome = runner.run(USERS, STEP_RATES, 0)
    return outcome, runner.state, dict(step.model.named_parameters())


def assert_same(loss: str, found: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    single = loss in {"arl", "rsr_soft"}  # which look at states in single precision
    precision = {"rtol": 1e-5, "atol": 1e-6} if single else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(found[:2], expected[:2], **precision, equal_nan=True)
    for name, parameter in expected[2].items():
        dim = len(parameter) // 3
        # Adam steps on the rounding of the key biases, whose gradient is 0
        parts = [slice(0, dim), slice(2 * dim, None)] if name.endswith("qkv.bias") else [slice(None)]
        for part in parts:
            torch.testing.assert_close(found[2][name][part], parameter[part], **precision)


@pytest.mark.parametrize("loss", RECORDABLE)
def test_the_numbers_are_those_of_a_plain_step(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every objective, before anything is compiled; 37 items are filled up to 40."""
    monkeypatch.setattr(compiled_module, "compiled", lambda function, **_: function)
    assert_same(loss, run_steps(loss, CompiledStep), run_steps(loss, TrainingStep))


def test_inductor_changes_no_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With dropout, whose masks torch draws in the same order; batches of several sizes are compiled once."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    sizes: dict[str, Any] = {"blocks": 1, "dropout": 0.2}
    compiled.cache_clear()
    with (
        config.patch({"fallback_random": True, "aot_inductor.debug_compile": True}),
        torch._dynamo.config.patch(error_on_recompile=True),
    ):
        found = run_steps("cvar", CompiledStep, **sizes)
    compiled.cache_clear()
    assert_same("cvar", found, run_steps("cvar", TrainingStep, **sizes))


def test_many_logits_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the step is the plain one."""
    monkeypatch.setattr(compiled_module, "compiled", lambda *_, **__: pytest.fail("compiled"))
    train = random_histories(HISTORY_LENGTHS)
    step = step_of("erm", small_model(), train, head=SoftmaxHead(keep_bytes=100))
    step.__class__ = CompiledStep
    monkeypatch.setattr(step, "compiled", lambda function: function)
    runner = GraphRunner(step, Batches(train, max_length=12, device=CPU), {}, (4, 5))
    assert torch.isfinite(runner.run(STEP_USERS, STEP_RATES, 0).losses).all()


def test_what_cannot_be_compiled_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Callable[..., Any]:
        def call(*_: Any) -> None:
            message = "no compiler here"
            raise torch._dynamo.exc.TorchDynamoException(message)

        return call

    monkeypatch.setattr(torch, "compile", fails)
    compiled.cache_clear()
    with pytest.raises(OptionError, match=r"no compiler here\. train\.compile=false does without"):
        run_steps("erm", CompiledStep)
    compiled.cache_clear()


def test_a_process_may_compile_for_many_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a grid over the backbone; torch by itself refuses the ninth form of a function."""
    forms = list[Any]()

    def backend(module: torch.fx.GraphModule, _: list[Any]) -> Any:
        forms.append(module)
        return module.forward

    by_backend = partial(torch.compile, backend=backend)
    monkeypatch.setattr(torch, "compile", lambda function, **_: by_backend(function, fullgraph=True))
    compiled.cache_clear()

    def dropped(x: torch.Tensor, model: Any) -> torch.Tensor:
        return torch.nn.functional.dropout(x, model.dropout)

    for number in range(12):
        compiled(dropped)(torch.ones(2), small_model(dropout=number / 32))
    assert len(forms) == 12
    compiled.cache_clear()


def test_on_the_cpu_it_changes_nothing(world: TrainingData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its steps are not recorded, so they are not compiled. What would be compiled lies beside the checkpoint."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    kinds: list[type[TrainingStep]] = []
    make_runner = fit_module.make_runner

    def watched(step: TrainingStep, *arguments: Any, **options: Any) -> Any:
        kinds.append(type(step))
        return make_runner(step, *arguments, **options)

    monkeypatch.setattr(fit_module, "make_runner", watched)
    fits = []
    for compiles in (False, True):
        spec = spec_of("cvar", train={"compile": compiles, "epochs": 2})
        checkpoint = Checkpoint(tmp_path / f"{compiles}.safetensors", {})
        fits.append(fit(spec, world, objective_of("cvar", world.train), checkpoint))
    assert kinds == [TrainingStep, CompiledStep]
    assert_same_fit(*fits)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")
