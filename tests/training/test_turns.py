"""Trainings by turns in one thread: each as alone, each in a lane of its own on CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fairrec_pipeline.training import fit as fit_module
from fairrec_pipeline.training.cuda_graphs import GraphRunner
from fairrec_pipeline.training.fit import Fitted, TrainingData, fit, fitting
from fairrec_pipeline.training.turns import CudaLane, Turns, Work, finished
from tests.worlds import assert_same_fit, objective_of, spec_of


def counting(name: str, n: int, log: list[str], *, fails: bool = False) -> Work[str]:
    for step in range(n):
        log.append(f"{name}{step}")
        yield
    if fails:
        raise ValueError(name)
    return name.upper()


def test_so_many_at_once_in_the_order_in_which_they_were_added() -> None:
    """An error is raised for whom asks for its result; the others go on."""
    log: list[str] = []
    turns = Turns[str](2, lambda: nullcontext)
    for name, n in (("a", 3), ("b", 1), ("c", 2)):
        turns.add(name, counting(name, n, log, fails=name == "b"))
    assert log == []
    assert turns.result("c") == "C"
    assert log == ["a0", "b0", "a1", "a2", "c0", "c1"]
    assert turns.result("a") == "A"
    with pytest.raises(ValueError, match="b"):
        turns.result("b")


def test_a_key_is_worked_through_once() -> None:
    """Added again while it waits, runs or has ended, it is what it was."""
    log: list[str] = []
    turns = Turns[str](2, lambda: nullcontext)
    for _ in range(2):
        turns.add("a", counting("a", 3, log))
    turns.add("b", counting("b", 1, log))
    assert turns.result("b") == "B"
    for name in "ab":
        turns.add(name, counting(name, 3, log))
    assert turns.result("a") == "A"
    assert turns.result("b") == "B"
    assert log == ["a0", "b0", "a1", "a2"]


def test_what_is_given_up_is_closed() -> None:
    log: list[str] = []

    def work() -> Work[str]:
        try:
            yield
            yield
        finally:
            log.append("closed")
        return ""

    turns = Turns[str](2, lambda: nullcontext)
    turns.add("a", work())
    turns.add("b", counting("b", 1, []))
    turns.result("b")
    turns.close()
    assert log == ["closed"]


@pytest.mark.parametrize("recorded", [False, True])
def test_trainings_by_turns_are_those_alone(
    world: TrainingData, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: nothing of one reaches another, also where steps are those that are recorded on a GPU."""
    if recorded:
        monkeypatch.setattr(fit_module, "make_runner", lambda *arguments, **_: GraphRunner(*arguments))
    model = {"dim": 16, "dropout": 0.0 if recorded else 0.1}  # that of ragged attention is torch's own
    specs = {f"{loss}-{seed}": spec_of(loss, model=model, seed=seed) for loss in ("arl", "cvar") for seed in (0, 1)}

    def arguments(name: str) -> tuple[Any, ...]:
        return specs[name], world, objective_of(specs[name].objective.loss, world.train)

    turns = Turns[Fitted](3, lambda: nullcontext)
    for name in specs:
        turns.add(name, fitting(*arguments(name)))
    for name in reversed(specs):
        assert_same_fit(turns.result(name), fit(*arguments(name)))


def test_each_lane_has_a_stream_and_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With streams and generators that only say what is done with them; the state of before comes back."""
    log: list[str] = []
    made, drawn = iter("ab"), iter("ab")

    class Random:
        state = "of the process"

        def graphsafe_get_state(self) -> str:
            return self.state

        def graphsafe_set_state(self, state: str) -> None:
            self.state = state

    @contextmanager
    def stream(name: str) -> Iterator[None]:
        log.append(f"{name} begins")
        yield
        log.append(f"{name} ends")

    default = Random()
    cuda = SimpleNamespace(
        Stream=lambda: f"stream {next(made)}", stream=stream, default_generators=[default], current_device=lambda: 0
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch, "Generator", lambda _: f"random numbers of {next(drawn)}")
    lanes = [CudaLane(), CudaLane()]

    def work(name: str) -> Work[str]:
        for _ in range(2):
            log.append(f"{name} with {default.state}")
            yield
        return name

    turns = Turns[str](2, iter(lanes).__next__)
    for name in "xy":
        turns.add(name, work(name))
    assert turns.result("y") == "y"
    assert default.state == "of the process"
    of_x = ["stream a begins", "x with random numbers of a", "stream a ends"]
    of_y = ["stream b begins", "y with random numbers of b", "stream b ends"]
    assert log[:12] == [*of_x, *of_y] * 2


def test_without_turns() -> None:
    assert finished(counting("a", 2, [])) == "A"
