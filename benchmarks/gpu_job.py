"""`python -m benchmarks.gpu_job`: the published job on one GPU, in bfloat16 products with single-precision weights.

The published backbone and budget through our `fit`: how long it takes, what the device achieves, what comes out for
every group. A job is cut into runs of `--seconds`: the same command continues from the checkpoint. With `--padding` the
plain padded model is trained for the same budget instead, with or without the fault of the published padding; with
`--trials` several seeds share the device by turns. Prints `name=value` and writes a record to benchmarks/results/.

The machine with the GPU needs torch, numpy, pandas, scipy, safetensors and tqdm: `--prepare` writes what is trained on
to a file where the project is installed, and `--job` reads it there.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import multiprocessing
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import fairrec_pipeline
from benchmarks.floors import step_flops
from benchmarks.jobs import LOSSES, Arm, Job, published_job, read_job, toy_job, write_job
from benchmarks.kernels import kernel_lines, make_profiler, measured_kernels, product_rate, profiled
from benchmarks.padded import fit_padded, padded_model, padded_scorer
from benchmarks.workloads import GROUP_SPLITS, first_users
from fairrec_pipeline.arms.code import fingerprint
from fairrec_pipeline.interactions.columns import USER
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.metrics.ranking import Scorer, ndcg, rank_targets
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.training.checkpoint import Checkpoint, Snapshot
from fairrec_pipeline.training.fit import fit, fitting, resolve_device
from fairrec_pipeline.training.scoring import ModelScorer
from fairrec_pipeline.training.turns import CudaLane, Turns, Work, finished
from fairrec_pipeline.training.validation import Validation

RESULTS = Path("benchmarks/results")
CHECKPOINTS = Path("benchmarks/scratch/gpu_job")
PROFILED_STEPS, QUICK_PROFILED_STEPS = 50, 3
EPOCHS_BEFORE = 20
"""So many before the one that is profiled. A batch of a new size is launched, the next one recorded: each takes as long
as twenty steps, and after one epoch one to four such were left."""
SAFE_SECONDS = 60  # a killed run loses no more than that
LOSS_TOLERANCE = 1e-3
"""Trials side by side: relative difference of the first epoch's loss to that of the same seed alone. Sums on CUDA have
no fixed order, and differences of rounding grow from epoch to epoch, so later losses are recorded and not judged."""
NDCG_TOLERANCE = 0.005
"""The same for the test NDCG@20 of the chosen weights, absolute."""


class PauseError(Exception):
    """This run has done its share."""


class Cut(Checkpoint):
    """The checkpoint of a training that is cut into runs; `fit` hands it every epoch.

    Args:
        path: of the file.
        identity: everything that decides the result.
        deadline: of this run, in seconds of `time.monotonic`.
        epochs: the training is paused after so many in all.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], deadline: float, epochs: int) -> None:
        super().__init__(path, identity)
        self.deadline, self.epochs = deadline, epochs
        self.latest: Snapshot | None = None
        self._written = time.monotonic()

    def load(self) -> Snapshot | None:
        self.latest = super().load()
        if self.latest and not self._finished and self._over:
            raise PauseError
        return self.latest

    def save(self, snapshot: Snapshot) -> None:
        self.latest = snapshot
        over = self._finished or self._over
        if over or time.monotonic() - self._written > SAFE_SECONDS:
            super().save(snapshot)
            self._written = time.monotonic()
        if over and not self._finished:
            raise PauseError

    @property
    def progress(self) -> dict[str, Any]:
        return self.latest.description["progress"] if self.latest else {}

    @property
    def _finished(self) -> bool:
        return bool(self.progress.get("finished"))

    @property
    def _over(self) -> bool:
        return time.monotonic() >= self.deadline or self.progress.get("epoch", 0) >= self.epochs


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.prepare:
        write_job(_job_of(options), options.prepare)
        print(f"job: {options.prepare}")
        return
    if not options.quick and not torch.cuda.is_available():
        sys.exit(
            "gpu_job: torch sees no CUDA device here, and this job needs one; --quick runs it at toy size on the CPU"
        )
    torch.set_float32_matmul_precision("highest")  # what is single precision stays it
    device = resolve_device("auto")
    job = _job_of(options)
    record: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.gpu_job", *(sys.argv[1:] if arguments is None else arguments)]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device_described(device),
        "versions": versions(),
        "job": _described(job),
    }
    path = options.output or (None if options.quick else _record_path(record, options))
    deadline = time.monotonic() + options.seconds
    for loss in options.loss:
        arm = Arm(loss, options.loss_groups, options.padding, options.seed, device)
        if options.trials > 1:
            record.setdefault("trials", []).append(_side_by_side(loss, options))
            lines = _trial_lines(record["trials"][-1])
        elif options.profile:
            measured = profile(job, arm, QUICK_PROFILED_STEPS if options.quick else PROFILED_STEPS)
            record.setdefault("profiles", {})[arm.name] = measured
            lines = [line for part, kernels in measured.items() for line in kernel_lines(f"{arm.name} {part}", kernels)]
        else:
            result = train(job, arm, deadline=deadline, epochs=options.epochs, folder=options.checkpoints)
            record.setdefault("arms", []).append(result)
            lines = _lines(result)
        print("\n".join(lines), flush=True)
        if path:  # after every arm: what goes wrong in the next one takes nothing away
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record, indent=1) + "\n")
    if path:
        print(f"record: {path}")


