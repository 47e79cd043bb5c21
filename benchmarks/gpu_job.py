"""`python -m benchmarks.gpu_job`: the published job on one GPU, in bfloat16 products with single-precision weights.

The published backbone and budget through our `fit`: how long it takes, what the device achieves, what comes out for
every group. A job is cut into runs of `--seconds`: the same command continues from the checkpoint. With `--padding` the
plain padded model is trained for the same budget instead, with or without the fault of the published padding; with
`--trials` several seeds share the device. Prints `name=value` and writes a record to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.floors import step_flops
from benchmarks.reference import PaddedBatches, PaddedSASRec, PaddedStep
from benchmarks.workloads import PUBLISHED, TOY
from fairrec_pipeline.evaluation.ranking import Scorer, ndcg, rank_targets
from fairrec_pipeline.interactions.adapters import read_source
from fairrec_pipeline.interactions.columns import TEST, USER, VALIDATION
from fairrec_pipeline.interactions.core_filter import core_filter
from fairrec_pipeline.interactions.groups import assign_groups
from fairrec_pipeline.interactions.leave_one_out import split_roles
from fairrec_pipeline.interactions.sequences import Sequences, evaluation_sequences, training_sequences
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.objectives.base import Objective
from fairrec_pipeline.parameters import Source
from fairrec_pipeline.training.batches import UserStream
from fairrec_pipeline.training.checkpoint import CheckpointStore, Snapshot, code_fingerprint, sections
from fairrec_pipeline.training.fit import Budget, fit, resolve_device
from fairrec_pipeline.training.loss_groups import group_codes, population
from fairrec_pipeline.training.scoring import ModelScorer

RESULTS = Path("benchmarks/results")
CHECKPOINTS = Path("benchmarks/scratch/gpu_job")
SPLITS = {name: (1 / 3, 1 / 3, 1 / 3) for name in ("pop33", "seq33")}
LOSSES: dict[str, dict[str, Any]] = {
    "erm": {},
    "cb": {},
    "cb_log": {},
    "ipw": {"count": "interactions"},
    "ipw_log": {"count": "interactions"},
    "gdro": {"eta": 0.01, "absent_groups": "decay"},
    "sdro": {"eta": 0.01, "beta": 0.1, "absent_groups": "decay"},
    "cvar": {"alpha": 0.3},
}
BY_GROUP = ("ipw", "ipw_log", "gdro", "sdro")
PROFILED_STEPS = 50
SAFE_SECONDS = 60  # a killed run loses no more than that
LOSS_TOLERANCE = 1e-3
"""Trials side by side: relative difference of the first epoch's loss to that of the same seed alone. Sums on CUDA have
no fixed order, and differences of rounding grow from epoch to epoch, so later losses are recorded and not judged."""
NDCG_TOLERANCE = 0.005
"""The same for the test NDCG@20 of the chosen weights, absolute."""


@dataclass(frozen=True)
class Job:
    """A dataset, prepared, and the published configuration for it.

    Attributes:
        user_groups: user_id and the columns of `SPLITS`.
    """

    dataset: str
    train: Sequences
    validation: Sequences
    test: Sequences
    user_groups: pd.DataFrame
    backbone: dict[str, Any]
    budget: Budget
    filter_seen: bool


@dataclass(frozen=True)
class Arm:
    """What is trained: a loss, on our model (`padding` None) or on the padded one, with a seed, somewhere."""

    loss: str
    loss_groups: str
    padding: str | None
    seed: int
    device: torch.device

    @property
    def name(self) -> str:
        groups = [self.loss_groups] if self.loss in BY_GROUP else []
        return "-".join([self.loss, *groups, *([self.padding] if self.padding else [])])


class PauseError(Exception):
    """This run has done its share."""


class Cut:
    """The checkpoint of a training that is cut into runs; `fit` hands it every epoch.

    Args:
        store: where a checkpoint is kept between runs.
        deadline: of this run, in seconds of `time.monotonic`.
        epochs: the training is paused after so many in all.
    """

    def __init__(self, store: CheckpointStore, deadline: float, epochs: int) -> None:
        self.store, self.deadline, self.epochs = store, deadline, epochs
        self.latest: Snapshot | None = None
        self._written = time.monotonic()

    def load(self, training: Mapping[str, Any]) -> Snapshot | None:
        self.latest = self.store.load(training)
        if self.latest and not self._finished and self._over:
            raise PauseError
        return self.latest

    def save(self, snapshot: Snapshot, training: Mapping[str, Any]) -> None:
        self.latest = snapshot
        over = self._finished or self._over
        if over or time.monotonic() - self._written > SAFE_SECONDS:
            self.store.save(snapshot, training)
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
    if not options.quick and not torch.cuda.is_available():
        sys.exit(
            "gpu_job: torch sees no CUDA device here, and this job needs one; --quick runs it at toy size on the CPU"
        )
    torch.set_float32_matmul_precision("highest")  # what is single precision stays it
    device = resolve_device("auto")
    arms = [Arm(loss, options.loss_groups, options.padding, options.seed, device) for loss in options.loss]
    record: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.gpu_job", *(sys.argv[1:] if arguments is None else arguments)]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": _device(device),
        "versions": _versions(),
    }
    if options.trials > 1:
        record["trials"] = [_side_by_side(arm.loss, options) for arm in arms]
        lines = _trial_lines(record["trials"])
    else:
        job = _job_of(options)
        record["job"] = _described(job)
        if options.profile:
            record["profiles"] = {arm.name: profile(job, arm) for arm in arms}
            lines = [f"{name}\n{table}" for name, table in record["profiles"].items()]
        else:
            deadline = time.monotonic() + options.seconds
            record["arms"] = [
                train(job, arm, deadline=deadline, epochs=options.epochs, folder=options.checkpoints) for arm in arms
            ]
            lines = [line for arm in record["arms"] for line in _lines(arm)]
    print("\n".join(lines))
    if not options.quick or options.output:
        path = options.output or _record_path(record, options)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"record: {path}")


# --- what is trained on


def _job_of(options: argparse.Namespace) -> Job:
    return toy_job() if options.quick else published_job(options.dataset, options.raw)


def published_job(dataset: str, raw: Path | None) -> Job:
    """A dataset of the paper from its raw files, with the published backbone and budget (conf/paper).

    Raises:
        DataError: the raw files are not there; says where they belong.
    """
    folder = raw or Path("data/01_raw") / dataset
    if dataset == "retailrocket":
        budget = Budget(epochs=1000, steps_per_epoch=128, batch_size=128, learning_rate=1e-3)
        return _job(dataset, folder, {}, 10_000, PUBLISHED, budget, filter_seen=False)
    budget = Budget(epochs=700, steps_per_epoch=128, batch_size=256, learning_rate=1e-3)
    return _job(dataset, folder, {}, 1.0, PUBLISHED | {"dropout": 0.5}, budget, filter_seen=True)


def toy_job() -> Job:
    """A small generated world, a small model, four epochs."""
    budget = Budget(epochs=4, steps_per_epoch=4, batch_size=16, learning_rate=5e-3)
    world = {"n_users": 200, "n_items": 60, "seed": 0}
    return _job("synthetic", Path(), world, 0.5, TOY, budget, filter_seen=False)


def _job(
    dataset: str,
    folder: Path,
    options: dict[str, Any],
    validation_users: int | float,
    backbone: dict[str, Any],
    budget: Budget,
    *,
    filter_seen: bool,
) -> Job:
    events, attributes = read_source(folder, Source.model_validate({"adapter": dataset, **options}))
    interactions = split_roles(core_filter(events, 5), validation_users, 42)
    user_groups = assign_groups(interactions, attributes, 0.8, SPLITS).to_pandas()[[USER, *SPLITS]]
    rows = interactions.to_pandas()
    train = training_sequences(rows)
    validation, test = (evaluation_sequences(rows, train.catalogue, role) for role in (VALIDATION, TEST))
    # every epoch is shown to the `Cut`, which decides what is written
    budget = replace(budget, checkpoint_seconds=0)
    return Job(dataset, train, validation, test, user_groups, backbone, budget, filter_seen)


# --- one training


def train(job: Job, arm: Arm, *, deadline: float, epochs: int | None, folder: Path) -> dict[str, Any]:
    """Train an arm, or go on with it, and evaluate the weights that validation chose so far.

    Args:
        deadline: in seconds of `time.monotonic`; the training is paused at the end of the epoch that passes it.
        epochs: pause after so many in all; None for the whole budget.
        folder: of the checkpoints.

    Returns:
        For the record: state, seconds, rates, test NDCG@20 by group, the curve.
    """
    cut = Cut(
        CheckpointStore(folder / f"{job.dataset}-{arm.name}-seed{arm.seed}.safetensors"),
        deadline,
        epochs or job.budget.epochs,
    )
    identity = {
        "arm": {**asdict(arm), "device": arm.device.type},
        "options": LOSSES[arm.loss],
        "backbone": job.backbone,
        "budget": asdict(job.budget),
        "n_events": len(job.train.items),
        "code": code_fingerprint(),
        "torch": torch.__version__,
    }
    if arm.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begun = time.time()
    with contextlib.suppress(PauseError):
        (_fit_padded if arm.padding else _fit)(job, arm, cut, identity)
    ended, progress = time.time(), cut.progress
    if not progress.get("best_epoch"):
        return {"arm": arm.name, "seed": arm.seed, "state": "not begun", "curve": []}
    assert cut.latest is not None
    scorer = _scorer_of(job, arm, cut.latest.section("best"))
    validation_seconds = _validation_seconds(job, arm, scorer)
    done, total = progress["epoch"], progress["seconds"]
    training_seconds = max(total - done * validation_seconds, 1e-9)
    steps_per_second = done * job.budget.steps_per_epoch / training_seconds
    return {
        "arm": arm.name,
        "seed": arm.seed,
        "options": LOSSES[arm.loss],
        "state": "complete" if progress["finished"] else f"paused; the same command goes on from epoch {done + 1}",
        "precision": "bf16" if arm.device.type == "cuda" else "fp32",
        "epochs": done,
        "epochs_of_the_budget": job.budget.epochs,
        "seconds": total,
        "seconds_of_training": training_seconds,
        "seconds_of_validation": done * validation_seconds,
        "seconds_of_the_whole_budget": total / done * job.budget.epochs,
        "steps_per_second": steps_per_second,
        "tflops": steps_per_second * flops_per_step(job) / 1e12,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if arm.device.type == "cuda" else None,
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


def flops_per_step(job: Job) -> float:
    """Products that a mean step of real positions needs, forward and backward; what is computed twice counts once.

    Users are drawn pass after pass, so the mean over the users is the mean over the steps of a pass.
    """
    lengths = np.minimum(job.train.lengths, job.backbone["max_length"]).tolist()
    return step_flops(lengths, job.train.n_items, job.backbone) / job.train.n_users * job.budget.batch_size


def test_by_group(job: Job, arm: Arm, scorer: Callable[[Sequences], Scorer]) -> dict[str, float]:
    """Mean test NDCG@20: `overall`, and `<split>/<group>`."""
    ranks = rank_targets(scorer(job.test), job.test, filter_seen=job.filter_seen, device=arm.device.type)
    values = pd.Series(ndcg(ranks, 20))
    groups = job.user_groups.set_index(USER).loc[job.test.users]
    means = {"overall": float(values.mean())}
    for split in SPLITS:
        for group, mean in values.groupby(groups[split].astype(str).to_numpy()).mean().items():
            means[f"{split}/{group}"] = float(mean)
    return means


test_by_group.__test__ = False  # type: ignore[attr-defined]  # no test of pytest, whatever its name


def _fit(job: Job, arm: Arm, cut: Cut, identity: dict[str, Any]) -> None:
    objective, codes = _objective(job, arm)
    fit(
        job.train,
        job.validation,
        objective,
        groups=codes,
        backbone=job.backbone,
        budget=job.budget,
        seed=arm.seed,
        device=arm.device,
        filter_seen=job.filter_seen,
        store=cut,  # type: ignore[arg-type]
        identity=identity,
        description=arm.name,
    )


def _objective(job: Job, arm: Arm) -> tuple[Objective, np.ndarray | None]:
    """The objective, and the group of each training user if it wants to know."""
    by = arm.loss_groups if arm.loss in BY_GROUP else None
    codes, names = group_codes(job.user_groups, by, job.train.users)
    frequencies = population(job.train, codes, names, job.backbone["dim"])
    return build_objective(arm.loss, frequencies, LOSSES[arm.loss]), codes


def _scorer_of(job: Job, arm: Arm, weights: dict[str, Tensor]) -> Callable[[Sequences], Scorer]:
    """From histories to the scorer of a model with these weights."""
    if arm.padding:
        padded = _padded_model(job, arm)
        padded.load_state_dict(weights)
        return lambda sequences: padded_scorer(padded, sequences, job.budget.batch_size, arm.device)
    model = SASRec(job.train.n_items, **job.backbone)
    model.load_state_dict(weights)
    model.to(arm.device)
    return lambda sequences: ModelScorer(model, sequences)


def _validation_seconds(job: Job, arm: Arm, scorer: Callable[[Sequences], Scorer]) -> float:
    """Median of three validations as an epoch makes them."""
    seconds = []
    for _ in range(3):
        begun = time.monotonic()  # the ranks are brought to the CPU, so the device is done when they are there
        rank_targets(scorer(job.validation), job.validation, filter_seen=job.filter_seen, device=arm.device.type)
        seconds.append(time.monotonic() - begun)
    return statistics.median(seconds)


# --- the padded model, for the same budget


def _fit_padded(job: Job, arm: Arm, cut: Cut, identity: dict[str, Any]) -> None:
    """`fit` in short for the padded model: no patience, no schedule; the same stream of users and the same products."""
    budget, device = job.budget, arm.device
    torch.manual_seed(arm.seed)
    model = _padded_model(job, arm)
    optimizer = torch.optim.Adam(model.parameters(), lr=budget.learning_rate, fused=True)
    objective, codes = _objective(job, arm)
    step = PaddedStep(model, optimizer, objective, None if codes is None else torch.from_numpy(codes).to(device))
    state = {name: value.to(device) for name, value in objective.initial_state().items()}
    batches = PaddedBatches(job.train, max_length=job.backbone["max_length"])
    stream = UserStream(job.train.n_users, budget.batch_size, arm.seed)
    progress: dict[str, Any] = {"epoch": 0, "seconds": 0.0, "best_epoch": 0, "best_ndcg": -1.0, "finished": False}
    progress["history"] = []
    best: dict[str, Tensor] = {}

    snapshot = cut.load(identity)
    if snapshot:
        progress, best = snapshot.description["progress"], snapshot.section("best")
        if progress["finished"]:
            return
        model.load_state_dict(snapshot.section("model"))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in snapshot.section("optimizer").items():
            index, name = key.split("/")
            moments.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        state = {name: value.to(device) for name, value in snapshot.section("objective").items()}

    while progress["epoch"] < budget.epochs:
        begun, epoch = time.monotonic(), progress["epoch"]
        model.train()
        torch.manual_seed(int(np.random.SeedSequence((arm.seed, epoch)).generate_state(1)[0]))
        losses = []
        for number in range(epoch * budget.steps_per_epoch, (epoch + 1) * budget.steps_per_epoch):
            with device:  # the reference makes its tensors where torch makes them
                batch = batches.batch(stream.users(number).tolist())
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                    of_users, state = step(batch, state, number)
            losses.append(of_users.mean())
        loss = float(torch.stack(losses).mean())
        scorer = padded_scorer(model, job.validation, budget.batch_size, device)
        ranks = rank_targets(scorer, job.validation, filter_seen=job.filter_seen, device=device.type)
        score = float(ndcg(ranks, 20).mean())
        progress["epoch"], progress["seconds"] = epoch + 1, progress["seconds"] + time.monotonic() - begun
        if score > progress["best_ndcg"]:
            progress["best_ndcg"], progress["best_epoch"] = score, epoch + 1
            best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        row = {"epoch": epoch + 1, "seconds": progress["seconds"], "loss": loss, "validation_ndcg_at_20": score}
        progress["history"].append(row)
        progress["finished"] = progress["epoch"] == budget.epochs
        moments_now = {
            f"{index}/{name}": value
            for index, values in optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }
        parts = {} if progress["finished"] else {"optimizer": moments_now, "model": model.state_dict()}
        cut.save(Snapshot(sections(best=best, objective=state, **parts), {"progress": progress}), identity)


def _padded_model(job: Job, arm: Arm) -> PaddedSASRec:
    assert arm.padding is not None
    return PaddedSASRec(job.train.n_items, **job.backbone, padding=arm.padding).to(arm.device)  # type: ignore[arg-type]


@torch.no_grad()
def padded_scorer(model: PaddedSASRec, sequences: Sequences, batch_size: int, device: torch.device) -> Scorer:
    """Scores of the padded model; users are encoded in their order, `batch_size` at a time.

    With the published padding the batch matters: a state depends on the longest user beside it.
    """
    model.eval()
    batches = PaddedBatches(sequences, max_length=model.position_embedding.num_embeddings)
    states = []
    with device:
        for start in range(0, sequences.n_users, batch_size):
            batch = batches.batch(list(range(start, min(start + batch_size, sequences.n_users))))
            states.append(model(batch.tokens, batch.padding)[:, -1])
    all_states = torch.cat(states)

    @torch.no_grad()
    def score(users: Tensor) -> Tensor:
        return model.logits(all_states[users])

    return score


# --- where the time of a step goes


def profile(job: Job, arm: Arm) -> str:
    """torch.profiler's table over the steps of the second of two short epochs, and one small validation."""
    first = job.validation
    few = min(8, first.n_users)
    assert first.targets is not None
    assert first.repeats is not None
    small = replace(
        first,
        users=first.users[:few],
        items=first.items[: first.offsets[few]],
        offsets=first.offsets[: few + 1],
        targets=first.targets[:few],
        repeats=first.repeats[:few],
    )
    budget = replace(job.budget, epochs=2, steps_per_epoch=PROFILED_STEPS)
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_gpu = arm.device.type == "cuda"
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    profiler = torch.profiler.profile(activities=activities)
    watched = _BetweenEpochs(iter([profiler.start, profiler.stop]))
    train_it = _fit_padded if arm.padding else _fit
    train_it(replace(job, validation=small, budget=budget), arm, watched, {})  # type: ignore[arg-type]
    by = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=by, row_limit=30)


