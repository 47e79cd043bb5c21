"""`causald`: a student that learns from the items and from the causal target of several teachers.

    loss = (1 - weight) CE + weight temperature^2 KL(target || student)

The chain is a reference model, T teachers that share its embeddings, a predictor, and the student; each link has its
own checkpoint beside the arm's, so a killed chain goes on with the link it was at. Our reconstruction of CausalD (Zhang
and others 2024, arXiv 2405.20626), of which the abstract could be read but not the details; docs/methods.md says what
we chose.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.objectives.base import Objective
from fairrec_pipeline.objectives.erm import Erm
from fairrec_pipeline.training.batches import Batch, Batches, UserStream
from fairrec_pipeline.training.checkpoint import CheckpointStore, Snapshot, sections
from fairrec_pipeline.training.fit import Budget, DivergenceError, Fitted, fit
from fairrec_pipeline.training.distillation.front_door import (
    LOGITS_AT_ONCE,
    FrontDoor,
    Predictor,
    disagreement,
    drawn_positions,
    predictor_loss_gradients,
)
from fairrec_pipeline.training.scoring import encode
from fairrec_pipeline.training.step import TrainingStep

_COMPARED_USERS = 512
# Fourth words of seeds, so that the streams are others than those of users and masks, which stay what they are in ERM.
_PARTS, _TEACHER, _PREDICTOR, _STUDENT = 1, 2, 3, 4


@dataclass(frozen=True)
class Distillation:
    """How a student is taught; the fields of the `causald` parameters.

    Attributes:
        weight: of the causal target in the loss (lambda of METHODS); 0 is ERM.
        temperature: of target and student (tau).
        teachers: what they differ by: `activity`, a part of the users by number of interactions; `random`, a random
            part of that size; `seeds`, nothing but the seed.
        n_teachers: T; 1 is the reference alone.
        samples: x' a position and teacher (J); 0 is plain distillation from several teachers.
        positions: of each user to distil in a step, drawn at random; None for all.
        predictor_epochs: how long P(y | m, x') is trained, in epochs of the budget.
    """

    weight: float
    temperature: float
    teachers: Literal["activity", "random", "seeds"]
    n_teachers: int
    samples: int
    positions: int | None
    predictor_epochs: int


class DistillationStep(TrainingStep):
    """A training step with the causal target beside the items.

    Args:
        front_door: the target.
        how: weight, temperature, samples and positions.
        seed: of the positions and the x'; draws nothing that ERM draws.
    """

    decides_on_host = True

    def __init__(self, *arguments: Any, front_door: FrontDoor, how: Distillation, seed: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.front_door, self.how, self.seed = front_door, how, seed

    def gradients(
        self, batch: Batch, states: Tensor, weight: Tensor, coefficients: Tensor, number: int
    ) -> tuple[Tensor, Tensor]:
        if number < self.warm_start_steps:
            return super().gradients(batch, states, weight, coefficients, number)
        own = coefficients * (1 - self.how.weight)
        grad_states, grad_weight = super().gradients(batch, states, weight, own, number)
        random = np.random.default_rng((self.seed, number, 0, _STUDENT))
        positions, standing_for = drawn_positions(batch, self.how.positions, random)
        others = random.integers(len(batch.users), size=(len(positions), self.how.samples))
        others_here = batch.ends[torch.from_numpy(others).to(positions.device)]
        factors = coefficients[positions] * standing_for.to(coefficients)
        by_states, by_weight = self.taught(batch, states, weight, positions, others_here, factors)
        return grad_states + by_states.to(states.dtype), grad_weight + by_weight.to(weight.dtype)

    def taught(
        self, batch: Batch, states: Tensor, weight: Tensor, positions: Tensor, others: Tensor, factors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of `how.weight temperature^2 sum_r factor_r KL(target_r || student_r)`, exact, in bounded memory.

        Args:
            positions: (r,) of the batch.
            others: (r, J) positions of the batch whose histories are the x'.
            factors: (r,).
        """
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
    how: Distillation,
) -> Fitted:
    """Train an arm by causal distillation; arguments as of `fit`, and `how`.

    Teachers and predictor do not depend on `how.weight`, `temperature` and `samples`, so the points of a grid over
    these share them. Each teacher may see its users as often as ERM within the budget.

    Returns:
        The student. Its history starts when its teachers are ready: `seconds` counts from the start of the first
        training, and `teacher_disagreement` is `front_door.disagreement` for validation users.

    Raises:
        ValueError: more teachers than users, or a copy mechanism, whose scores are not distilled.
        DivergenceError: as `fit`.
    """
    common: dict[str, Any] = {"backbone": backbone, "device": device, "filter_seen": filter_seen}
    student: dict[str, Any] = {
        **common, "groups": groups, "budget": budget, "seed": seed, "store": store, "identity": identity,
        "description": description,
    }  # fmt: skip
    if how.weight == 0:
        return fit(train, validation, objective, **student)
    if backbone.get("copy_window"):
        message = "causald does not distil the scores of a copy mechanism; set model.copy_window=0 or causald.weight=0"
        raise ValueError(message)
    # what decides teachers and predictor, whatever the student makes of them; so they are kept under names of their own
    shared_identity = {
        **{name: value for name, value in (identity or {}).items() if name != "parameters"},
        "sequences": _fingerprint(train, validation),
        "backbone": dict(backbone),
        "budget": {**dataclasses.asdict(budget), "checkpoint_seconds": None},
        "seed": seed,
        "filter_seen": filter_seen,
    }

    def kept(link: str, identity: Mapping[str, Any]) -> CheckpointStore | None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return store.beside(f"causald-{link}-{digest[:16]}") if store else None

    trainings: list[Fitted] = []
    for number, users in enumerate(users_of_teachers(train, how, seed)):
        reference = trainings[0].weights if trainings else None
        of_teacher = {**shared_identity, "teacher": [number, how.teachers, how.n_teachers] if reference else 0}
        trainings.append(
            fit(
                part_of(train, users),
                validation,
                Erm(),
                **common,
                groups=None,
                budget=_teacher_budget(budget, how.n_teachers if reference else 1),
                seed=_seed_of(seed, number, 0, _TEACHER) if reference else seed,
                frozen={name: reference[name] for name in _shared(backbone)} if reference else None,
                store=kept(f"teacher-{number}", of_teacher),
                identity=of_teacher,
                description=f"{description} teacher {number}".strip(),
            )
        )
    teachers = [_model(train.n_items, backbone, fitted.weights, device) for fitted in trainings[-how.n_teachers :]]
    seconds = sum(fitted.seconds for fitted in trainings)
    front_door = FrontDoor(teachers)
    if how.samples:
        what = [how.teachers, how.n_teachers, how.positions, how.predictor_epochs]
        of_predictor = {**shared_identity, "predictor": what}
        place = kept("predictor", of_predictor)
        seconds += _fit_predictor(
            front_door, train, backbone["max_length"], budget, how, seed, device, place, of_predictor
        )

    compared = torch.linspace(0, validation.n_users - 1, min(validation.n_users, _COMPARED_USERS)).long()
    states = torch.stack([encode(model, validation)[compared.to(device)] for model in teachers])
    step_type = partial(DistillationStep, front_door=front_door, how=how, seed=seed)
    fitted = fit(train, validation, objective, **student, step_type=step_type)
    history = fitted.history.assign(
        seconds=fitted.history["seconds"] + seconds,
        teacher_disagreement=disagreement(states, front_door.output_weight),
    )
    return dataclasses.replace(fitted, history=history, seconds=fitted.seconds + seconds, started=trainings[0].started)


