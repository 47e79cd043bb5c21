"""`causald`: a student that learns from the items and from the causal target of several teachers.

    loss = (1 - weight) CE + weight temperature^2 KL(target || student)

The chain is a reference model, T teachers that share its embeddings, a predictor, and the student; each link has a
checkpoint beside the arm's, so a killed chain goes on with the link it was at. Our reconstruction of CausalD (Zhang
and others 2024, arXiv 2405.20626), of which the abstract could be read but not the details; docs/methods.md says what
we chose.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.softmax_head import SoftmaxHead, SoftmaxLosses
from fairrec_pipeline.objectives.base import Objective
from fairrec_pipeline.objectives.erm import Erm
from fairrec_pipeline.training.batches import Batch, Batches, UserStream
from fairrec_pipeline.training.checkpoint import Checkpoint, Snapshot, sections
from fairrec_pipeline.training.distillation.front_door import (
    LOGITS_AT_ONCE,
    FrontDoor,
    Predictor,
    disagreement,
    drawn_positions,
    predictor_loss_gradients,
)
from fairrec_pipeline.training.divergence import DivergenceError, advice
from fairrec_pipeline.training.fit import Fitted, TrainingData, fit, resolve_device
from fairrec_pipeline.training.scoring import encode, restored
from fairrec_pipeline.training.step import TrainingStep

if TYPE_CHECKING:
    from fairrec_pipeline.arms.spec import ArmSpec
    from fairrec_pipeline.parameters.methods import Causald

_COMPARED_USERS = 512
# Fourth words of seeds, so that the streams are others than those of users and masks, which stay what they are in ERM.
_PARTS, _TEACHER, _PREDICTOR, _STUDENT = 1, 2, 3, 4


class DistillationStep(TrainingStep):
    """A training step with the causal target beside the items.

    The arguments and options are those of `TrainingStep`. Positions and x' depend on the seed; ERM draws neither.
    """

    decides_on_host = True

    def __init__(self, *arguments: Any, front_door: FrontDoor, how: Causald, seed: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.front_door, self.how, self.seed = front_door, how, seed

    def gradients(
        self, batch: Batch, losses: SoftmaxLosses, coefficients: Tensor, number: int
    ) -> tuple[Tensor, Tensor]:
        if number < self.warm_start_steps:
            return super().gradients(batch, losses, coefficients, number)
        grad_states, grad_weight = super().gradients(batch, losses, coefficients * (1 - self.how.weight), number)
        random = np.random.default_rng((self.seed, number, 0, _STUDENT))
        positions, standing_for = drawn_positions(batch, self.how.positions, random)
        others = random.integers(len(batch.users), size=(len(positions), self.how.samples))
        others_here = batch.ends[torch.from_numpy(others).to(positions.device)]
        factors = coefficients[positions] * standing_for.to(coefficients)
        by_states, by_weight = self.distillation_gradients(batch, losses, positions, others_here, factors)
        return grad_states + by_states.to(grad_states.dtype), grad_weight + by_weight.to(grad_weight.dtype)

    def distillation_gradients(
        self, batch: Batch, losses: SoftmaxLosses, positions: Tensor, others: Tensor, factors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of `how.weight temperature^2 sum_r factor_r KL(target_r || student_r)`, exact, in bounded memory.

        Args:
            losses: of the student, with its states (n, dim) and output weight (n_items, dim), the two to derive by.
            positions, factors: (r,) of the batch.
            others: (r, J) positions of the batch whose histories are the x'.
        """
        states, weight = losses.states, losses.weight
        mediators, histories = self.front_door.mediators(batch), self.front_door.histories(batch)
        wide = torch.promote_types(states.dtype, torch.float32)
        tau, weight = self.how.temperature, weight.to(wide)
        grad_states, grad_weight = states.new_zeros(states.shape, dtype=wide), torch.zeros_like(weight)
        for part in torch.arange(len(positions), device=positions.device).split(max(1, LOGITS_AT_ONCE // len(weight))):
            at = positions[part]
            target = self.front_door.target(mediators[:, at], histories[others[part]], tau)
            student = states[at].to(wide)
            # by the logits: tau^2 KL has the gradient tau (softmax(logits / tau) - target)
            by_logits = torch.softmax((student @ weight.T).div_(tau), dim=1).sub_(target)
            by_logits *= (self.how.weight * tau * factors[part])[:, None]
            grad_states.index_add_(0, at, by_logits @ weight)
            grad_weight.addmm_(by_logits.T, student)
        return grad_states, grad_weight


def fit_distilled(
    spec: ArmSpec,
    data: TrainingData,
    objective: Objective,
    checkpoint: Checkpoint | None = None,
    *,
    description: str = "",
) -> Fitted:
    """Train an arm by causal distillation, as the options of its spec (`Causald`) say.

    Teachers and predictor do not depend on `weight`, `temperature` and `samples`, so the points of a grid over these
    share them. Each teacher may see its users as often as ERM within the budget.

    Args:
        objective: weighs the student's users.
        checkpoint: of the student. Those of the other links lie beside it, each under the hash of what decides it.

    Returns:
        The student. Its history starts when its teachers are ready: `seconds` counts from the start of the first
        training, and `teacher_disagreement` is `front_door.disagreement` for validation users.

    Raises:
        OptionError: more teachers than users.
        DivergenceError: a loss, a weight or a score is not finite.
    """
    how: Causald = spec.objective.options  # type: ignore[assignment]  # the table gives this loss these options
    if how.weight == 0:
        return fit(spec, data, objective, checkpoint, description=description)
    chain = _Chain(spec, data, checkpoint)
    trainings = chain.fit_teachers(description)
    backbone = {"n_items": data.train.n_items, **vars(spec.model)}
    teachers = [restored(fitted.weights, chain.device, **backbone) for fitted in trainings[-how.n_teachers :]]
    front_door = FrontDoor(teachers)
    seconds = sum(fitted.seconds for fitted in trainings)
    if how.samples:
        seconds += chain.fit_predictor(front_door)

    validation, device = data.validation, front_door.output_weight.device
    compared = torch.linspace(0, validation.n_users - 1, min(validation.n_users, _COMPARED_USERS)).long()
    states = torch.stack([encode(model, validation)[compared.to(device)] for model in front_door.teachers])
    step_type = partial(DistillationStep, front_door=front_door, how=how, seed=spec.seed)
    fitted = fit(spec, data, objective, checkpoint, description=description, step_type=step_type)
    history = fitted.history.assign(
        seconds=fitted.history["seconds"] + seconds,
        teacher_disagreement=disagreement(states, front_door.output_weight),
    )
    return dataclasses.replace(fitted, history=history, seconds=fitted.seconds + seconds, started=trainings[0].started)


class _Chain:
    """The links before the student: a reference, the teachers, the predictor."""

    def __init__(self, spec: ArmSpec, data: TrainingData, checkpoint: Checkpoint | None) -> None:
        self.spec, self.data, self.checkpoint, self.device = spec, data, checkpoint, resolve_device(spec.device)
        self.how: Causald = spec.objective.options  # type: ignore[assignment]
        # what decides teachers and predictor, whatever the student makes of them
        of_student = checkpoint.identity if checkpoint else {}
        self._identity = {
            **{name: value for name, value in of_student.items() if name != "parameters"},
            "histories": _fingerprint(data),
            "model": dict(vars(spec.model)),
            "train": {**vars(spec.train), "checkpoint_seconds": None},
            "seed": spec.seed,
            "filter_seen": spec.filter_seen,
        }

    def fit_teachers(self, description: str) -> list[Fitted]:
        """The reference, which sees all users, and then the T teachers; the reference alone where T is 1."""
        spec, how, trainings = self.spec, self.how, list[Fitted]()
        for number, users in enumerate(users_of_teachers(self.data.train, how, spec.seed)):
            reference = trainings[0].weights if trainings else None
            parts = how.n_teachers if reference else 1
            # as many passes over a part of the users as the budget has over all: T teachers cost what one does
            steps = math.ceil(spec.train.steps_per_epoch / parts)
            of_teacher = spec.with_train(steps_per_epoch=steps, warm_start_steps=0)
            if reference:
                of_teacher = of_teacher.model_copy(update={"seed": _seed_of(spec.seed, number, 0, _TEACHER)})
            which = {"teacher": [number, how.teachers, how.n_teachers] if reference else 0}
            data = TrainingData(part_of(self.data.train, users), self.data.validation, None)
            kept, label = self._kept(f"teacher-{number}", which), f"{description} teacher {number}".strip()
            frozen = {name: reference[name] for name in self._shared} if reference else None
            trainings.append(fit(of_teacher, data, Erm(), kept, description=label, frozen=frozen))
        return trainings

    def fit_predictor(self, front_door: FrontDoor) -> float:
        """Train the predictor and give it to the front door; returns the seconds it took.

        Its checkpoint is written at the end: it is short, and one that was killed starts again.
        """
        how, train, seed = self.how, self.spec.train, self.spec.seed
        options = [how.teachers, how.n_teachers, how.positions, how.predictor_epochs]
        checkpoint = self._kept("predictor", {"predictor": options})
        torch.manual_seed(_seed_of(seed, 0, 0, _PREDICTOR))
        front_door.predictor = predictor = Predictor(front_door.output_weight.shape[1]).to(self.device)
        snapshot = checkpoint.load() if checkpoint else None
        if checkpoint and snapshot:
            with checkpoint.reading():
                predictor.requires_grad_(False).load_state_dict(snapshot.section("predictor"))
                return float(snapshot.description["seconds"])
        begun = time.monotonic()
        optimizer = torch.optim.Adam(predictor.parameters(), lr=train.learning_rate, fused=True)
        histories, head = self.data.train, SoftmaxHead()
        batches = Batches(histories, max_length=self.spec.model.max_length, device=self.device)
        stream = UserStream(histories.n_users, train.batch_size, _seed_of(seed, 1, 0, _PREDICTOR))
        for number in tqdm(range(how.predictor_epochs * train.steps_per_epoch), desc="predictor", unit="step"):
            batch = batches.batch(stream.users(number))
            random = np.random.default_rng((seed, number, 0, _PREDICTOR))
            positions, _ = drawn_positions(batch, how.positions, random)
            teachers = torch.from_numpy(random.integers(how.n_teachers, size=len(positions))).to(self.device)
            optimizer.zero_grad()
            loss = predictor_loss_gradients(front_door, batch, positions, teachers, head)
            if not math.isfinite(loss):
                raise DivergenceError(f"the predictor's loss is not finite in step {number + 1}. {advice(self.spec)}")
            optimizer.step()
        predictor.requires_grad_(False)
        seconds = time.monotonic() - begun
        if checkpoint:
            checkpoint.save(Snapshot(sections(predictor=predictor.state_dict()), {"seconds": seconds}))
        return seconds

    @property
    def _shared(self) -> tuple[str, ...]:
        """What all teachers take from the reference: with one output embedding, the states of any two say the same."""
        tables = "item_embedding.weight", "output_embedding.weight"
        return tables[:1] if self.spec.model.tied_embeddings else tables

    def _kept(self, link: str, which: Mapping[str, Any]) -> Checkpoint | None:
        """The checkpoint of a link, named after the hash of what decides it."""
        identity = {**self._identity, **which}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return self.checkpoint.beside(f"causald-{link}-{digest[:16]}", identity) if self.checkpoint else None


def users_of_teachers(train: Histories, how: Causald, seed: int) -> list[np.ndarray]:
    """Indices of the users of every training: first the reference, which sees all, then the T teachers.

    Raises:
        OptionError: more teachers than users.
    """
    everyone = np.arange(train.n_users)
    if how.n_teachers > train.n_users:
        message = f"causald.n_teachers={how.n_teachers}, but there are {train.n_users} training users; take fewer"
        raise OptionError(message)
    if how.n_teachers == 1:
        return [everyone]
    if how.teachers == "seeds":
        return [everyone] * (1 + how.n_teachers)
    if how.teachers == "activity":
        order = np.argsort(train.lengths, kind="stable")
    else:
        order = np.random.default_rng((seed, 0, 0, _PARTS)).permutation(train.n_users)
    return [everyone, *(np.sort(users) for users in np.array_split(order, how.n_teachers))]


def part_of(sequences: Histories, users: np.ndarray) -> Histories:
    """The training histories of some users (ascending indices), with the catalogue of all."""
    inside = np.isin(sequences.event_users, users)
    offsets = np.append(0, np.cumsum(sequences.lengths[users]))
    return Histories(sequences.users[users], sequences.catalogue, sequences.items[inside], offsets)


def _fingerprint(data: TrainingData) -> str:
    """SHA-256 of what a training reads of its histories."""
    train, validation = data.train, data.validation
    digest = hashlib.sha256(str(train.n_items).encode())
    for array in (train.items, train.offsets, validation.items, validation.offsets, validation.targets):
        digest.update(np.asarray(array, dtype=np.int64).tobytes())
    return digest.hexdigest()


def _seed_of(seed: int, *words: int) -> int:
    return int(np.random.SeedSequence((seed, *words)).generate_state(1)[0])