class _BetweenEpochs:
    """Does something after every epoch, where a checkpoint would be written."""

    def __init__(self, actions: Iterator[Callable[[], None]]) -> None:
        self.actions = actions

    def load(self, training: Mapping[str, Any]) -> None:
        return None

    def save(self, snapshot: Snapshot, training: Mapping[str, Any]) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        next(self.actions)()


# --- several trainings on one device


def _side_by_side(loss: str, options: argparse.Namespace) -> dict[str, Any]:
    """The first seed alone, then all seeds at once, each in a process of its own."""
    alone = _processes(loss, [options.seed], options, "alone")
    together = _processes(loss, range(options.seed, options.seed + options.trials), options, "together")
    return compared(loss, alone[0], together)


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
    epochs = alone["epochs_of_the_budget"]
    slowest = max(trial["seconds"] / trial["epochs"] for trial in together)
    same = together[0]
    pairs = list(zip(alone["curve"], same["curve"], strict=False))
    losses = [abs(a["loss"] - b["loss"]) / abs(a["loss"]) for a, b in pairs]
    test = abs(alone["test_ndcg_at_20"]["overall"] - same["test_ndcg_at_20"]["overall"])
    return {
        "loss": loss,
        "trials": len(together),
        "per_hour_alone": 3600 / (alone["seconds"] / alone["epochs"] * epochs),
        "per_hour_together": len(together) * 3600 / (slowest * epochs),
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


def _processes(loss: str, seeds: range | list[int], options: argparse.Namespace, kind: str) -> list[dict[str, Any]]:
    """Train these seeds at once, each in a process of its own; their records."""
    # forked from one that has imported torch and has not touched the device: they begin together
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.reference", "fairrec_pipeline.training.fit"])
    with ProcessPoolExecutor(len(seeds), mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(_trial, repeat(loss), seeds, repeat(options), repeat(kind)))


def _trial(loss: str, seed: int, options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """One training from the start: a continued one would be timed under two conditions."""
    folder = options.checkpoints / kind
    for old in folder.glob(f"*-{loss}*-seed{seed}.safetensors"):
        old.unlink()
    arm = Arm(loss, options.loss_groups, options.padding, seed, resolve_device("auto"))
    return train(
        _job_of(options), arm, deadline=time.monotonic() + options.seconds, epochs=options.epochs, folder=folder
    )


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


def _trial_lines(trials: list[dict[str, Any]]) -> list[str]:
    names = ("per_hour_alone", "per_hour_together", "loss_difference_of_first_epoch", "test_ndcg_at_20_difference")
    lines = []
    for trial in trials:
        lines += [f"{trial['loss']}_{name}={trial[name]:.4g}" for name in names]
        lines.append(f"{trial['loss']}_within_tolerance={trial['within_tolerance']}")
    return lines


def _described(job: Job) -> dict[str, Any]:
    return {
        "dataset": job.dataset,
        "n_users": job.train.n_users,
        "n_items": job.train.n_items,
        "n_validation": job.validation.n_users,
        "n_test": job.test.n_users,
        "backbone": job.backbone,
        "budget": asdict(job.budget),
        "filter_seen": job.filter_seen,
        "gflops_per_step": flops_per_step(job) / 1e9,
    }


def _device(device: torch.device) -> dict[str, Any]:
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


def _versions() -> dict[str, str | None]:
    names = ("torch", "numpy", "fairrec_pipeline")
    versions: dict[str, str | None] = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), "cuda": torch.version.cuda, **versions}


