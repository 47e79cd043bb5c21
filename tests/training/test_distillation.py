"""Causal distillation: target, gradients, its controls, and a chain of trainings that may be killed anywhere."""

from __future__ import annotations

import dataclasses
import itertools
import math
import multiprocessing
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.objectives.base import LossBatch, State
from fairrec_pipeline.objectives.erm import Erm
from fairrec_pipeline.parameters.methods import METHODS, Causald
from fairrec_pipeline.training.batches import Batch, Batches
from fairrec_pipeline.training.checkpoint import Checkpoint, Snapshot
from fairrec_pipeline.training.distillation import causald, front_door
from fairrec_pipeline.training.distillation.causald import DistillationStep, fit_distilled, part_of, users_of_teachers
from fairrec_pipeline.training.distillation.front_door import (
    FrontDoor,
    Predictor,
    disagreement,
    drawn_positions,
    predictor_loss_gradients,
)
from fairrec_pipeline.training.divergence import DivergenceError
from fairrec_pipeline.training.fit import Fitted, TrainingData, fit
from fairrec_pipeline.training.step import TrainingStep
from tests.worlds import assert_same_fit, random_histories, saved_snapshot, small_model, spec_of

CPU = torch.device("cpu")
LENGTHS = [2, 3, 9, 4, 5, 1, 7, 6, 3, 2, 8, 4]
HOW = Causald(
    weight=0.4, temperature=2.0, teachers="activity", n_teachers=3, samples=2, positions=2, predictor_epochs=1
)
TABLES = ("item_embedding.weight", "output_embedding.weight")
MODEL = {"heads": 2, "dropout": 0.2, "max_length": 6, "init_std": 0.1}
TRAIN = {"epochs": 3, "steps_per_epoch": 4, "batch_size": 7}


@pytest.fixture
def batch() -> Batch:
    """All users of a training; the longest are cut at 12 tokens."""
    train = random_histories([1, 2, 5, 14, 9])
    return Batches(train, max_length=12, device=CPU).batch(torch.arange(5))


@pytest.fixture
def teachers() -> list[SASRec]:
    """Three models that differ in their blocks and positions, not in their items."""
    models = [small_model().eval().requires_grad_(False) for _ in range(3)]
    generator = torch.Generator().manual_seed(0)
    for model in models:
        for name, parameter in model.named_parameters():
            if name not in TABLES:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return models


@pytest.fixture
def predictor() -> Predictor:
    """One that corrects something."""
    torch.manual_seed(1)
    predictor = Predictor(16).double()
    with torch.no_grad():
        predictor.contract.weight.normal_()
    return predictor.requires_grad_(False)


def train_student(
    world: TrainingData,
    *,
    checkpoint: Path | Checkpoint | None = None,
    objective: Erm | None = None,
    seed: int = 11,
    model: dict[str, Any] | None = None,
    **changes: Any,
) -> Fitted:
    """Train a small chain; `changes` are those of `HOW`."""
    options = {**HOW.model_dump(), **changes}
    spec = spec_of("causald", options, model={**MODEL, **(model or {})}, train=TRAIN, seed=seed)
    if isinstance(checkpoint, Path):
        checkpoint = Checkpoint(checkpoint, {"parameters": options})
    return fit_distilled(spec, world, objective or Erm(), checkpoint)


def train_erm(world: TrainingData) -> Fitted:
    return fit(spec_of(model=MODEL, train=TRAIN, seed=11), world, Erm())


