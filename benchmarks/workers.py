"""`python -m benchmarks.workers`: the same training on 1, 2 and 4 processes, and how far its weights part.

In double precision, with the options of conf/base. The table is Markdown. `--seconds` measures steps instead.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.isolation import peak_memory
from benchmarks.workloads import workload
from fairrec_pipeline.experiments.workers import together
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.parameters.methods import METHODS
from fairrec_pipeline.training.batches import Batches, UserStream
from fairrec_pipeline.training.cuda_graphs import StepRunner
from fairrec_pipeline.training.loss_groups import population
from fairrec_pipeline.training.shares import SharedRunner, SharedStep, owners
from fairrec_pipeline.training.step import TrainingStep
from fairrec_pipeline.training.team import Team

STEPS, BATCH = 10, 32
BACKBONE = {"dim": 16, "feed_forward": 24, "blocks": 2, "heads": 2, "max_length": 20, "init_std": 0.5}
SUPPORTED = [loss for loss, method in METHODS.items() if method.workers]
Weights = dict[str, np.ndarray]


def generated(n_users: int = 100, n_items: int = 60) -> Histories:
    """Histories of 1 to about 60 items, most of them short, over items of which some are frequent."""
    random = np.random.default_rng(0)
    lengths = np.minimum(1 + random.lognormal(1.5, 1, n_users).astype(np.int64), 60)
    items = np.append(np.arange(n_items), (n_items * random.random(lengths.sum() - n_items) ** 2).astype(np.int64))
    offsets = np.append(0, np.cumsum(lengths))
    return Histories(np.arange(n_users), np.arange(n_items), random.permutation(items), offsets)


def weights_after_training(loss: str, options: dict[str, Any], **backbone: Any) -> Weights:
    """The weights of a small model after `STEPS` steps, by the team of this process or by it alone."""
    train, team = generated(), Team.here()
    groups = (np.arange(train.n_users) % 7 // 3) if METHODS[loss].needs_groups else None  # of 3, 3 and 1 in 7
    torch.manual_seed(0)
    model = SASRec(train.n_items, **{**BACKBONE, "dropout": 0.0, **backbone}).double().train()
    model.mask_source = MaskSource(0)
    objective = build_objective(loss, population(train, groups, ["a", "b", "c"], BACKBONE["dim"]), options)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    arguments = (model, optimizer, objective, None if groups is None else torch.from_numpy(groups))
    batches = Batches(train, max_length=model.max_length, device=torch.device("cpu"))
    state = {name: x.double() if x.is_floating_point() else x for name, x in objective.initial_state().items()}
    runner = (
        StepRunner(TrainingStep(*arguments, warm_start_steps=2), batches, state)
        if team.size == 1
        else SharedRunner(SharedStep(*arguments, warm_start_steps=2, team=team), batches, state)
    )
    stream = UserStream(train.n_users, BATCH, 0, groups if objective.balanced_batches else None)
    runner.run(torch.stack([stream.users(step) for step in range(STEPS)]), [0.01] * STEPS, 0)
    return {name: weight.detach().numpy() for name, weight in model.named_parameters()}


def all_cases(dropout: float = 0.0) -> dict[str, Weights]:
    """Every supported objective as shipped, and cases of their own, by name."""
    shipped = yaml.safe_load(Path("conf/base/parameters_methods.yml").read_text())
    found = {loss: weights_after_training(loss, shipped.get(loss) or {}, dropout=dropout) for loss in SUPPORTED}
    balanced = shipped["gdro"] | {"balanced_batches": True}
    found["gdro, balanced"] = weights_after_training("gdro", balanced, dropout=dropout)
    one_user = {"alpha": 1 / BATCH}  # all other workers have no user with weight
    found["cvar, one user"] = weights_after_training("cvar", one_user, dropout=dropout)
    found["cvar, tied"] = weights_after_training("cvar", {"alpha": 0.3}, tied_embeddings=True, dropout=dropout)
    return found


def difference(one: Weights, other: Weights) -> float:
    """Largest difference of a weight, in units of the largest weight of its tensor.

    Without the biases of keys, which change nothing: their gradient is 0 but for rounding, and Adam makes steps of it.
    """
    return max(
        float(np.abs(_that_count(name, one[name]) - _that_count(name, other[name])).max() / np.abs(one[name]).max())
        for name in one
    )


def _that_count(name: str, weight: np.ndarray) -> np.ndarray:
    return np.delete(weight.reshape(3, -1), 1, axis=0) if name.endswith("qkv.bias") else weight


def differences(sizes: list[int], dropout: float) -> dict[str, list[float]]:
    """By case: for every number of processes, how far the weights are from those of this process."""
    alone = all_cases(dropout)
    teams = [together(all_cases, size, dropout=dropout) for size in sizes]
    for team in teams:
        for other in team[1:]:
            parted = max(difference(team[0][case], other[case]) for case in alone)
            assert parted == 0, "the processes of a team have different weights"
    return {case: [difference(alone[case], team[0][case]) for team in teams] for case in alone}


class TimedTeam(Team):
    """A team that counts how long sums take, waiting for the others included."""

    def __init__(self, team: Team) -> None:
        super().__init__(team.rank, team.size)
        self.__dict__["seconds"] = 0.0

    def add_up(self, tensors: Any) -> None:
        begun = time.perf_counter()
        super().add_up(tensors)
        self.__dict__["seconds"] += time.perf_counter() - begun


def seconds_of_steps(name: str, loss: str, steps: int) -> dict[str, float]:
    """Of the steps of a workload by this process or its team, the first one left out: seconds each, positions.

    Returns:
        median_seconds of a step; sum_seconds, of the sums between processes in it; imbalance, the positions of the
        fullest process by those of the mean; peak_memory_bytes of this process.
    """
    chosen, team = workload(name), TimedTeam(Team.here())
    torch.manual_seed(0)
    model = SASRec(chosen.train.n_items, **chosen.backbone).train()
    model.mask_source = MaskSource(0)
    objective = build_objective(loss, population(chosen.train, None, [], chosen.backbone["dim"]), {"alpha": 0.3})
    arguments = (model, torch.optim.Adam(model.parameters(), fused=True), objective, None)
    batches = Batches(chosen.train, max_length=model.max_length, device=torch.device("cpu"))
    runner = (
        StepRunner(TrainingStep(*arguments), batches, {})
        if team.size == 1
        else SharedRunner(SharedStep(*arguments, team=team), batches, {})
    )
    stream = UserStream(chosen.train.n_users, chosen.batch_size, 0)
    seconds, sums, imbalances = [], [], []
    for number in range(steps + 1):
        users = stream.users(number)
        team.add_up([torch.zeros(1)])  # they begin together
        begun, team.__dict__["seconds"] = time.perf_counter(), 0.0
        runner.run(users[None], [0.001], number)
        seconds.append(time.perf_counter() - begun)
        sums.append(team.__dict__["seconds"])
        lengths = batches.lengths[users].clamp(max=model.max_length).sort(descending=True).values
        loads = torch.zeros(team.size).index_add_(0, torch.tensor(owners(lengths.tolist(), team.size)), lengths.float())
        imbalances.append(float(loads.max() / loads.mean()))
    return {
        "median_seconds": float(np.median(seconds[1:])),
        "sum_seconds": float(np.median(sums[1:])),
        "imbalance": max(imbalances),
        "peak_memory_bytes": peak_memory(),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="(default %(default)s)")
    parser.add_argument("--dropout", type=float, default=0.0, help="rate of the table (default %(default)s)")
    parser.add_argument("--seconds", action="store_true", help="seconds of steps, and not the table")
    parser.add_argument("--workload", default="retailrocket", help="of --seconds (default %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="of --seconds (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.seconds:
        torch.set_num_threads(max(options.processes))  # each process has one
        for size in options.processes:
            measured = together(seconds_of_steps, size, (options.workload, "cvar", options.steps))
            print(size, {key: max(process[key] for process in measured) for key in measured[0]})
        return
    print("| objective | " + " | ".join(f"{size} processes" for size in options.processes) + " |")
    print("|---" * (1 + len(options.processes)) + "|")
    for case, row in differences(options.processes, options.dropout).items():
        print(f"| {case} | " + " | ".join(f"{value:.1e}" for value in row) + " |")


if __name__ == "__main__":
    main()