def trainer(loss: str, options: Mapping[str, Any]) -> Callable[..., Fitted]:
    """What trains an arm of that loss and takes the arguments of `fit`: `fit` itself, or a chain of trainings.

    Args:
        loss: name of the method.
        options: its own, as in its block of parameters.
    """
    return partial(fit_distilled, how=Distillation(**options)) if loss == "causald" else fit


def users_of_teachers(train: Histories, how: Distillation, seed: int) -> list[np.ndarray]:
    """Places of the users of every training: first the reference, which sees all, then the T teachers.

    Raises:
        ValueError: more teachers than users.
    """
    everyone = np.arange(train.n_users)
    if how.n_teachers > train.n_users:
        message = f"causald.n_teachers={how.n_teachers}, but there are {train.n_users} training users; take fewer"
        raise ValueError(message)
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
    """The training histories of some users (ascending places), with the catalogue of all."""
    inside = np.zeros(sequences.n_users, dtype=bool)
    inside[users] = True
    offsets = np.concatenate([[0], np.cumsum(sequences.lengths[users])]).astype(np.int64)
    return Histories(
        sequences.users[users], sequences.catalogue, sequences.items[inside[sequences.event_users]], offsets
    )


def _shared(backbone: Mapping[str, Any]) -> tuple[str, ...]:
    """What all teachers take from the reference: with one output embedding, the states of any two say the same."""
    if backbone.get("tied_embeddings"):
        return ("item_embedding.weight",)
    return "item_embedding.weight", "output_embedding.weight"