# --- what is trained on


def _job_of(options: argparse.Namespace) -> Job:
    if options.job:
        job = read_job(options.job)
    elif options.quick:
        job = toy_job()
    else:
        job = published_job(options.dataset, options.raw, generated=options.generated)
    return replace(job, budget=job.budget | {"compile": options.compile})


# --- one training


def train(job: Job, arm: Arm, *, deadline: float, epochs: int | None, folder: Path) -> dict[str, Any]:
    """Train an arm, or go on with it, and evaluate the weights that validation chose so far; see `training`."""
    return finished(training(job, arm, deadline=deadline, epochs=epochs, folder=folder))


def training(job: Job, arm: Arm, *, deadline: float, epochs: int | None, folder: Path) -> Work[dict[str, Any]]:
    """`train`, which pauses where the device has an epoch of steps to do.

    Args:
        deadline: in seconds of `time.monotonic`; the training is paused at the end of the epoch that passes it.
        epochs: pause after so many in all; None for the whole budget.
        folder: of the checkpoints.

    Returns:
        For the record: state, seconds, rates, test NDCG@20 by group, the curve.
    """
    path, options = LOSSES[arm.loss]
    identity = {
        "arm": {**asdict(arm), "device": arm.device.type},
        "options": options,
        "backbone": job.backbone,
        "budget": job.budget,
        "n_events": len(job.train.items),
        "code": fingerprint(f"objectives.{path.partition(':')[0]}", "training.fit", "training.loss_groups"),
        "torch": torch.__version__,
    }
    file = folder / f"{job.dataset}-{arm.name}-seed{arm.seed}.safetensors"
    cut = Cut(file, identity, deadline, epochs or job.budget["epochs"])
    if arm.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begun = time.time()
    with contextlib.suppress(PauseError):
        if arm.padding:
            fit_padded(job, arm, cut)
        else:
            yield from fitting(job.spec(arm), job.data(arm), job.objective(arm), cut, description=arm.name)
    ended, progress = time.time(), cut.progress
    if not progress.get("best_epoch"):
        return {"arm": arm.name, "seed": arm.seed, "state": "not begun", "curve": []}
    assert cut.latest is not None
    scorer = _scorer_of(job, arm, cut.latest.section("best"))
    done, total, validation = progress["epoch"], progress["seconds"], progress["validation_seconds"]
    first, usual, usual_training = epoch_seconds([row["seconds"] for row in progress["history"]], validation)
    steps_per_second = job.budget["steps_per_epoch"] / usual_training
    return {
        "arm": arm.name,
        "seed": arm.seed,
        "options": options,
        "state": "complete" if progress["finished"] else f"paused; the same command goes on from epoch {done + 1}",
        "precision": "bf16" if arm.device.type == "cuda" else "fp32",
        "epochs": done,
        "epochs_of_the_budget": job.budget["epochs"],
        "seconds": total,
        "seconds_of_training": total - sum(validation),
        "seconds_of_validation": sum(validation),
        "seconds_of_the_whole_budget": first + (job.budget["epochs"] - 1) * usual,
        "steps_per_second": steps_per_second,
        "tflops": steps_per_second * flops_per_step(job) / 1e12,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if arm.device.type == "cuda" else None,
        "reserved_memory_bytes": torch.cuda.max_memory_reserved() if arm.device.type == "cuda" else None,
        "best_epoch": progress["best_epoch"],
        "best_validation_ndcg_at_20": progress["best_ndcg"],
        "test_ndcg_at_20": test_by_group(job, arm, scorer),
        "begun": begun,
        "ended": ended,
        "curve": [
            {name: row[name] for name in ("epoch", "seconds", "loss", "validation_ndcg_at_20")}
            for row in progress["history"]
        ],
    }


