"""`python -m benchmarks.gpu_job`: the published job on one GPU, in bfloat16 products with single-precision weights.

The published backbone and budget through our `fit`: how long it takes, what the device achieves, what comes out for
every group. A job is cut into runs of `--seconds`: the same command continues from the checkpoint. With `--padding` the
plain padded model is trained for the same budget instead, with or without the fault of the published padding; with
`--trials` several seeds share the device. Prints `name=value` and writes a record to benchmarks/results/.

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

import fairrec_pipeline
from benchmarks.floors import step_flops
from benchmarks.reference import PaddedBatches, PaddedSASRec, PaddedStep
from benchmarks.workloads import PUBLISHED, TOY, generated_like
from fairrec_pipeline.interactions.columns import TEST, USER, VALIDATION
from fairrec_pipeline.interactions.errors import DataError
from fairrec_pipeline.interactions.histories import Histories, evaluation_histories, training_histories
from fairrec_pipeline.metrics.ranking import Scorer, ndcg, rank_targets
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.objectives.base import Objective
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
USERS_OF_MOVIELENS_1M = 6_040
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
    train: Histories
    validation: Histories
    test: Histories
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
        "device": _device(device),
        "versions": _versions(),
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
            table = profile(job, arm)
            record.setdefault("profiles", {})[arm.name] = table
            lines = [arm.name, table]
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
        return read_job(options.job)
    return toy_job() if options.quick else published_job(options.dataset, options.raw, generated=options.generated)


def published_job(dataset: str, raw: Path | None, *, generated: bool = False) -> Job:
    """A dataset of the paper with the published backbone and budget (conf/paper).

    Args:
        dataset: its name.
        raw: folder of its raw files.
        generated: random histories of the dataset's size and lengths instead: they say how long, not how well.

    Raises:
        DataError: the raw files are not there (says where they belong), or are those of another dataset.
    """
    folder = raw or Path("data/01_raw") / dataset
    if dataset == "retailrocket":
        budget = Budget(epochs=1000, steps_per_epoch=128, batch_size=128, learning_rate=1e-3)
        backbone, validation_users, filter_seen = PUBLISHED, 10_000, False
    else:
        budget = Budget(epochs=700, steps_per_epoch=128, batch_size=256, learning_rate=1e-3)
        backbone, validation_users, filter_seen = PUBLISHED | {"dropout": 0.5}, 1.0, True
    if generated:
        return _generated_job(dataset, validation_users, backbone, budget, filter_seen=filter_seen)
    return _job(dataset, folder, {}, validation_users, backbone, budget, filter_seen=filter_seen)


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
    # what these need is wanted here only, not where a prepared job is trained
    from fairrec_pipeline.interactions.core_filter import core_filter
    from fairrec_pipeline.interactions.groups import assign_groups
    from fairrec_pipeline.interactions.leave_one_out import hold_out, split_roles, training_interactions
    from fairrec_pipeline.interactions.sources import read_source
    from fairrec_pipeline.parameters.datasets import Source

    raw = read_source(folder, Source.model_validate({"adapter": dataset, **options}))
    n_users = raw.events[USER].nunique().execute()
    if dataset == "movielens-1m" and n_users != USERS_OF_MOVIELENS_1M:
        message = (
            f"the log in {folder} has {n_users:,} users, but MovieLens-1M has {USERS_OF_MOVIELENS_1M:,}; put the real "
            "one there, or time generated histories of its lengths with --generated"
        )
        raise DataError(message)
    core = core_filter(raw.events, 5)
    held_out = hold_out(core, validation_users, 42)
    training = training_interactions(core, held_out)
    user_groups = assign_groups(training, raw.user_attributes, 0.8, SPLITS).to_pandas()[[USER, *SPLITS]]
    rows = split_roles(core, held_out).to_pandas()
    train = training_histories(rows)
    validation, test = (evaluation_histories(rows, train.catalogue, role) for role in (VALIDATION, TEST))
    return Job(dataset, train, validation, test, user_groups, backbone, _shown(budget), filter_seen)


def _generated_job(
    dataset: str, validation_users: int | float, backbone: dict[str, Any], budget: Budget, *, filter_seen: bool
) -> Job:
    train, test = generated_like(dataset)
    validation = test if validation_users == 1 else _first(test, int(validation_users))
    popularity = np.add.reduceat(train.item_counts[train.items], train.offsets[:-1]) / train.lengths
    labels = {"pop33": ("niche", "diverse", "popular"), "seq33": ("short", "medium", "long")}
    places = {"pop33": np.argsort(np.argsort(popularity)), "seq33": np.argsort(np.argsort(train.lengths))}
    groups = {name: np.array(labels[name])[3 * places[name] // train.n_users] for name in SPLITS}
    user_groups = pd.DataFrame({USER: train.users, **groups})
    name = f"{dataset}-generated"
    return Job(name, train, validation, test, user_groups, backbone, _shown(budget), filter_seen)


def _shown(budget: Budget) -> Budget:
    """Every epoch is shown to the `Cut`, which decides what is written."""
    return replace(budget, checkpoint_seconds=0)


def _first(sequences: Histories, n: int) -> Histories:
    """Evaluation histories of the first n users."""
    assert sequences.targets is not None
    assert sequences.repeats is not None
    return replace(
        sequences,
        users=sequences.users[:n],
        items=sequences.items[: sequences.offsets[n]],
        offsets=sequences.offsets[: n + 1],
        targets=sequences.targets[:n],
        repeats=sequences.repeats[:n],
    )


_HISTORIES = ("train", "validation", "test")


def write_job(job: Job, path: Path) -> None:
    """Write all that a job needs as plain arrays (.npz)."""
    arrays = {
        f"{name}/{part}": value for name in _HISTORIES for part, value in vars(getattr(job, name)).items()
        if value is not None
    } | {f"user_groups/{column}": values.to_numpy() for column, values in job.user_groups.items()}  # fmt: skip
    # texts have a type of their own in a table, and a Python object each would need pickle
    arrays = {name: array.astype(str) if array.dtype.kind in "OT" else array for name, array in arrays.items()}
    rest = {name: getattr(job, name) for name in ("dataset", "backbone", "filter_seen")} | {
        "budget": asdict(job.budget)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # a path would get another ending
        np.savez_compressed(file, rest=np.array(json.dumps(rest)), **arrays)


def read_job(path: Path) -> Job:
    """Read what `write_job` wrote."""
    with np.load(path, allow_pickle=False) as file:
        rest = json.loads(str(file["rest"]))
        parts: dict[str, dict[str, np.ndarray]] = {name: {} for name in (*_HISTORIES, "user_groups")}
        for name in file.files:
            if "/" in name:
                whole, part = name.split("/")
                parts[whole][part] = file[name]
    histories = {name: Histories(**parts[name]) for name in _HISTORIES}
    user_groups, budget = pd.DataFrame(parts["user_groups"]), Budget(**rest.pop("budget"))
    return Job(**histories, user_groups=user_groups, budget=budget, **rest)


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
    first, usual = epoch_seconds([row["seconds"] for row in progress["history"]])
    steps_per_second = job.budget.steps_per_epoch / max(usual - validation_seconds, 1e-9)
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
        "seconds_of_the_whole_budget": first + (job.budget.epochs - 1) * usual,
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


def epoch_seconds(ends: list[float]) -> tuple[float, float]:
    """Seconds of the first epoch, in which a GPU and its libraries warm up, and the median of those after it.

    Args:
        ends: seconds at the end of every epoch; one alone counts as both.
    """
    each = np.diff(ends, prepend=0.0)
    return float(each[0]), float(np.median(each[1:] if len(each) > 1 else each))


def flops_per_step(job: Job) -> float:
    """Products that a mean step of real positions needs, forward and backward; what is computed twice counts once.

    Users are drawn pass after pass, so the mean over the users is the mean over the steps of a pass.
    """
    lengths = np.minimum(job.train.lengths, job.backbone["max_length"]).tolist()
    return step_flops(lengths, job.train.n_items, job.backbone) / job.train.n_users * job.budget.batch_size


def test_by_group(job: Job, arm: Arm, scorer: Callable[[Histories], Scorer]) -> dict[str, float]:
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


def _scorer_of(job: Job, arm: Arm, weights: dict[str, Tensor]) -> Callable[[Histories], Scorer]:
    """From histories to the scorer of a model with these weights."""
    if arm.padding:
        padded = _padded_model(job, arm)
        padded.load_state_dict(weights)
        return lambda sequences: padded_scorer(padded, sequences, job.budget.batch_size, arm.device)
    model = SASRec(job.train.n_items, **job.backbone)
    model.load_state_dict(weights)
    model.to(arm.device)
    return lambda sequences: ModelScorer(model, sequences)


def _validation_seconds(job: Job, arm: Arm, scorer: Callable[[Histories], Scorer]) -> float:
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
        progress["epoch"] = epoch + 1
        if score > progress["best_ndcg"]:
            progress["best_ndcg"], progress["best_epoch"] = score, epoch + 1
            best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        progress["seconds"] += time.monotonic() - begun
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
def padded_scorer(model: PaddedSASRec, sequences: Histories, batch_size: int, device: torch.device) -> Scorer:
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
    small = _first(job.validation, min(8, job.validation.n_users))
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
    modules = {"torch": torch, "numpy": np, "fairrec_pipeline": fairrec_pipeline}
    versions = {name: str(module.__version__) for name, module in modules.items()}
    return {"python": platform.python_version(), "cuda": torch.version.cuda, **versions}


def _record_path(record: dict[str, Any], options: argparse.Namespace) -> Path:
    device = re.sub(r"[^a-z0-9]+", "-", record["device"]["name"].lower()).strip("-")
    part = f"{options.trials}trials" if options.trials > 1 else "profile" if options.profile else None
    parts = [
        record["date"][:10],
        device,
        record["job"]["dataset"],
        *options.loss,
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
    parser.add_argument("--loss-groups", default="pop33", choices=SPLITS, help="for a loss by group")
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
    parser.add_argument(
        "--profile", action="store_true", help=f"where the time of {PROFILED_STEPS} steps goes, instead"
    )
    parser.add_argument("--quick", action="store_true", help="toy size, without a GPU too; writes no record")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="file of the record")
    return parser


if __name__ == "__main__":
    main()