# --- the target -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_target_is_the_mean_over_teachers_and_histories(
    teachers: list[SASRec], predictor: Predictor, batch: Batch, temperature: float
) -> None:
    """One softmax after the other, each from its own logits."""
    door = FrontDoor(teachers, predictor)
    others = torch.tensor([[0, 3], [5, 5], [2, 7], [4, 0]])
    rows = torch.tensor([1, 6, 6, 9])
    mediators, histories = door.mediators(batch), door.histories(batch)
    target = door.target(mediators[:, rows], histories[others], temperature)
    for row, (position, contexts) in enumerate(zip(rows, others, strict=True)):
        softmaxes = [
            torch.softmax(
                teachers[0].output_table
                @ predictor(model(batch.tokens, batch.positions, batch.layout)[position], histories[other])
                / temperature,
                dim=0,
            )
            for model in teachers
            for other in contexts
        ]
        assert len(softmaxes) == 6
        torch.testing.assert_close(target[row], sum(softmaxes) / 6, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(target.sum(1), torch.ones(4, dtype=torch.float64))
    assert (target >= 0).all()


def test_without_samples_the_target_is_that_of_several_teachers(
    teachers: list[SASRec], predictor: Predictor, batch: Batch
) -> None:
    """J = 0: mean softmax of the teachers; T = 1 besides: that of the teacher. The predictor does not matter."""
    door = FrontDoor(teachers, predictor)
    mediators, none = door.mediators(batch), torch.zeros(len(batch.tokens), 0, 16, dtype=torch.float64)
    scores = [model(batch.tokens, batch.positions, batch.layout) @ model.output_table.T for model in teachers]
    softmaxes = torch.stack([torch.softmax(score, dim=1) for score in scores])
    torch.testing.assert_close(door.target(mediators, none), softmaxes.mean(0), rtol=1e-12, atol=1e-15)
    alone = FrontDoor(teachers[1:2], predictor)
    torch.testing.assert_close(alone.target(alone.mediators(batch), none), softmaxes[1], rtol=1e-12, atol=1e-15)


def test_an_untrained_predictor_says_what_the_teachers_say(teachers: list[SASRec], batch: Batch) -> None:
    plain, door = FrontDoor(teachers), FrontDoor(teachers, Predictor(16).double())
    mediators, histories = door.mediators(batch), door.histories(batch)[:, None]
    torch.testing.assert_close(door.target(mediators, histories), plain.target(mediators, histories[:, :0]))


def test_a_history_is_the_mean_of_its_items(teachers: list[SASRec], batch: Batch) -> None:
    histories = FrontDoor(teachers).histories(batch)
    starts = (batch.ends - batch.lengths + 1).tolist()
    for position, row in enumerate(batch.rows.tolist()):
        expected = teachers[0].item_embedding(batch.tokens[starts[row] : position + 1]).mean(0)
        torch.testing.assert_close(histories[position], expected, rtol=1e-12, atol=1e-12)


def test_disagreement_in_closed_form() -> None:
    """Two sure teachers that name different items: ln 2. Two that agree: 0. Half of the positions each: ln 2 / 2."""
    sure = 100 * torch.eye(3)
    apart, alike = torch.stack([sure[:1], sure[1:2]]), torch.stack([sure[:1], sure[:1]])
    assert disagreement(apart, torch.eye(3)) == pytest.approx(math.log(2), rel=1e-6)
    assert disagreement(alike, torch.eye(3)) == pytest.approx(0, abs=1e-6)
    assert disagreement(torch.cat((apart, alike), dim=1), torch.eye(3)) == pytest.approx(math.log(2) / 2, rel=1e-6)


def test_disagreement_is_the_mean_divergence_from_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jensen-Shannon: mean over teachers of KL(p_t || mean); walked two positions at a time."""
    torch.manual_seed(0)
    states, weight = torch.randn(3, 5, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    p = torch.softmax(states @ weight.T, dim=2)
    expected = (p * (p / p.mean(0)).log()).sum(2).mean()
    monkeypatch.setattr(front_door, "LOGITS_AT_ONCE", 14)
    assert disagreement(states, weight) == pytest.approx(float(expected), rel=1e-12)


def test_drawn_positions_belong_to_their_user_and_stand_for_all_of_its_positions(batch: Batch) -> None:
    positions, standing_for = drawn_positions(batch, 4, np.random.default_rng(0))
    rows = batch.rows[positions]
    assert rows.tolist() == sorted(4 * list(range(5)))
    by_user = torch.zeros(5, dtype=torch.float64).index_add_(0, rows, standing_for.double())
    torch.testing.assert_close(by_user, batch.lengths.double())
    everything, ones = drawn_positions(batch, None, np.random.default_rng(0))
    assert everything.tolist() == list(range(len(batch.tokens)))
    assert ones.eq(1).all()


def test_drawn_positions_estimate_the_mean_over_all(batch: Batch) -> None:
    """Of 20,000 draws a user, those of the longest (12 positions) hit each in 1 of 12, to 4 standard deviations."""
    positions, _ = drawn_positions(batch, 20_000, np.random.default_rng(0))
    counts = torch.bincount(positions)[:12].double() / 20_000
    assert batch.lengths[0] == 12
    torch.testing.assert_close(counts, torch.full_like(counts, 1 / 12), rtol=0, atol=4 * (1 / 12 / 20_000) ** 0.5)


# --- gradients ------------------------------------------------------------------------------------------------------


def distillation_step(model: SASRec, door: FrontDoor, **changes: Any) -> DistillationStep:
    warm_start_steps = changes.pop("warm_start_steps", 0)
    how = HOW.model_copy(update=changes)
    optimizer = torch.optim.Adam(model.parameters())
    return DistillationStep(
        model, optimizer, Erm(), None, front_door=door, how=how, seed=5, warm_start_steps=warm_start_steps
    )


@pytest.mark.parametrize("weight", [0.4, 1.0])
def test_gradients_of_the_students_loss(
    teachers: list[SASRec],
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
    weight: float,
) -> None:
    """(1 - weight) CE + weight tau^2 KL, mean over positions and then users, against autograd on all logits."""
    monkeypatch.setattr(causald, "LOGITS_AT_ONCE", 5 * 37)  # five positions at a time
    student, oracle = small_model(), small_model()
    distillation_step(student, FrontDoor(teachers), weight=weight, samples=0, positions=None).backward(batch, {})

    logits = oracle(batch.tokens, batch.positions, batch.layout) @ oracle.output_table.T
    target = torch.stack(
        [
            torch.softmax(model(batch.tokens, batch.positions, batch.layout) @ model.output_table.T / 2, 1)
            for model in teachers
        ]
    ).mean(0)
    divergence = (target * (target.log() - torch.log_softmax(logits / 2, 1))).sum(1)
    by_position = (1 - weight) * functional.cross_entropy(logits, batch.targets, reduction="none")
    by_position = by_position + weight * 2**2 * divergence
    sum(by_position[batch.rows == user].mean() / 5 for user in range(5)).backward()
    for (name, mine), theirs in zip(student.named_parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_gradients_of_drawn_positions_and_histories(
    teachers: list[SASRec],
    predictor: Predictor,
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The taught part alone, with one position drawn twice, against autograd on the logits."""
    monkeypatch.setattr(causald, "LOGITS_AT_ONCE", 2 * 37)
    door, model = FrontDoor(teachers, predictor), small_model()
    states = model(batch.tokens, batch.positions, batch.layout).detach().requires_grad_()
    weight = model.output_table.detach().clone().requires_grad_()
    assert batch.targets is not None
    losses = SoftmaxHead().losses(states.detach(), weight.detach(), batch.targets)
    positions, others = torch.tensor([3, 8, 3]), torch.tensor([[0, 4], [2, 2], [7, 1]])
    factors = torch.tensor([0.5, 0.2, 0.1], dtype=torch.float64)
    mine = distillation_step(model, door).distillation_gradients(batch, losses, positions, others, factors)

    mediators, histories = door.mediators(batch), door.histories(batch)
    target = torch.stack(
        [door.target(mediators[:, [p]], histories[o][None], 2.0)[0] for p, o in zip(positions, others, strict=True)]
    )
    divergence = (target * (target.log() - torch.log_softmax(states[positions] @ weight.T / 2, 1))).sum(1)
    theirs = torch.autograd.grad((0.4 * 2**2 * factors * divergence).sum(), [states, weight])
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("changes", [{"weight": 0.0}, {"weight": 0.7, "warm_start_steps": 3}])
def test_without_weight_and_in_the_warm_start_the_step_is_that_of_erm(
    teachers: list[SASRec], predictor: Predictor, batch: Batch, changes: dict[str, Any]
) -> None:
    """Bit for bit, dropout included; step 2 is the last of a warm start of 3, and step 3 differs."""
    gradients = []
    for distilled in (False, True):
        model = small_model(dropout=0.3)
        model.mask_source = MaskSource(1)
        optimizer = torch.optim.Adam(model.parameters())
        door = FrontDoor(teachers, predictor)
        step = distillation_step(model, door, **changes) if distilled else TrainingStep(model, optimizer, Erm(), None)
        of_steps = []
        for number in (2, 3):
            step.backward(batch, {}, number)
            of_steps.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        # ERM's random numbers are where they were, whatever the method draws
        of_steps.append({"mask": model.mask_source.dropout(torch.ones(99), 0.5)})
        gradients.append(of_steps)
    erm, causald = gradients
    assert all(torch.equal(erm[0][name], causald[0][name]) for name in erm[0])
    same = [torch.equal(erm[1][name], causald[1][name]) for name in erm[1]]
    assert all(same) if changes["weight"] == 0 else not any(same)
    assert torch.equal(erm[2]["mask"], causald[2]["mask"])


def test_gradients_of_the_predictor(teachers: list[SASRec], predictor: Predictor, batch: Batch) -> None:
    """Mean cross-entropy where mediator and history belong together, against autograd on all logits."""
    door = FrontDoor(teachers, predictor.requires_grad_())
    positions, chosen = torch.tensor([1, 4, 4, 9]), torch.tensor([2, 0, 1, 0])
    loss = predictor_loss_gradients(door, batch, positions, chosen, SoftmaxHead(chunk=10))
    mine = [parameter.grad.clone() for parameter in predictor.parameters()]
    states = predictor(door.mediators(batch)[chosen, positions], door.histories(batch)[positions])
    expected = functional.cross_entropy(states @ door.output_weight.T, batch.targets[positions])
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(mine, list(torch.autograd.grad(expected, predictor.parameters())), rtol=1e-9, atol=1e-12)


# --- teachers -------------------------------------------------------------------------------------------------------


def test_teachers_by_activity_cut_the_users_by_length() -> None:
    train = random_histories(LENGTHS)
    everyone, *parts = users_of_teachers(train, HOW, seed=0)
    assert everyone.tolist() == list(range(12))
    # by length 1 2 2 3 | 3 4 4 5 | 6 7 8 9; ties in the order of the users
    assert [part.tolist() for part in parts] == [[0, 1, 5, 9], [3, 4, 8, 11], [2, 6, 7, 10]]


def test_teachers_by_chance_and_by_seed_are_controls() -> None:
    train = random_histories(LENGTHS)
    _, *parts = users_of_teachers(train, HOW.model_copy(update={"teachers": "random"}), seed=0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(12))
    assert [len(part) for part in parts] == [4, 4, 4]
    _, *others = users_of_teachers(train, HOW.model_copy(update={"teachers": "random"}), seed=1)
    assert any(a.tolist() != b.tolist() for a, b in zip(parts, others, strict=True))
    _, *same = users_of_teachers(train, HOW.model_copy(update={"teachers": "seeds"}), seed=0)
    assert [part.tolist() for part in same] == [list(range(12))] * 3
    assert len(users_of_teachers(train, HOW.model_copy(update={"n_teachers": 1}), seed=0)) == 1
    with pytest.raises(ValueError, match=r"n_teachers=13, but there are 12 training users"):
        users_of_teachers(train, HOW.model_copy(update={"n_teachers": 13}), seed=0)


def test_part_of_the_histories() -> None:
    train = random_histories(LENGTHS)
    part = part_of(train, np.array([2, 5, 9]))
    assert part.users.tolist() == [102, 105, 109]
    assert part.n_items == train.n_items
    for index, user in enumerate([2, 5, 9]):
        mine = part.items[part.offsets[index] : part.offsets[index + 1]]
        assert mine.tolist() == train.items[train.offsets[user] : train.offsets[user + 1]].tolist()


def snapshot_of(folder: Path, link: str) -> Snapshot:
    """What the one checkpoint of a link of the chain holds."""
    (path,) = folder.glob(f"causald-{link}-*.safetensors")
    return saved_snapshot(path)


def links_in(folder: Path) -> list[str]:
    """Checkpoints without the hashes of their identities."""
    return sorted(re.sub("-[0-9a-f]{16}$", "", file.stem) for file in folder.iterdir())


def test_teachers_share_the_items_of_the_reference_and_differ_elsewhere(world: TrainingData, tmp_path: Path) -> None:
    """The reference is ERM itself. A teacher trains everything but the two embeddings of the items."""
    path = tmp_path / "checkpoint.safetensors"
    train_student(world, checkpoint=path, teachers="seeds")
    reference, *teachers = (snapshot_of(tmp_path, f"teacher-{number}").section("best") for number in range(4))
    erm = train_erm(world)
    assert all(torch.equal(reference[name], erm.weights[name]) for name in erm.weights)
    for teacher in teachers:
        for name in reference:
            assert torch.equal(teacher[name], reference[name]) == (name in TABLES), name
    assert not torch.equal(teachers[0]["blocks.0.qkv.weight"], teachers[1]["blocks.0.qkv.weight"])


def test_the_predictor_learns() -> None:
    """All next items of a user are one item, which the mean of the history tells and an untrained teacher does not:

    from about ln 15 = 2.7 nats to below half of it.
    """
    train = random_histories([8] * 30, n_items=15)
    train = dataclasses.replace(train, items=np.repeat(np.arange(30) % 15, 8))
    targeted = dataclasses.replace(train, targets=np.arange(30) % 15)
    torch.manual_seed(0)
    spec = spec_of(
        "causald",
        {"n_teachers": 1, "predictor_epochs": 1, "positions": None},
        model={**MODEL, "max_length": 8},
        train={"steps_per_epoch": 300, "batch_size": 30},
    )
    teacher = SASRec(15, **vars(spec.model)).eval().requires_grad_(False)
    torch.nn.init.orthogonal_(teacher.output_table)
    door = FrontDoor([teacher], Predictor(8))
    batch = Batches(train, max_length=8, device=CPU).batch(torch.arange(30))
    everywhere = torch.arange(len(batch.tokens))
    first = torch.zeros_like(everywhere)
    before = predictor_loss_gradients(door, batch, everywhere, first, SoftmaxHead())
    causald._Chain(spec, TrainingData(train, targeted, None), None).fit_predictor(door)
    door.predictor.requires_grad_()
    after = predictor_loss_gradients(door, batch, everywhere, first, SoftmaxHead())
    assert before > 2
    assert after < before / 2


def test_a_predictor_that_diverges_is_told(world: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causald, "predictor_loss_gradients", lambda *_: float("nan"))
    with pytest.raises(DivergenceError, match=r"predictor's loss is not finite in step 1"):
        train_student(world)


# --- the chain ------------------------------------------------------------------------------------------------------


def test_without_weight_it_is_erm_bit_for_bit(world: TrainingData, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    assert_same_fit(train_student(world, weight=0.0, checkpoint=path), train_erm(world))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_the_student_is_all_there_is_at_inference(world: TrainingData) -> None:
    """Parameters of SASRec alone; the same users as ERM, and another model."""
    student, erm = train_student(world), train_erm(world)
    assert student.weights.keys() == SASRec(15, **vars(spec_of(model=MODEL).model)).state_dict().keys()
    pd.testing.assert_frame_equal(student.user_weights, erm.user_weights)
    assert not torch.equal(student.weights["output_embedding.weight"], erm.weights["output_embedding.weight"])


def test_two_chains_are_bitwise_equal_and_the_seed_matters(world: TrainingData) -> None:
    first = train_student(world)
    assert_same_fit(first, train_student(world))
    other = train_student(world, seed=12)
    assert not torch.equal(first.weights["output_embedding.weight"], other.weights["output_embedding.weight"])


def test_with_tied_embeddings_the_teachers_share_the_one_table(world: TrainingData, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    student = train_student(world, checkpoint=path, model={"tied_embeddings": True})
    assert "output_embedding.weight" not in student.weights
    tables = [saved_snapshot(file).section("best")["item_embedding.weight"] for file in tmp_path.glob("*teacher*")]
    assert len(tables) > 1
    assert all(torch.equal(table, tables[0]) for table in tables)
    assert not torch.equal(student.weights["item_embedding.weight"], tables[0])


def test_every_control_is_another_training(world: TrainingData) -> None:
    """J = 0, T = 1, and teachers that differ by chance or by seed."""
    controls = [{}, {"samples": 0}, {"n_teachers": 1}, {"teachers": "random"}, {"teachers": "seeds"}]
    weights = [train_student(world, **changes).weights["output_embedding.weight"] for changes in controls]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(weights, 2))


def test_history_and_seconds_are_those_of_the_whole_chain(world: TrainingData, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    student = train_student(world, checkpoint=path)
    disagreements = student.history["teacher_disagreement"].unique()
    assert len(disagreements) == 1
    assert 0 < disagreements[0] < math.log(3)
    teachers = [snapshot_of(tmp_path, f"teacher-{number}").description["progress"] for number in range(4)]
    predictor = snapshot_of(tmp_path, "predictor").description
    before = sum(progress["seconds"] for progress in teachers) + predictor["seconds"]
    last = saved_snapshot(path).description["progress"]["seconds"]
    assert student.seconds == pytest.approx(before + last)
    assert student.history["seconds"].iloc[-1] == pytest.approx(before + last)
    assert student.started == teachers[0]["started"]
    assert train_student(world, n_teachers=1).history["teacher_disagreement"].iloc[0] == pytest.approx(0, abs=1e-6)


class Counts(Erm):
    """ERM that can stop its process at the n-th batch: with no chance to clean up, or as by Ctrl-C."""

    left: int | None = None
    kills = False

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        if Counts.left is not None:
            Counts.left -= 1
            if Counts.left < 0:
                if self.kills:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise KeyboardInterrupt
        return super().weights(batch, state)


class Kills(Counts):
    kills = True


def train_until_killed(world: TrainingData, path: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    causald.Erm = Kills  # type: ignore[misc]
    Counts.left = 15
    train_student(world, checkpoint=path)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The teachers count their batches."""
    monkeypatch.setattr(causald, "Erm", Counts)
    yield
    Counts.left = None


@pytest.mark.usefixtures("counted")
def test_a_chain_that_is_killed_goes_on_where_it_was(world: TrainingData, tmp_path: Path) -> None:
    """12 batches make the reference (3 epochs of 4) and 6 each a teacher (3 epochs of ceil(4 / 3) = 2).

    Killed in teacher 1, after 15 batches; stopped in teacher 3 after 12 more; then in the student, batch 7 of 12.
    """
    path = tmp_path / "checkpoint.safetensors"
    process = multiprocessing.get_context("spawn").Process(
        target=train_until_killed, args=(world, path, torch.get_num_threads())
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert links_in(tmp_path) == ["causald-teacher-0", "causald-teacher-1"]

    Counts.left = 12  # teacher 1 has one epoch of three behind it: 4 batches are left of it, then 6 and 2
    with pytest.raises(KeyboardInterrupt):
        train_student(world, checkpoint=path)
    assert links_in(tmp_path) == [f"causald-teacher-{number}" for number in range(4)]
    Counts.left = 4 + 6
    with pytest.raises(KeyboardInterrupt):
        train_student(world, checkpoint=path, objective=Counts())
    assert path.exists()

    Counts.left = 12 - 4  # one epoch of the student is behind it; no batch of a teacher is left
    resumed = train_student(world, checkpoint=path, objective=Counts())
    assert Counts.left == 0
    Counts.left = None
    assert_same_fit(resumed, train_student(world, checkpoint=tmp_path / "other" / "checkpoint.safetensors"))


@pytest.mark.usefixtures("counted")
def test_the_points_of_a_grid_share_their_teachers(world: TrainingData, tmp_path: Path) -> None:
    """Another weight and other samples: not one batch of a teacher; other teachers: theirs, but not the reference."""
    train_student(world, checkpoint=tmp_path / "weight=0.4.safetensors")
    Counts.left = 0
    second = train_student(world, checkpoint=tmp_path / "weight=0.9.safetensors", weight=0.9, samples=1)
    Counts.left = 3 * 6
    train_student(world, checkpoint=tmp_path / "seeds.safetensors", teachers="seeds")
    assert Counts.left == 0
    Counts.left = None
    assert_same_fit(second, train_student(world, weight=0.9, samples=1))
    assert links_in(tmp_path) == [
        *["causald-predictor"] * 2,
        "causald-teacher-0",
        *(f"causald-teacher-{number}" for number in (1, 1, 2, 2, 3, 3)),
        "seeds",
        "weight=0.4",
        "weight=0.9",
    ]


@pytest.mark.usefixtures("counted")
def test_teachers_of_other_histories_are_not_taken(world: TrainingData, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    train_student(world, checkpoint=path)
    items = world.train.items.copy()
    items[0] = (items[0] + 1) % 15
    changed = dataclasses.replace(world, train=dataclasses.replace(world.train, items=items))
    Counts.left = 12 + 3 * 6
    train_student(changed, checkpoint=path, samples=1)
    assert Counts.left == 0


def test_a_student_copies_like_any_model(world: TrainingData) -> None:
    """Its copy mechanism is fitted in every epoch; it is kept as of the best."""
    student = train_student(world, model={"copy_window": 3})
    fitted = student.history.set_index("epoch").filter(like="own_item_")
    assert (fitted.abs().max(axis=1) > 0).all()
    assert student.weights["copy.weights"].tolist() == fitted.loc[student.best_epoch].tolist()


def test_the_table_of_methods_names_the_trainer() -> None:
    assert resolve_name(f"fairrec_pipeline.{METHODS['causald'].trainer}") is fit_distilled
    assert {loss for loss, method in METHODS.items() if method.trainer != "training.fit:fit"} == {"causald"}
    assert resolve_name(f"fairrec_pipeline.{METHODS['erm'].trainer}") is fit