def epoch_seconds(ends: list[float], validation: list[float]) -> tuple[float, float, float]:
    """Seconds of the first epoch, in which a GPU and its libraries warm up, and the usual ones after it.

    Args:
        ends: seconds at the end of every epoch; one alone counts as both.
        validation: seconds that validation took within every epoch.

    Returns:
        The first epoch; the median of the others; the median of their training alone.
    """
    each = np.diff(ends, prepend=0.0)
    training = each - np.array(validation)
    later = slice(1, None) if len(each) > 1 else slice(None)
    return float(each[0]), float(np.median(each[later])), float(np.median(training[later]))


def flops_per_step(job: Job) -> float:
    """Products that a mean step of real positions needs, forward and backward; what is computed twice counts once.

    Users are drawn pass after pass, so the mean over the users is the mean over the steps of a pass.
    """
    lengths = np.minimum(job.train.lengths, job.backbone["max_length"]).tolist()
    return step_flops(lengths, job.train.n_items, job.backbone) / job.train.n_users * job.budget["batch_size"]


def test_by_group(job: Job, arm: Arm, scorer: Callable[[Histories], Scorer]) -> dict[str, float]:
    """Mean test NDCG@20: `overall`, and `<split>/<group>`."""
    ranks = rank_targets(scorer(job.test), job.test, filter_seen=job.filter_seen, device=arm.device.type)
    values = pd.Series(ndcg(ranks, 20))
    groups = job.user_groups.set_index(USER).loc[job.test.users]
    means = {"overall": float(values.mean())}
    for split in GROUP_SPLITS:
        for group, mean in values.groupby(groups[split].astype(str).to_numpy()).mean().items():
            means[f"{split}/{group}"] = float(mean)
    return means


test_by_group.__test__ = False  # type: ignore[attr-defined]  # no test of pytest, whatever its name


def _scorer_of(job: Job, arm: Arm, weights: dict[str, Tensor]) -> Callable[[Histories], Scorer]:
    """From histories to the scorer of a model with these weights."""
    if arm.padding:
        padded = padded_model(job, arm)
        padded.load_state_dict(weights)
        return lambda histories: padded_scorer(padded, histories, job.budget["batch_size"], arm.device)
    model = SASRec(job.train.n_items, **job.backbone)
    model.load_state_dict(weights)
    model.to(arm.device)
    return lambda histories: ModelScorer(model, histories)


# --- where the time of a step goes


def profile(job: Job, arm: Arm, n_steps: int = PROFILED_STEPS) -> dict[str, Any]:
    """Kernels of the steps of the last of some short epochs (and one tiny validation), and of a whole validation.

    Returns:
        `step` and `validation`, as `measured_kernels` has them; `step` also with `floor_ms`, which its products take at
        the rate of a large one.
    """
    before = 1 if arm.padding else EPOCHS_BEFORE
    budget = job.budget | {"epochs": before + 1, "steps_per_epoch": n_steps}
    profiler, times = make_profiler(arm.device), list[float]()

    def start() -> None:
        profiler.start()
        times.append(time.perf_counter())

    def stop() -> None:
        times.append(time.perf_counter())
        profiler.stop()

    watched = _BetweenEpochs(chain(repeat(lambda: None, before - 1), (start, stop)))
    job_of_steps = replace(job, validation=first_users(job.validation, 8), budget=budget)
    if arm.padding:
        fit_padded(job_of_steps, arm, watched)
    else:
        fit(job_of_steps.spec(arm), job_of_steps.data(arm), job_of_steps.objective(arm), watched)
    step = measured_kernels(profiler, n_steps, times[1] - times[0])
    step["floor_ms"] = flops_per_step(job) / product_rate(arm.device) * 1e3
    torch.manual_seed(arm.seed)
    model = SASRec(job.train.n_items, **job.backbone).to(arm.device)
    validation = Validation(model, job.validation, filter_seen=job.filter_seen, bf16=arm.device.type == "cuda")
    return {"step": step, "validation": profiled(validation.ndcg, 3, arm.device)}