def _teacher_budget(budget: Budget, parts: int) -> Budget:
    """As many passes over a part of the users as the budget has over all, so that T teachers cost what one does."""
    return dataclasses.replace(budget, steps_per_epoch=math.ceil(budget.steps_per_epoch / parts), warm_start_steps=0)


def _model(n_items: int, backbone: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device) -> SASRec:
    model = SASRec(n_items, **backbone)
    model.load_state_dict(weights)
    return model.to(device).eval().requires_grad_(False)


def _fit_predictor(
    front_door: FrontDoor,
    train: Histories,
    max_length: int,
    budget: Budget,
    how: Distillation,
    seed: int,
    device: torch.device,
    store: CheckpointStore | None,
    identity: Mapping[str, Any],
) -> float:
    """Train the predictor and give it to the front door; returns the seconds it took.

    Its checkpoint is written at the end: it is short, and one that was killed starts again.

    Raises:
        DivergenceError: a loss is not finite.
    """
    torch.manual_seed(_seed_of(seed, 0, 0, _PREDICTOR))
    predictor = Predictor(front_door.output_weight.shape[1])
    snapshot = store.load(identity) if store else None
    if snapshot:
        predictor.load_state_dict(snapshot.section("predictor"))
        front_door.predictor = predictor.to(device).requires_grad_(False)
        return float(snapshot.description["seconds"])
    begun = time.monotonic()
    front_door.predictor = predictor.to(device)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=budget.learning_rate, fused=True)
    batches, head = Batches(train, max_length=max_length, device=device), SoftmaxHead()
    stream = UserStream(train.n_users, budget.batch_size, _seed_of(seed, 1, 0, _PREDICTOR))
    for number in tqdm(range(how.predictor_epochs * budget.steps_per_epoch), desc="predictor", unit="step"):
        batch = batches.batch(stream.users(number))
        random = np.random.default_rng((seed, number, 0, _PREDICTOR))
        positions, _ = drawn_positions(batch, how.positions, random)
        teachers = torch.from_numpy(random.integers(how.n_teachers, size=len(positions))).to(device)
        optimizer.zero_grad()
        loss = predictor_loss_gradients(front_door, batch, positions, teachers, head)
        if not math.isfinite(loss):
            message = f"the predictor's loss is not finite in step {number + 1}. Try a smaller train.learning_rate"
            raise DivergenceError(message)
        optimizer.step()
    predictor.requires_grad_(False)
    seconds = time.monotonic() - begun
    if store:
        store.save(Snapshot(sections(predictor=predictor.state_dict()), {"seconds": seconds}), identity)
    return seconds


def _fingerprint(train: Histories, validation: Histories) -> str:
    """SHA-256 of what a training reads of its histories."""
    assert validation.targets is not None  # only evaluation sequences have targets
    arrays = (train.items, train.offsets, validation.items, validation.offsets, validation.targets)
    digest = hashlib.sha256(str(train.n_items).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return digest.hexdigest()


def _seed_of(seed: int, *words: int) -> int:
    return int(np.random.SeedSequence((seed, *words)).generate_state(1)[0])
