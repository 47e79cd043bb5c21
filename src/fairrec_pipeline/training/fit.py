"""The one training loop: epochs of steps, validation by exact rank, best weights, early stopping, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fairrec_pipeline.metrics.ranking import SeenItems, ndcg, rank_targets
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.objectives.base import Objective, State
from fairrec_pipeline.training.allocator import keep_freed_memory
from fairrec_pipeline.training.batches import Batches, UserStream
from fairrec_pipeline.training.calibration import calibrate
from fairrec_pipeline.training.checkpoint import CheckpointStore, Snapshot, sections
from fairrec_pipeline.training.scoring import CutHistories, ModelScorer, cut_histories
from fairrec_pipeline.training.step import TrainingStep
from fairrec_pipeline.training.cuda_graphs import Steps, steps_for

WINDOWS = 10
"""Into so many windows a training is cut when it tells whom it trained on."""


class DivergenceError(RuntimeError):
    """A loss is not finite."""


@dataclass(frozen=True)
class Budget:
    """How long and how an arm is trained; the fields of the `train` parameters."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    learning_rate: float
    warm_up_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    warm_start_steps: int = 0
    patience: int | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    item_chunk: int | None = None
    cuda_graphs: bool = True
    checkpoint_seconds: float = 30.0

    def learning_rate_at(self, step: int) -> float:
        """Rises linearly over `warm_up_steps`; then constant, or falling to 0 over the budget along a half cosine."""
        risen = min(1.0, (step + 1) / max(1, self.warm_up_steps))
        if self.schedule == "constant":
            return self.learning_rate * risen
        left = self.epochs * self.steps_per_epoch - self.warm_up_steps
        share = max(0, step - self.warm_up_steps) / max(1, left)
        return self.learning_rate * risen * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


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