class _BetweenEpochs(Checkpoint):
    """Does something after every epoch, where a checkpoint would be written."""

    def __init__(self, actions: Iterator[Callable[[], None]]) -> None:
        super().__init__("")
        self.actions = actions

    def load(self) -> None:
        return None

    def save(self, snapshot: Snapshot) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        next(self.actions)()


# --- several trainings on one device


def _side_by_side(loss: str, options: argparse.Namespace) -> dict[str, Any]:
    """The first seed alone, then all seeds at once: by turns in one process, the padded model in processes."""
    seeds = range(options.seed, options.seed + options.trials)
    (alone,) = _processes(_trial, 1, [(loss, options.seed, options, "alone")])
    if options.padding:
        together = _processes(_trial, len(seeds), [(loss, seed, options, "together") for seed in seeds])
    else:
        (together,) = _processes(_trials_by_turns, 1, [(loss, seeds, options)])
    return compared(loss, alone, together) | {"kind": "processes" if options.padding else "turns"}


def compared(loss: str, alone: dict[str, Any], together: list[dict[str, Any]]) -> dict[str, Any]:
    """Trainings an hour, and whether the one that was also trained alone came out the same.

    Args:
        alone, together: arms as `train` returns them; the first of `together` has the seed of `alone`.

    Raises:
        RuntimeError: a training has not made one epoch, so there is nothing to compare.
    """
    for trial in (alone, *together):
        if not trial["curve"]:
            message = f"{loss}, seed {trial['seed']}: no epoch was trained; give more --seconds"
            raise RuntimeError(message)
    slowest = max(trial["seconds_of_the_whole_budget"] for trial in together)
    same = together[0]
    pairs = list(zip(alone["curve"], same["curve"], strict=False))
    losses = [abs(a["loss"] - b["loss"]) / abs(a["loss"]) for a, b in pairs]
    test = abs(alone["test_ndcg_at_20"]["overall"] - same["test_ndcg_at_20"]["overall"])
    return {
        "loss": loss,
        "trials": len(together),
        "per_hour_alone": 3600 / alone["seconds_of_the_whole_budget"],
        "per_hour_together": len(together) * 3600 / slowest,
        "overlap": _overlap(together),
        "loss_difference_of_first_epoch": losses[0],
        "loss_difference_largest": max(losses),
        "test_ndcg_at_20_difference": test,
        "tolerances": {"loss_of_first_epoch": LOSS_TOLERANCE, "test_ndcg_at_20": NDCG_TOLERANCE},
        "within_tolerance": losses[0] <= LOSS_TOLERANCE
        and (test <= NDCG_TOLERANCE if alone["epochs"] == same["epochs"] else None),
        "alone": alone,
        "together": together,
    }


def _overlap(trials: list[dict[str, Any]]) -> float:
    """Share of the time from the first start to the last end in which all were training."""
    both = min(trial["ended"] for trial in trials) - max(trial["begun"] for trial in trials)
    span = max(trial["ended"] for trial in trials) - min(trial["begun"] for trial in trials)
    return max(0.0, both) / span


def _processes(function: Callable[..., Any], n: int, calls: list[tuple[Any, ...]]) -> list[Any]:
    """What a function returns for each of some arguments, in n processes of their own."""
    # forked from one that has imported torch and has not touched the device: they begin together
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.reference", "fairrec_pipeline.training.fit"])
    with ProcessPoolExecutor(n, mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(function, *zip(*calls, strict=True)))


def _trial(loss: str, seed: int, options: argparse.Namespace, kind: str) -> dict[str, Any]:
    return finished(_begun(loss, seed, options, kind))


def _trials_by_turns(loss: str, seeds: range, options: argparse.Namespace) -> list[dict[str, Any]]:
    on_gpu = resolve_device("auto").type == "cuda"
    turns = Turns[dict[str, Any]](len(seeds), CudaLane if on_gpu else lambda: contextlib.nullcontext)
    for seed in seeds:
        turns.add(str(seed), _begun(loss, seed, options, "together"))
    return [turns.result(str(seed)) for seed in seeds]


