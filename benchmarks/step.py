"""Seconds of a training step: the plain padded reference and ours, in turns, on the same batches.

Every system lives in a process of its own. In a round the reference has one turn, and then, again and again, each of
ours and then the machine, whose rates are measured. A ratio is one of neighbours in time, so that a slow phase of the
machine touches both sides, and the median of all of them is reported.

A turn is two steps (or measurements of a rate), of which the second counts: a step of a training follows another one,
while here, before the first, threads went to sleep and caches were filled by the other processes.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from benchmarks.floors import Machine, step_bytes, step_flops
from benchmarks.isolation import Isolated, ratio, spread
from benchmarks.reference import PaddedBatches, PaddedSASRec, PaddedStep
from benchmarks.workloads import Workload
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.objectives.base import Objective, Population
from fairrec_pipeline.parameters.methods import METHODS
from fairrec_pipeline.training.allocator import keep_freed_memory
from fairrec_pipeline.training.batches import Batches, UserStream
from fairrec_pipeline.training.step import TrainingStep

OBJECTIVES: dict[str, dict[str, Any]] = {
    "erm": {},
    "cvar": {"alpha": 0.3},
    "gdro": {"eta": 0.01, "absent_groups": "keep"},
    "cb": {},
}
SEED = 0
TURNS = 5
"""of our steps in a round: the reference takes far longer than all of them"""


class Packed:
    """Our training step."""

    def __init__(self, workload: Workload, loss: str, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        torch.manual_seed(SEED)
        train, backbone = workload.train, workload.backbone
        self.model = SASRec(train.n_items, **backbone).train()
        self.model.mask_source = MaskSource(SEED)
        objective = _objective(workload, loss)
        groups = torch.from_numpy(workload.groups) if METHODS[loss].needs_groups else None
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.training_step = TrainingStep(self.model, optimizer, objective, groups)
        self.batches = Batches(train, max_length=backbone["max_length"], device=torch.device("cpu"))
        self.stream = UserStream(train.n_users, workload.batch_size, SEED)
        self.state = objective.initial_state()

    def step(self, number: int) -> tuple[float, list[int]]:
        """Make one step, the making of the batch included: seconds, and the lengths of its sequences."""
        begun = time.perf_counter()
        batch = self.batches.batch(self.stream.users(number))
        self.state = self.training_step(batch, self.state, number).state
        return time.perf_counter() - begun, batch.lengths.tolist()

    def weight_bytes(self) -> int:
        """Bytes of weights, gradients and the two moments of Adam."""
        return 4 * sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())


class Padded:
    """The training step of the reference."""

    def __init__(self, workload: Workload, loss: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(SEED)
        train, backbone = workload.train, workload.backbone
        model = PaddedSASRec(train.n_items, **backbone).train()
        objective = _objective(workload, loss)
        self.training_step = PaddedStep(model, torch.optim.Adam(model.parameters(), lr=1e-3), objective, None)
        self.batches = PaddedBatches(train, max_length=backbone["max_length"])
        self.stream = UserStream(train.n_users, workload.batch_size, SEED)

    def step(self, number: int) -> tuple[float, list[int]]:
        """Make one step, the making of the batch included: seconds, and the lengths of its sequences."""
        begun = time.perf_counter()
        batch = self.batches.batch(self.stream.users(number).tolist())
        self.training_step(batch, {})
        return time.perf_counter() - begun, (~batch.padding).sum(1).tolist()


def measure_step(workload: Workload, *, rounds: int, threads: int) -> dict[str, Any]:
    """Measure the reference (ERM) and ours (all of `OBJECTIVES`) over the same batches.

    Returns:
        For the record: rows by system, ratios, rates of the machine.
    """
    systems = {"reference": Isolated(Padded, workload, "erm", threads)}
    systems |= {loss: Isolated(Packed, workload, loss, threads) for loss in OBJECTIVES}
    machine = Isolated(Machine, threads)
    for process in (*systems.values(), machine):
        process.wait()
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    positions, flop_floors, best_flop_floors, byte_floors, rates, bandwidths = [], [], [], [], [], []
    for number in range(TURNS * (rounds + 1)):
        first_turn = number % TURNS == 0
        turn = {name: system for name, system in systems.items() if name != "reference" or first_turn}
        timed = {name: [system.call("step", 2 * number + half) for half in (0, 1)][1] for name, system in turn.items()}
        (rate, best_rate), bandwidth = [machine.call("matmul_rates") for _ in range(2)][1], machine.call("copy_rate")
        lengths = timed["erm"][1]
        assert not first_turn or sorted(lengths) == sorted(timed["reference"][1])
        if number < TURNS:  # the first steps allocate buffers and optimiser state
            continue
        for name in turn:
            seconds[name].append(timed[name][0])
        shape = (lengths, workload.train.n_items, workload.backbone)
        positions.append(sum(lengths))
        flop_floors.append(step_flops(*shape) / rate)
        best_flop_floors.append(step_flops(*shape) / best_rate)
        byte_floors.append(step_bytes(*shape) / bandwidth)
        rates.append(rate)
        bandwidths.append(bandwidth)
    peaks = {name: system.peak_memory() for name, system in systems.items()}
    for process in (*systems.values(), machine):
        process.close()

    rows = {}
    for name, times in seconds.items():
        turns = slice(None, None, TURNS if name == "reference" else 1)
        of_reference_turns = times[:: 1 if name == "reference" else TURNS]
        rows[name] = {
            **spread(times),
            "tokens_per_second": statistics.median(np.array(positions[turns]) / times),
            "peak_memory_bytes": peaks[name],
            "reference_over_this": ratio(seconds["reference"], of_reference_turns),
            "this_over_flop_floor": ratio(times, flop_floors[turns]),
            "this_over_flop_floor_at_best_rate": ratio(times, best_flop_floors[turns]),
            "this_over_byte_floor": ratio(times, byte_floors[turns]),
            "this_over_erm": ratio(times, seconds["erm"][turns]),
        }
    return {
        "workload": workload.name,
        "source": workload.source,
        "backbone": workload.backbone,
        "batch_size": workload.batch_size,
        "n_items": workload.train.n_items,
        "rounds": rounds,
        "turns": TURNS,
        "positions_per_step": statistics.mean(positions),
        "matmul_gflops": statistics.median(rates) / 1e9,
        "copy_gbytes_per_second": statistics.median(bandwidths) / 1e9,
        "flop_floor_seconds": statistics.median(flop_floors),
        "flop_floor_seconds_at_best_rate": statistics.median(best_flop_floors),
        "byte_floor_seconds": statistics.median(byte_floors),
        "systems": rows,
        "seconds": seconds,
    }


def measure_scaling(workload: Workload, *, rounds: int, threads: int) -> dict[str, Any]:
    """Our ERM step on one catalogue size, with the memory beyond weights, gradients and optimiser state."""
    begun = time.perf_counter()
    system = Isolated(Packed, workload, "erm", threads)
    system.wait()
    built = time.perf_counter() - begun
    timed = [system.call("step", number) for number in range(rounds + 1)][1:]
    peak, weights = system.peak_memory(), system.call("weight_bytes")
    system.close()
    return {
        "workload": workload.name,
        "n_items": workload.train.n_items,
        **spread([seconds for seconds, _ in timed]),
        "build_seconds": built,
        "positions_per_step": statistics.mean(sum(lengths) for _, lengths in timed),
        "peak_memory_bytes": peak,
        "weight_bytes": weights,
        "other_bytes": peak - weights,
    }


def _objective(workload: Workload, loss: str) -> Objective:
    counts = torch.from_numpy(np.maximum(workload.train.item_counts, 1))
    users = torch.from_numpy(np.bincount(workload.groups))
    return build_objective(loss, Population(counts, users, users), OBJECTIVES[loss])