def _record_path(record: dict[str, Any], options: argparse.Namespace) -> Path:
    device = re.sub(r"[^a-z0-9]+", "-", record["device"]["name"].lower()).strip("-")
    part = f"{options.trials}trials" if options.trials > 1 else "profile" if options.profile else None
    parts = [record["date"][:10], device, options.dataset, *options.loss, options.padding, part, f"seed{options.seed}"]
    return RESULTS / f"{'-'.join(filter(None, parts))}.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_job", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loss", nargs="+", default=["erm"], choices=LOSSES, help="one after the other")
    parser.add_argument("--loss-groups", default="pop33", choices=SPLITS, help="for a loss by group")
    parser.add_argument("--dataset", default="retailrocket", choices=("retailrocket", "movielens-1m"))
    parser.add_argument("--raw", type=Path, help="folder of the raw files (default: data/01_raw/<dataset>)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="pause after so many epochs in all (default: the published budget)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="pause the trainings after so many")
    parser.add_argument("--padding", choices=("attended", "masked"), help="train the padded reference instead")
    parser.add_argument("--trials", type=int, default=1, help="so many seeds at once, beside the first one alone")
    parser.add_argument(
        "--profile", action="store_true", help=f"where the time of {PROFILED_STEPS} steps goes, instead"
    )
    parser.add_argument("--quick", action="store_true", help="toy size, without a GPU too; writes no record")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="file of the record")
    return parser


if __name__ == "__main__":
    main()