def _begun(loss: str, seed: int, options: argparse.Namespace, kind: str) -> Work[dict[str, Any]]:
    """One training from the start: a continued one would be timed under two conditions."""
    folder = options.checkpoints / kind
    for old in folder.glob(f"*-{loss}*-seed{seed}.safetensors"):
        old.unlink()
    arm = Arm(loss, options.loss_groups, options.padding, seed, resolve_device("auto"))
    deadline = time.monotonic() + options.seconds
    return training(_job_of(options), arm, deadline=deadline, epochs=options.epochs, folder=folder)


# --- what is printed and recorded


def _lines(arm: dict[str, Any]) -> list[str]:
    name = arm["arm"].replace("-", "_")
    lines = [f"{arm['arm']}, seed {arm['seed']}: {arm['state']}"]
    if not arm["curve"]:
        return lines
    lines += [
        f"{name}_{value}={arm[value]:.4g}"
        for value in ("seconds", "seconds_of_training", "seconds_of_validation", "steps_per_second", "tflops")
    ]
    return lines + [
        f"{name}_test_ndcg_at_20_{group.replace('/', '_')}={value:.4f}"
        for group, value in arm["test_ndcg_at_20"].items()
    ]


def _trial_lines(trial: dict[str, Any]) -> list[str]:
    names = ("per_hour_alone", "per_hour_together", "loss_difference_of_first_epoch", "test_ndcg_at_20_difference")
    lines = [f"{trial['loss']}_{name}={trial[name]:.4g}" for name in names]
    return [*lines, f"{trial['loss']}_within_tolerance={trial['within_tolerance']}"]


def _described(job: Job) -> dict[str, Any]:
    return {
        "dataset": job.dataset,
        "n_users": job.train.n_users,
        "n_items": job.train.n_items,
        "n_validation": job.validation.n_users,
        "n_test": job.test.n_users,
        "backbone": job.backbone,
        "budget": job.budget,
        "filter_seen": job.filter_seen,
        "gflops_per_step": flops_per_step(job) / 1e9,
    }


def device_described(device: torch.device) -> dict[str, Any]:
    """What kind of device this is; nothing that names the machine itself."""
    if device.type == "cpu":
        return {"name": f"cpu ({platform.machine()})", "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "cores": len(os.sched_getaffinity(0)),
    }


def versions() -> dict[str, str | None]:
    """Of Python, CUDA and what decides numbers."""
    modules = {"torch": torch, "numpy": np, "fairrec_pipeline": fairrec_pipeline}
    of_modules = {name: str(module.__version__) for name, module in modules.items()}
    return {"python": platform.python_version(), "cuda": torch.version.cuda, **of_modules}


def _record_path(record: dict[str, Any], options: argparse.Namespace) -> Path:
    device = re.sub(r"[^a-z0-9]+", "-", record["device"]["name"].lower()).strip("-")
    part = f"{options.trials}turns" if options.trials > 1 else "profile" if options.profile else None
    parts = [
        record["date"][:10],
        device,
        record["job"]["dataset"],
        *options.loss,
        "compiled" if options.compile else None,
        options.padding,
        part,
        f"seed{options.seed}",
    ]
    return RESULTS / f"{'-'.join(filter(None, parts))}.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_job", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loss", nargs="+", default=["erm"], choices=LOSSES, help="one after the other")
    parser.add_argument("--loss-groups", default="pop33", choices=GROUP_SPLITS, help="for a loss by group")
    parser.add_argument("--dataset", default="retailrocket", choices=("retailrocket", "movielens-1m"))
    parser.add_argument("--raw", type=Path, help="folder of the raw files (default: data/01_raw/<dataset>)")
    parser.add_argument("--generated", action="store_true", help="random histories of the dataset's size and lengths")
    parser.add_argument("--prepare", type=Path, metavar="FILE.npz", help="write what would be trained on, and stop")
    parser.add_argument("--job", type=Path, metavar="FILE.npz", help="train on what --prepare wrote")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="pause after so many epochs in all (default: the published budget)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="pause the trainings after so many")
    parser.add_argument("--padding", choices=("attended", "masked"), help="train the padded reference instead")
    parser.add_argument("--trials", type=int, default=1, help="so many seeds at once, beside the first one alone")
    parser.add_argument("--compile", action="store_true", help="compile the steps (train.compile)")
    parser.add_argument(
        "--profile", action="store_true", help=f"where the time of {PROFILED_STEPS} steps goes, instead"
    )
    parser.add_argument("--quick", action="store_true", help="toy size, without a GPU too; writes no record")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="file of the record")
    return parser


if __name__ == "__main__":
    main()