@dataclass(frozen=True)
class Fitted:
    """A trained arm.

    Attributes:
        weights: state dict of the epoch with the best validation NDCG@20, on the CPU.
        history: one row an epoch: epoch, loss, validation_ndcg_at_20, learning_rate, seconds (since the start, without
            interruptions), own_item_bias and own_item_exponent of a copy mechanism, and what the method tells of its
            state, such as group_weight_<g>.
        user_weights: whom the method trained on; one row a user and window (a tenth of the budget) in which it was
            drawn: window, user (its place), drawn (how often), weight (mean of B q_u; 1 is the weight in ERM).
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
        ValueError: cuda is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        message = "device=cuda, but torch sees no CUDA device; use device=auto or device=cpu"
        raise ValueError(message)
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    # torch may prefer cuDNN's attention, which plans anew for every shape, and nearly every step of ours has another
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # single-precision sums
    return torch.device("cuda")


def fit(
    train: Histories,
    validation: Histories,
    objective: Objective,
    *,
    groups: np.ndarray | None,
    backbone: Mapping[str, Any],
    budget: Budget,
    seed: int,
    device: torch.device,
    filter_seen: bool,
    store: CheckpointStore | None = None,
    identity: Mapping[str, Any] | None = None,
    description: str = "",
    frozen: Mapping[str, Tensor] | None = None,
    step_type: Callable[..., TrainingStep] = TrainingStep,
) -> Fitted:
    """Train one arm.

    On the CPU the result is a function of the arguments alone, also when the training was killed and resumed. The
    checkpoint of a complete training stays and gives its result again.

    Args:
        train: histories whose every item is predicted.
        validation: histories with the targets that choose the best epoch.
        objective: the robust objective.
        groups: (n_users,) group of each user of `train`; None for group-agnostic objectives.
        backbone: arguments of `SASRec` beside the number of items.
        budget: length, optimiser and precision.
        seed: of initialisation, order of users and dropout.
        filter_seen: as in the evaluation.
        store: where checkpoints go; None for none.
        identity: JSON-able, what decides the result; a checkpoint of another identity is not continued.
        description: label of the progress bar.
        frozen: parameters of the model by name that are given and not trained.
        step_type: makes the step of a method that does more than weigh losses.

    Raises:
        DivergenceError: a loss is not finite; names step and users. The last good checkpoint stays.
    """
    keep_freed_memory()
    torch.manual_seed(seed)
    model = _with_frozen(SASRec(train.n_items, **backbone).to(device), frozen or {})
    optimizer = torch.optim.Adam(model.parameters(), lr=budget.learning_rate, fused=True)
    step = step_type(
        model,
        optimizer,
        objective,
        None if groups is None else torch.from_numpy(groups).to(device),
        bf16=budget.precision == "bf16" or (budget.precision == "auto" and device.type == "cuda"),
        warm_start_steps=budget.warm_start_steps,
        head=SoftmaxHead(chunk=budget.item_chunk),
    )
    stream = UserStream(train.n_users, budget.batch_size, seed, groups if objective.balanced_batches else None)
    state = {name: value.to(device) for name, value in objective.initial_state().items()}
    windows = torch.zeros(2, WINDOWS, train.n_users, device=device)  # how often drawn, sum of B q_u
    best: dict[str, Tensor] = {}
    progress = Progress()

    snapshot = store.load(identity or {}) if store else None
    if snapshot:
        best = snapshot.section("best")
        windows = snapshot.section("user_weights")["windows"].to(device)
        progress = Progress(**snapshot.description["progress"])
        state = {name: value.to(device) for name, value in snapshot.section("objective").items()}
        if not _finished(progress, budget):  # of a complete training only what it led to is kept
            model.load_state_dict(snapshot.section("model"))
            _restore_optimizer(optimizer, snapshot.section("optimizer"))

    batches = Batches(train, max_length=model.max_length, device=device, copy_window=model.copy_window)
    steps = steps_for(step, batches, state, (budget.steps_per_epoch, budget.batch_size), cuda_graphs=budget.cuda_graphs)
    validate = _Validation(model, validation, filter_seen=filter_seen)
    bar = tqdm(total=budget.epochs, initial=progress.epoch, desc=description, unit="epoch")
    saved_at = time.monotonic()
    while not _finished(progress, budget):
        begun = time.monotonic()
        window = windows[:, progress.epoch * WINDOWS // budget.epochs]
        losses = _train_epoch(steps, stream, window, progress.epoch, budget, seed, train)
        progress.epoch += 1
        score = validate.ndcg(progress.epoch)
        # what the warm start reaches is not the method's
        of_the_method = progress.epoch * budget.steps_per_epoch > budget.warm_start_steps
        if score > progress.best_ndcg and of_the_method:
            progress.best_ndcg, progress.best_epoch = score, progress.epoch
            best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        progress.seconds += time.monotonic() - begun
        row = {
            "epoch": progress.epoch,
            "loss": losses,
            "validation_ndcg_at_20": score,
            "learning_rate": budget.learning_rate_at(progress.epoch * budget.steps_per_epoch - 1),
            "seconds": progress.seconds,
        }
        progress.history.append(row | _calibration(model) | objective.history(steps.state))
        finished = _finished(progress, budget)
        if finished:
            progress.finished = datetime.now(UTC).isoformat()
        bar.set_postfix({"loss": f"{losses:.4f}", "NDCG@20": f"{score:.4f}", "best": f"{progress.best_ndcg:.4f}"})
        bar.update()
        if store and (time.monotonic() - saved_at >= budget.checkpoint_seconds or finished):
            parts = {"model": model.state_dict(), "optimizer": _optimizer_tensors(optimizer)}
            kept = {"best": best, "user_weights": {"windows": windows}, "objective": steps.state}
            tensors = sections(**kept, **({} if finished else parts))
            store.save(Snapshot(tensors, {"progress": vars(progress)}), identity or {})
            saved_at = time.monotonic()
    bar.close()
    return Fitted(
        weights=best,
        history=pd.DataFrame(progress.history),
        user_weights=_by_user(windows),
        objective_state={name: value.cpu() for name, value in steps.state.items()},
        best_epoch=progress.best_epoch,
        best_ndcg=progress.best_ndcg,
        seconds=progress.seconds,
        started=progress.started,
        finished=progress.finished,
    )


_ADVICE = "The last good checkpoint is kept. Try a smaller train.learning_rate or train.precision=fp32"


class _Validation:
    """Validates a model in training; what its weights do not change is found once, when it is first wanted."""

    def __init__(self, model: SASRec, sequences: Histories, *, filter_seen: bool) -> None:
        self.model, self.sequences, self.filter_seen = model, sequences, filter_seen
        self.device = model.output_table.device.type

    @cached_property
    def _histories(self) -> CutHistories:
        return cut_histories(self.model, self.sequences, again=True)

    @cached_property
    def _seen(self) -> SeenItems | None:
        return SeenItems(self.sequences, self.device) if self.filter_seen else None

    def ndcg(self, epoch: int) -> float:
        """Mean NDCG@20 after an epoch, with the copy mechanism calibrated where own items may be recommended."""
        scorer = ModelScorer(self.model, self._histories)
        try:
            if self.model.copy is not None and not self.filter_seen:
                calibrate(self.model.copy, scorer, self.sequences)
            ranks = rank_targets(
                scorer, self.sequences, filter_seen=self.filter_seen, device=self.device, seen=self._seen
            )
        except ValueError as error:  # the last step of the epoch went wrong: its loss is that of the weights before it
            message = f"the weights are not finite after epoch {epoch}: {error} {_ADVICE}"
            raise DivergenceError(message) from error
        return float(ndcg(ranks, 20).mean())


def _calibration(model: SASRec) -> dict[str, float]:
    """Columns of the history that tell of the copy mechanism."""
    if model.copy is None:
        return {}
    return dict(zip(("own_item_bias", "own_item_exponent"), model.copy.calibration.tolist(), strict=True))


def _with_frozen(model: SASRec, frozen: Mapping[str, Tensor]) -> SASRec:
    for name, value in frozen.items():
        model.get_parameter(name).requires_grad_(False).copy_(value)
    return model


def _by_user(windows: Tensor) -> pd.DataFrame:
    """(2, WINDOWS, n_users) sums as the rows of `Fitted.user_weights`."""
    drawn, weight = windows.cpu().numpy()
    window, user = drawn.nonzero()
    at = (window, user)
    return pd.DataFrame(
        {"window": window, "user": user, "drawn": drawn[at].astype(np.int64), "weight": weight[at] / drawn[at]}
    )


def _finished(progress: Progress, budget: Budget) -> bool:
    stale = progress.epoch - max(progress.best_epoch, budget.warm_start_steps // budget.steps_per_epoch)
    return progress.epoch >= budget.epochs or (budget.patience is not None and stale >= budget.patience)


def _train_epoch(
    steps: Steps,
    stream: UserStream,
    window: Tensor,
    epoch: int,
    budget: Budget,
    seed: int,
    train: Histories,
) -> float:
    """Mean user loss of the epoch; adds the users' weights to the window.

    Looks at the losses once, at the end.
    """
    steps.step.model.train()
    steps.step.model.mask_source = MaskSource(seed, epoch)
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))  # draws the masks on CUDA
    first = epoch * budget.steps_per_epoch
    numbers = range(first, first + budget.steps_per_epoch)
    drawn = torch.stack([stream.users(number) for number in numbers])
    users, losses, weights = steps.take(drawn, [budget.learning_rate_at(number) for number in numbers], first)
    window[0].index_add_(0, users.flatten(), torch.ones_like(weights, dtype=window.dtype).flatten())
    window[1].index_add_(0, users.flatten(), (weights * budget.batch_size).to(window.dtype).flatten())
    if not bool(torch.isfinite(losses).all()):
        bad = (~torch.isfinite(losses)).nonzero()
        at = int(bad[0, 0])
        places = [int(users[at][column]) for row, column in bad.tolist() if row == at]
        message = (
            f"the loss is not finite in epoch {epoch + 1}, step {first + at + 1}, for users "
            f"{train.users[places[:5]].tolist()}{' ...' if len(places) > 5 else ''}. {_ADVICE}"
        )
        raise DivergenceError(message)
    return float(losses.mean())


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, values in state.items() for name, value in values.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
