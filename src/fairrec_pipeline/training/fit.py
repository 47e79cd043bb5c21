"""The one training loop: epochs of steps, validation by exact rank, best weights, early stopping, checkpoints.

Nothing here needs pydantic: the blocks of an `ArmSpec` are read by attribute, so that a machine with little but torch
can train (`benchmarks.gpu_job`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.copying import FEATURES
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.objectives.base import Objective, State
from fairrec_pipeline.training.allocator import keep_freed_memory
from fairrec_pipeline.training.batches import Batches, UserStream
from fairrec_pipeline.training.checkpoint import Checkpoint, Snapshot, optimizer_tensors, restore_optimizer, sections
from fairrec_pipeline.training.compiled import CompiledStep, keep_compiled_beside
from fairrec_pipeline.training.cuda_graphs import StepRunner, make_runner
from fairrec_pipeline.training.divergence import DivergenceError, advice, check_epoch
from fairrec_pipeline.training.progress import report
from fairrec_pipeline.training.schedule import learning_rate_at
from fairrec_pipeline.training.shares import SharedRunner, SharedStep
from fairrec_pipeline.training.step import TrainingStep
from fairrec_pipeline.training.team import Team
from fairrec_pipeline.training.turns import Work, finished
from fairrec_pipeline.training.user_windows import WINDOWS, by_user
from fairrec_pipeline.training.validation import Validation

if TYPE_CHECKING:
    from fairrec_pipeline.arms.spec import ArmSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """What an arm is trained on.

    Attributes:
        train: histories whose every item is predicted.
        validation: histories with the targets that choose the best epoch.
        groups: (n_users,) int64 group of each user of `train`; None for a group-agnostic objective.
    """

    train: Histories
    validation: Histories
    groups: np.ndarray | None


@dataclass
class Progress:
    """What a checkpoint remembers beside tensors; everything in it is JSON."""

    epoch: int = 0
    seconds: float = 0.0
    best_ndcg: float = -1.0
    best_epoch: int = 0
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    finished: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    validation_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Fitted:
    """A trained arm.

    Attributes:
        weights: state dict of the epoch with the best validation NDCG@20, on the CPU.
        history: one row an epoch: epoch, loss, validation_ndcg_at_20, learning_rate, seconds (since the start, without
            interruptions), own_item_<feature> the weights of a copy mechanism, and what the method tells of its
            state, such as group_weight_<g>.
        user_weights: whom the method trained on; one row a user and window (a tenth of the budget) in which it was
            drawn: window, user (its index), drawn (how often), weight (mean of B q_u; 1 is the weight in ERM).
        objective_state: of the method after the last epoch, on the CPU.
        best_epoch: the epoch of `weights`, from 1.
        best_ndcg: its validation NDCG@20.
        seconds: training and validation together, without interruptions.
        started, finished: ISO times of the first and the last epoch.
    """

    weights: dict[str, Tensor]
    history: pd.DataFrame
    user_weights: pd.DataFrame
    objective_state: State
    best_epoch: int
    best_ndcg: float
    seconds: float
    started: str
    finished: str


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. CUDA is also set up for our products.

    Raises:
        OptionError: cuda is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("device=cuda, but torch sees no CUDA device; use device=auto or device=cpu")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    # torch may prefer cuDNN's attention, which plans anew for every shape, and nearly every step of ours has another
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # single-precision sums
    return torch.device("cuda")


def fit(*arguments: Any, **options: Any) -> Fitted:
    """`fitting` from start to end."""
    return finished(fitting(*arguments, **options))


def fitting(
    spec: ArmSpec,
    data: TrainingData,
    objective: Objective,
    checkpoint: Checkpoint | None = None,
    *,
    description: str = "",
    frozen: Mapping[str, Tensor] | None = None,
    step_type: Callable[..., TrainingStep] = TrainingStep,
) -> Work[Fitted]:
    """Train one arm, and pause where the device has an epoch of steps to do.

    On the CPU the result is a function of spec, data and objective, also when the training was killed and resumed. The
    checkpoint of a complete training stays and gives its result again.

    In a process of a team (`team.joined`) the others train the same arm, each on its share of every batch. The result
    is that of one process but for rounding, on CUDA but for the draws of dropout. The first process validates and
    writes the checkpoint, and has the weights.

    Args:
        spec: backbone, budget, seed and device. Its options are those of `objective`, and are read for messages only.
        checkpoint: where to go on, and where progress is kept; None for neither.
        frozen: parameters of the model by name that are given and not trained.
        step_type: makes the step of a method that does more than weigh losses.

    Raises:
        DivergenceError: a loss, a weight or a score is not finite; it names step and users.
        CheckpointError: the checkpoint is damaged.
        OSError: a checkpoint cannot be written.
    """
    if checkpoint and spec.train.compile:
        keep_compiled_beside(checkpoint.path)
    training = _Training(spec, data, objective, frozen or {}, step_type)
    snapshot = checkpoint.load() if checkpoint else None
    if checkpoint and snapshot:
        with checkpoint.reading():
            training.restore(snapshot)
        if not training.finished:
            logger.info("Continuing from %s, after epoch %d", checkpoint.path, training.progress.epoch)
    progress, saved_at, kept, first = training.progress, time.monotonic(), snapshot is not None, training.team.is_first
    shown = {"desc": description, "unit": "epoch", "disable": training.finished or not first}
    with tqdm(total=spec.train.epochs, initial=progress.epoch, **shown) as bar:
        while not training.finished:
            try:
                training.begin_epoch()
                yield
                loss, score = training.end_epoch()
            except DivergenceError as error:
                message = f"{error}. The checkpoint of an earlier epoch is kept" if kept else str(error)
                raise DivergenceError(message) from error
            if training.finished:
                progress.finished = datetime.now(UTC).isoformat()
            bar.set_postfix({"loss": f"{loss:.4f}", "NDCG@20": f"{score:.4f}", "best": f"{progress.best_ndcg:.4f}"})
            bar.update()
            report(description, progress.epoch, spec.train.epochs)
            due = time.monotonic() - saved_at >= spec.train.checkpoint_seconds
            if checkpoint and first and (due or training.finished):
                checkpoint.save(training.snapshot())
                kept, saved_at = True, time.monotonic()
    return training.result()


class _Training:
    """A model in training, from epoch to epoch; arguments as those of `fit`."""

    def __init__(
        self,
        spec: ArmSpec,
        data: TrainingData,
        objective: Objective,
        frozen: Mapping[str, Tensor],
        step_type: Callable[..., TrainingStep],
    ) -> None:
        train, groups, device = spec.train, data.groups, resolve_device(spec.device)
        self.spec, self.data, self.objective, self.team = spec, data, objective, Team.here()
        if self.team.size > 1:
            assert step_type is TrainingStep, "a step with a loss of its own trains in one process"
            step_type = partial(SharedStep, team=self.team)
        elif train.compile and step_type is TrainingStep:
            step_type = CompiledStep
        keep_freed_memory()
        torch.manual_seed(spec.seed)
        self.model = SASRec(data.train.n_items, **vars(spec.model)).to(device)
        for name, value in frozen.items():
            self.model.get_parameter(name).requires_grad_(False).copy_(value)
        # without weight decay it is Adam, bit for bit
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
        )
        self.step = step_type(
            self.model,
            self.optimizer,
            objective,
            None if groups is None else torch.from_numpy(groups).to(device),
            bf16=train.precision == "bf16" or (train.precision == "auto" and device.type == "cuda"),
            warm_start_steps=train.warm_start_steps,
            head=SoftmaxHead(chunk=train.item_chunk),
        )
        balance = groups if objective.balanced_batches else None
        self.stream = UserStream(data.train.n_users, train.batch_size, spec.seed, balance)
        self.initial_state = _on(device, objective.initial_state())
        # on the CPU a validation stays in single precision, which costs it little and keeps its numbers
        quick = self.step.bf16 and device.type == "cuda"
        self.validation = Validation(self.model, data.validation, filter_seen=spec.filter_seen, bf16=quick)
        self.windows = torch.zeros(2, WINDOWS, data.train.n_users, device=device)  # how often drawn, sum of B q_u
        self.best: dict[str, Tensor] = {}
        self.progress = Progress()

    @cached_property
    def runner(self) -> StepRunner:
        """Of the steps; made once the optimiser is restored, whose learning rate it may bind."""
        model, train = self.model, self.spec.train
        device = model.output_table.device
        batches = Batches(self.data.train, max_length=model.max_length, device=device)
        shape = (train.steps_per_epoch, train.batch_size)
        if isinstance(self.step, SharedStep):
            return SharedRunner(self.step, batches, self.initial_state)
        return make_runner(self.step, batches, self.initial_state, shape, cuda_graphs=train.cuda_graphs)

    @property
    def finished(self) -> bool:
        """Whether the budget is used up, or validation has not improved for `patience` epochs."""
        train, progress = self.spec.train, self.progress
        stale = progress.epoch - max(progress.best_epoch, train.warm_start_steps // train.steps_per_epoch)
        return progress.epoch >= train.epochs or (train.patience is not None and stale >= train.patience)

    def end_epoch(self) -> tuple[float, float]:
        """Look at the steps of the epoch that was begun, and validate: mean user loss and validation NDCG@20."""
        train, progress = self.spec.train, self.progress
        loss = self._look_at_steps()
        progress.epoch += 1
        validated = time.monotonic()
        try:
            score = self.team.from_first(self.validation.ndcg, self.windows.device)
        except ValueError as error:  # the last step of the epoch went wrong: its loss is that of the weights before it
            message = f"the weights are not finite after epoch {progress.epoch}: {error} {advice(self.spec)}"
            raise DivergenceError(message) from error
        self.team.follow_first(self.model.buffers())  # the calibration
        progress.validation_seconds.append(time.monotonic() - validated)
        # what the warm start reaches is not the method's
        of_the_method = progress.epoch * train.steps_per_epoch > train.warm_start_steps
        if score > progress.best_ndcg and of_the_method:
            progress.best_ndcg, progress.best_epoch = score, progress.epoch
            if self.team.is_first:
                self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        progress.seconds += time.monotonic() - self._begun
        row = {
            "epoch": progress.epoch,
            "loss": loss,
            "validation_ndcg_at_20": score,
            "learning_rate": learning_rate_at(train, progress.epoch * train.steps_per_epoch - 1),
            "seconds": progress.seconds,
        }
        if self.model.copy is not None:
            weights = self.model.copy.weights.tolist()
            row |= {f"own_item_{feature}": weight for feature, weight in zip(FEATURES, weights, strict=True)}
        progress.history.append(row | self.objective.history(self.runner.state))
        return loss, score

    def begin_epoch(self) -> None:
        """Launch the steps of the next epoch, whose losses are looked at once, at the end."""
        self._begun = time.monotonic()
        train, epoch, seed = self.spec.train, self.progress.epoch, self.spec.seed
        self.model.train()
        self.model.mask_source = MaskSource(seed, epoch)
        words = (seed, epoch, self.team.rank)  # a last 0 changes nothing
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))  # of masks on CUDA
        first = epoch * train.steps_per_epoch
        numbers = range(first, first + train.steps_per_epoch)
        drawn = torch.stack([self.stream.users(number) for number in numbers])
        self._outcome = self.runner.run(drawn, [learning_rate_at(train, number) for number in numbers], first)

    def _look_at_steps(self) -> float:
        """Mean user loss of the epoch; who was drawn with which weight is counted."""
        train, epoch, outcome = self.spec.train, self.progress.epoch, self._outcome
        check_epoch(outcome, epoch * train.steps_per_epoch, self.spec, self.data.train.users)
        window, users = self.windows[:, epoch * WINDOWS // train.epochs], outcome.users.flatten()
        weights = (outcome.weights * train.batch_size).to(window.dtype).flatten()
        window[0].index_add_(0, users, torch.ones_like(weights))
        window[1].index_add_(0, users, weights)
        return float(outcome.losses.mean())

    def snapshot(self) -> Snapshot:
        """What a checkpoint keeps: of a complete training only what it led to."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "best": self.best, "user_weights": {"windows": self.windows}, "objective": self.runner.state,
        }  # fmt: skip
        if not self.finished:
            parts |= {"model": self.model.state_dict(), "optimizer": optimizer_tensors(self.optimizer)}
        return Snapshot(sections(**parts), {"progress": vars(self.progress)})

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where the snapshot was made."""
        self.progress = Progress(**snapshot.description["progress"])
        parameters = self.model.state_dict()
        if self.team.is_first:
            self.best = snapshot.section("best", parameters if self.progress.best_epoch else ())
        self.windows.copy_(snapshot.section("user_weights", ["windows"])["windows"])
        self.initial_state = _on(self.windows.device, snapshot.section("objective", self.initial_state))
        if not self.finished:
            self.model.load_state_dict(snapshot.section("model", parameters))
            restore_optimizer(self.optimizer, snapshot.section("optimizer"))

    def result(self) -> Fitted:
        names = ("best_epoch", "best_ndcg", "seconds", "started", "finished")
        return Fitted(
            weights=self.best,
            history=pd.DataFrame(self.progress.history),
            user_weights=by_user(self.windows),
            objective_state=_on(torch.device("cpu"), self.runner.state),
            **{name: getattr(self.progress, name) for name in names},
        )


def _on(device: torch.device, state: State) -> State:
    return {name: value.to(device) for name, value in state.items()}
