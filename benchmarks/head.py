"""`python -m benchmarks.head`: our softmax head beside torch's `linear_cross_entropy`, in seconds and memory.

Both give the loss of every position first, and the gradients of a weighted sum once the weights are known, without all
logits at once. Each lives in a process of its own; in a round each has a turn, and the median is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import torch
from torch.nn import functional

from benchmarks.isolation import Isolated, peak_memory, ratio, spread
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.training.allocator import keep_freed_memory

RETAILROCKET = {"positions": 1580, "items": 17_803, "dim": 256}
"""A batch of 128 users of the published job."""
SYSTEMS: dict[str, dict[str, Any] | None] = {"ours": None, "torch": {}, "torch_512": {"batch_chunk_size": 512}}
"""Options of torch's function: those it chooses, and so many positions at a time."""
SHARES = {"all": 1.0, "three_tenths": 0.3}
"""Of the positions that have weight: as for erm, and as for cvar with alpha 0.3."""


class Head:
    """One of the systems on random states and items."""

    def __init__(self, system: str, shape: dict[str, int], device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        torch.manual_seed(0)
        self.system, self.device = system, device
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        n, dim = shape["positions"], shape["dim"]
        self.states = (0.3 * torch.randn(n, dim)).to(device, dtype)
        self.weight = (0.3 * torch.randn(shape["items"], dim)).to(device, dtype)
        self.targets = torch.randint(shape["items"], (n,)).to(device)
        self.coefficients = (torch.rand(n) / n).to(device)
        self.draws = torch.rand(n).to(device)
        self.head = SoftmaxHead()
        self._memory_of_inputs = self._peak()

    def run(self, share: float) -> float:
        """Seconds for losses and gradients, where that share of the positions has weight."""
        coefficients = self.coefficients * (self.draws < share)
        self._synchronise()
        begun = time.perf_counter()
        self.losses_and_gradients(coefficients)
        self._synchronise()
        return time.perf_counter() - begun

    def losses_and_gradients(self, coefficients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(n,) losses, and the gradients of their weighted sum by states and weight."""
        options = SYSTEMS[self.system]
        if options is None:
            losses = self.head.losses(self.states, self.weight, self.targets)
            return losses.losses, *losses.gradients(coefficients)
        states, weight = self.states.detach().requires_grad_(), self.weight.detach().requires_grad_()
        chunked = torch.nn.LinearCrossEntropyOptions(**options)
        of_positions = functional.linear_cross_entropy(states, weight, self.targets, reduction="none", options=chunked)
        of_positions.backward(coefficients.to(of_positions))
        assert states.grad is not None
        assert weight.grad is not None
        return of_positions.detach(), states.grad, weight.grad

    def memory(self) -> int:
        """Most bytes that were held at once beyond the inputs."""
        return self._peak() - self._memory_of_inputs

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else peak_memory()

    def _synchronise(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def measure_head(shape: dict[str, int], *, rounds: int, threads: int, device: str = "cpu") -> dict[str, Any]:
    """All systems in turns.

    Returns:
        For the record: shape, device, and by share and system seconds, memory and the ratio to ours; only ours where
        torch has no such function yet.
    """
    names = [name for name in SYSTEMS if name == "ours" or hasattr(functional, "linear_cross_entropy")]
    systems = {name: Isolated(Head, name, shape, device, threads) for name in names}
    seconds: dict[str, dict[str, list[float]]] = {share: {name: [] for name in names} for share in SHARES}
    for number in range(rounds + 1):
        for share, value in SHARES.items():
            for name, system in systems.items():
                elapsed = system.call("run", value)
                if number:  # the first one allocates
                    seconds[share][name].append(elapsed)
    memory = {name: system.call("memory") for name, system in systems.items()}
    for system in systems.values():
        system.close()
    rows = {
        share: {
            name: {**spread(times), "memory_bytes": memory[name], "this_over_ours": ratio(times, of_share["ours"])}
            for name, times in of_share.items()
        }
        for share, of_share in seconds.items()
    }
    return {"shape": shape, "device": device, "torch": torch.__version__, "systems": rows}


def head_lines(result: dict[str, Any]) -> list[str]:
    """The table as lines of text."""
    shape = ", ".join(f"{value:,} {name}" for name, value in result["shape"].items())
    lines = [f"Softmax head, losses and gradients on {result['device']}, {shape}"]
    lines.append(f"{'':10} {'with weight':>13} {'median s':>9} {'min s':>8} {'MiB':>6} {'vs ours':>8}")
    for share, systems in result["systems"].items():
        lines += [
            f"{name:10} {share:>13} {row['median_seconds']:9.4f} {row['min_seconds']:8.4f} "
            f"{row['memory_bytes'] / 2**20:6.0f} {row['this_over_ours']:8.2f}"
            for name, row in systems.items()
        ]
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.head", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: in bfloat16")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch (default: cores)")
    for name, value in RETAILROCKET.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="(default %(default)s)")
    options = parser.parse_args(arguments)
    shape = {name: getattr(options, name) for name in RETAILROCKET}
    result = measure_head(shape, rounds=options.rounds, threads=options.threads, device=options.device)
    print("\n".join(head_lines(result)))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
