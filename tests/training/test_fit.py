"""The training loop: reproducible, resumable after kill -9, and clear about what went wrong."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.metrics.ranking import SeenItems
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.objectives.base import LossBatch, Objective, Population, State
from fairrec_pipeline.objectives.erm import Erm
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.checkpoint import CheckpointStore
from fairrec_pipeline.training.fit import Budget, DivergenceError, Fitted, _Validation, fit, resolve_device
from fairrec_pipeline.training.step import TrainingStep

CPU = torch.device("cpu")
BACKBONE = {
    "dim": 8,
    "feed_forward": 8,
    "blocks": 1,
    "heads": 2,
    "dropout": 0.2,
    "max_length": 6,
    "init_std": 0.1,
}
BUDGET = Budget(epochs=4, steps_per_epoch=3, batch_size=7, learning_rate=0.01, checkpoint_seconds=0.0)
LENGTHS = [2, 3, 9, 4, 5, 1, 7, 6, 3, 2, 8, 4]
GROUPS = np.arange(len(LENGTHS)) % 3
GDRO = ("gdro", {"eta": 0.1, "absent_groups": "keep"})
RSR = {"clusters": 3, "temperature": 0.5, "weight_learning_rate": 0.5}
PROTOTYPES = {"prototype_learning_rate": 0.1, "clustering_weight": 0.05}

World = tuple[Histories, Histories]


@pytest.fixture
def world(make_sequences: Callable[..., Histories]) -> World:
    """Training and validation histories of the same users."""
    train = make_sequences(LENGTHS, n_items=15)
    held_out = make_sequences(LENGTHS, n_items=15, held_out=True)
    return train, dataclasses.replace(train, targets=held_out.targets, repeats=held_out.repeats)


def objective_of(loss: str, options: dict[str, Any], train: Histories, groups: np.ndarray) -> Objective:
    counts = torch.from_numpy(np.maximum(train.item_counts, 1))
    users = torch.from_numpy(np.bincount(groups))
    interactions = torch.from_numpy(np.bincount(groups, weights=train.lengths)).long()
    names = ["a", "b", "c"][: len(users)]
    population = Population(counts, users, interactions, names, n_users=train.n_users, state_dim=BACKBONE["dim"])
    return build_objective(loss, population, options)


def train_arm(
    world: World,
    loss: str = "erm",
    options: dict[str, Any] | None = None,
    *,
    objective: Objective | None = None,
    groups: np.ndarray = GROUPS,
    path: Path | None = None,
    identity: dict[str, Any] | None = None,
    seed: int = 11,
    backbone: Mapping[str, Any] | None = None,
    filter_seen: bool = False,
    **changes: Any,
) -> Fitted:
    """Train a small arm; `changes` are those of the budget."""
    objective = objective or objective_of(loss, options or {}, world[0], groups)
    needs_groups = "dro" in loss or "ipw" in loss
    return fit(
        *world,
        objective,
        groups=groups if needs_groups else None,
        backbone={**BACKBONE, **(backbone or {})},
        budget=dataclasses.replace(BUDGET, **changes),
        seed=seed,
        device=CPU,
        filter_seen=filter_seen,
        store=CheckpointStore(path) if path else None,
        identity=identity,
    )


def assert_bitwise_equal(first: Fitted, second: Fitted) -> None:
    """Weights, history and choice of the epoch; seconds differ."""
    assert first.weights.keys() == second.weights.keys()
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    pd.testing.assert_frame_equal(
        first.history.drop(columns="seconds"), second.history.drop(columns="seconds"), check_exact=True
    )
    assert (first.best_epoch, first.best_ndcg) == (second.best_epoch, second.best_ndcg)
    pd.testing.assert_frame_equal(first.user_weights, second.user_weights, check_exact=True)
    assert first.objective_state.keys() == second.objective_state.keys()
    assert all(torch.equal(value, second.objective_state[name]) for name, value in first.objective_state.items())


def test_two_trainings_are_bitwise_equal(world: World) -> None:
    first = train_arm(world, *GDRO)
    assert_bitwise_equal(first, train_arm(world, *GDRO))
    other_seed = train_arm(world, *GDRO, seed=12)
    assert not torch.equal(first.weights["output_embedding.weight"], other_seed.weights["output_embedding.weight"])


def test_history(world: World) -> None:
    fitted = train_arm(world, *GDRO)
    columns = ["epoch", "loss", "validation_ndcg_at_20", "learning_rate", "seconds"]
    assert fitted.history.columns.tolist() == [*columns, "group_weight_a", "group_weight_b", "group_weight_c"]
    assert fitted.history["epoch"].tolist() == [1, 2, 3, 4]
    assert fitted.history["seconds"].is_monotonic_increasing
    weights = fitted.history[["group_weight_a", "group_weight_b", "group_weight_c"]].sum(axis=1)
    np.testing.assert_allclose(weights, 1, atol=1e-6)
    best = fitted.history["validation_ndcg_at_20"].idxmax()
    assert fitted.best_epoch == fitted.history["epoch"][best]
    assert fitted.best_ndcg == fitted.history["validation_ndcg_at_20"][best]


def test_training_learns(make_sequences: Callable[..., Histories]) -> None:
    """Every user repeats one item of 15: the first target is a guess, of loss ln 15 = 2.7, and all others are known:

    a mean loss of 2.7 / 6 = 0.45 is the best there is; dropout keeps it above that.
    """
    train = make_sequences([6] * 30, n_items=15)
    items = np.repeat(np.arange(30) % 15, 6)
    train = dataclasses.replace(train, items=items)
    validation = dataclasses.replace(train, targets=np.arange(30) % 15, repeats=np.ones(30, dtype=bool))
    fitted = train_arm((train, validation), groups=np.zeros(30, dtype=np.int64), epochs=40, batch_size=30)
    assert fitted.best_ndcg > 0.95
    assert fitted.history["loss"].iloc[-1] < fitted.history["loss"].iloc[0] / 2


class KillsItself(Erm):
    """ERM whose process dies, with no chance to clean up, in the middle of an epoch."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        self.batches -= 1
        if self.batches == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().weights(batch, state)


def train_until_killed(world: World, path: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    train_arm(world, objective=KillsItself(8), path=path)


def test_killed_and_resumed_equals_uninterrupted(world: World, tmp_path: Path) -> None:
    """Killed in the second of three steps of epoch 3; resumed from the checkpoint of epoch 2."""
    path = tmp_path / "checkpoint.safetensors"
    arguments = (world, path, torch.get_num_threads())
    process = multiprocessing.get_context("spawn").Process(target=train_until_killed, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    snapshot = CheckpointStore(path).load({})
    assert snapshot is not None
    assert snapshot.description["progress"]["epoch"] == 2

    whole = train_arm(world, path=tmp_path / "another.safetensors")
    resumed = train_arm(world, path=path)
    assert_bitwise_equal(resumed, whole)


def test_interrupted_and_resumed_with_tied_embeddings_and_copying(world: World, tmp_path: Path) -> None:
    path, backbone = tmp_path / "checkpoint.safetensors", {"tied_embeddings": True, "copy_window": 3}
    with pytest.raises(KeyboardInterrupt):
        train_arm(world, objective=Interrupted(Erm(), 8), path=path, backbone=backbone)
    resumed = train_arm(world, path=path, backbone=backbone)
    assert_bitwise_equal(resumed, train_arm(world, backbone=backbone))
    assert "output_embedding.weight" not in resumed.weights


class Interrupted(Objective):
    """An objective that is stopped, as by Ctrl-C, before its n-th batch."""

    def __init__(self, objective: Objective, batches: int) -> None:
        self.objective, self.batches, self.item_weights = objective, batches, objective.item_weights
        self.balanced_batches, self.share_with_weight = objective.balanced_batches, objective.share_with_weight

    def initial_state(self) -> State:
        return self.objective.initial_state()

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        self.batches -= 1
        if self.batches == 0:
            raise KeyboardInterrupt
        return self.objective.weights(batch, state)

    def history(self, state: State) -> dict[str, float]:
        return self.objective.history(state)


@pytest.mark.parametrize(
    "loss",
    [
        GDRO,
        ("gdro", GDRO[1] | {"balanced_batches": True, "adjustment": 1.0}),
        ("sdro", {"eta": 0.1, "beta": 0.1, "absent_groups": "keep"}),
        ("cvar", {"alpha": 0.3}),
        ("cvar_smooth", {"alpha": 0.3, "h": 0.15}),
        ("arl", {"adversary_learning_rate": 0.1}),
        ("rsr_hard", RSR | {"refresh_steps": 2}),
        ("rsr_soft", RSR | PROTOTYPES),
    ],
    ids=lambda loss: loss[0],
)
def test_stopped_and_continued_equals_uninterrupted(
    world: World, tmp_path: Path, loss: tuple[str, dict[str, Any]]
) -> None:
    """The objective's state and Adam's go on where they were."""
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_arm(world, *loss, path=path, objective=Interrupted(objective_of(*loss, world[0], GROUPS), 8))
    assert_bitwise_equal(train_arm(world, *loss, path=path), train_arm(world, *loss))


def test_a_finished_training_is_not_trained_again(world: World, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    first = train_arm(world, path=path)
    again = train_arm(world, path=path, objective=KillsItself(1))
    assert_bitwise_equal(first, again)
    assert first.seconds == again.seconds
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_checkpoint_of_another_training_is_not_continued(world: World, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    train_arm(world, path=path, identity={"learning_rate": 0.5}, learning_rate=0.5)
    assert_bitwise_equal(train_arm(world, path=path, identity={"learning_rate": 0.01}), train_arm(world))


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "of another program"])
def test_a_damaged_checkpoint_is_named(world: World, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    train_arm(world, path=path)
    content = path.read_bytes()
    if damage == "of another program":
        from safetensors.torch import save_file

        save_file({"x": torch.ones(2)}, path)
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"\x00" * 100, "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is not a checkpoint .* delete it to start afresh"):
        train_arm(world, path=path)


def test_a_half_written_checkpoint_does_not_matter(world: World, tmp_path: Path) -> None:
    """What a process killed while it wrote leaves behind."""
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_arm(world, path=path, objective=Interrupted(Erm(), 8))
    path.with_name("checkpoint.safetensors.1.partial").write_bytes(b"half of")
    assert_bitwise_equal(train_arm(world, path=path), train_arm(world))


class Explodes(Erm):
    """ERM whose weights become infinite in one batch: the loss of the next one is not a number."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        self.batches -= 1
        weights, state = super().weights(batch, state)
        return (weights * float("inf") if self.batches == 0 else weights), state


def test_divergence_names_step_and_users_and_keeps_the_checkpoint(world: World, tmp_path: Path) -> None:
    """Weights explode in the first of three steps of epoch 2, the fourth step in all; the fifth shows it."""
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(
        DivergenceError,
        match=r"not finite in epoch 2, step 5, for users \[1\d\d, .*\.\.\.\]?.*The last good checkpoint",
    ):
        train_arm(world, path=path, objective=Explodes(4))
    snapshot = CheckpointStore(path).load({})
    assert snapshot is not None
    assert snapshot.description["progress"]["epoch"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in snapshot.tensors.values())
    assert_bitwise_equal(train_arm(world, path=path), train_arm(world))


def test_a_learning_rate_that_diverges(world: World) -> None:
    with pytest.raises(DivergenceError, match=r"Try a smaller train.learning_rate"):
        train_arm(world, learning_rate=1e12, steps_per_epoch=20)


@pytest.mark.parametrize("patience", [1, 2])
def test_early_stopping(world: World, monkeypatch: pytest.MonkeyPatch, patience: int) -> None:
    """Validation NDCG .1, .3, .2, .3, ...: epoch 2 is the best (a tie is no progress), and patience counts from it."""

    def train_with_scores(**changes: Any) -> Fitted:
        scores = iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.2])
        monkeypatch.setattr("fairrec_pipeline.training.fit.ndcg", lambda _ranks, _k: np.array([next(scores)]))
        return train_arm(world, **changes)

    stopped, shorter = train_with_scores(epochs=6, patience=patience), train_with_scores(epochs=2)
    assert stopped.best_epoch == shorter.best_epoch == 2
    assert len(stopped.history) == 2 + patience
    assert all(torch.equal(stopped.weights[name], shorter.weights[name]) for name in stopped.weights)


ONE_GROUP = np.zeros(len(LENGTHS), dtype=np.int64)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        pytest.param("cvar", {"alpha": 1.0}, id="cvar alpha 1"),
        pytest.param("gdro", {"eta": 0.1, "absent_groups": "keep"}, id="gdro one group"),
        pytest.param("sdro", {"eta": 0.1, "beta": 0.1, "absent_groups": "decay"}, id="sdro one group"),
        pytest.param("ipw", {"count": "users"}, id="ipw one group"),
        pytest.param("gdro", GDRO[1] | {"adjustment": 3.0, "balanced_batches": True}, id="gdro one group, adjusted"),
        pytest.param(
            "sdro", {"eta": 0.1, "beta": 0.1, "absent_groups": "keep", "adjustment": 3.0}, id="sdro one group, adjusted"
        ),
        pytest.param("cvar_doro", {"alpha": 1.0, "eps": 0.0}, id="cvar_doro alpha 1, eps 0"),
        pytest.param("cvar_smooth", {"alpha": 1.0, "h": 0.15}, id="cvar_smooth alpha 1"),
        pytest.param("chi2", {"alpha": 1.0}, id="chi2 alpha 1"),
        pytest.param("kl", {"tau": 1e9}, id="kl tau to infinity"),
        pytest.param("rsr_hard", RSR | {"clusters": 1, "refresh_steps": 2}, id="rsr_hard one cluster"),
        pytest.param("rsr_soft", RSR | PROTOTYPES | {"clusters": 1}, id="rsr_soft one cluster"),
        pytest.param("rsr_hard", RSR | {"temperature": 1e9, "refresh_steps": 2}, id="rsr_hard tau to infinity"),
        pytest.param("rsr_soft", RSR | PROTOTYPES | {"temperature": 1e9}, id="rsr_soft tau to infinity"),
    ],
)
def test_limit_cases_are_erm(world: World, loss: str, options: dict[str, Any]) -> None:
    """To float precision, over a whole training: their weights are 1 / B.

    But for the bias of the keys, whose gradient is 0 but for rounding: Adam makes steps out of the rounding.
    """
    erm, limit = train_arm(world), train_arm(world, loss, options, groups=ONE_GROUP)
    dim = BACKBONE["dim"]
    for weights in (erm.weights, limit.weights):
        q, _, v = weights["blocks.0.qkv.bias"].split(dim)
        weights["blocks.0.qkv.bias"] = torch.cat((q, v))
    torch.testing.assert_close(limit.weights, erm.weights, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(limit.history["loss"], erm.history["loss"], rtol=1e-5)


def test_cvar_doro_without_outliers_is_cvar(world: World) -> None:
    cvar, doro = train_arm(world, "cvar", {"alpha": 0.4}), train_arm(world, "cvar_doro", {"alpha": 0.4, "eps": 0.0})
    assert_bitwise_equal(doro, cvar)


@pytest.mark.parametrize("copy_window", [0, 3])
@pytest.mark.parametrize("filter_seen", [False, True])
def test_validation_finds_once_what_does_not_change(
    world: World, filter_seen: bool, copy_window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen items and cut histories, in four epochs; what comes out is what finding them anew would give."""
    found: list[str] = []

    def noting(kind: type, method: str) -> None:
        original = getattr(kind, method)

        def noted(*arguments: Any) -> Any:
            found.append(kind.__name__)
            return original(*arguments)

        monkeypatch.setattr(kind, method, noted)

    noting(SeenItems, "__init__")
    noting(Batches, "in_order")
    arm = {"backbone": {"copy_window": copy_window}, "filter_seen": filter_seen}
    once = train_arm(world, **arm)
    assert sorted(found) == ["Batches", *(["SeenItems"] if filter_seen else [])]
    for name in ("_histories", "_seen"):
        monkeypatch.setattr(_Validation, name, property(getattr(_Validation, name).func))
    anew = train_arm(world, **arm)
    assert len(found) == 5 * (1 + filter_seen)
    assert_bitwise_equal(once, anew)


@pytest.mark.parametrize("asked", ["auto", "cpu", "cuda"])
@pytest.mark.parametrize("there", [False, True])
def test_cuda_is_set_up_where_it_is_used(asked: str, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No attention of cuDNN's and no sums in bfloat16; nothing is changed for the CPU."""
    cuda, used = torch.backends.cuda, there and asked != "cpu"
    before = cuda.cudnn_sdp_enabled(), cuda.matmul.allow_bf16_reduced_precision_reduction
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    try:
        cuda.enable_cudnn_sdp(True)
        cuda.matmul.allow_bf16_reduced_precision_reduction = True
        if asked == "cuda" and not there:
            with pytest.raises(ValueError, match="sees no CUDA device"):
                resolve_device(asked)
            return
        assert resolve_device(asked).type == ("cuda" if used else "cpu")
        assert cuda.cudnn_sdp_enabled() is not used
        assert cuda.matmul.allow_bf16_reduced_precision_reduction is not used
    finally:
        cuda.enable_cudnn_sdp(before[0])
        cuda.matmul.allow_bf16_reduced_precision_reduction = before[1]


def test_balanced_batches_are_drawn(world: World) -> None:
    """Groups of 8, 3 and 1 users, 84 draws in all: 28 of each group, and so 28 of the one user of the last."""
    groups = np.array([0] * 8 + [1] * 3 + [2])
    options = GDRO[1] | {"balanced_batches": True}
    drawn = train_arm(world, "gdro", options, groups=groups).user_weights.groupby("user")["drawn"].sum()
    assert np.bincount(groups, weights=drawn).tolist() == [28, 28, 28]


def test_ipw_of_equal_groups_is_proportional_to_erm(world: World) -> None:
    """Three groups of four users each: w = 12 / 4 = 3, so every gradient is three times that of ERM."""
    train = world[0]
    gradients = {}
    for loss in ("erm", "ipw"):
        torch.manual_seed(0)
        model = SASRec(train.n_items, **BACKBONE).eval()
        objective = objective_of(loss, {"count": "users"} if loss == "ipw" else {}, train, GROUPS)
        groups = torch.from_numpy(GROUPS) if loss == "ipw" else None
        step = TrainingStep(model, torch.optim.Adam(model.parameters()), objective, groups)
        step.backward(Batches(train, max_length=6, device=CPU).batch(torch.arange(12)), {})
        gradients[loss] = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, gradient in gradients["erm"].items():
        torch.testing.assert_close(gradients["ipw"][name], 3 * gradient, rtol=1e-5, atol=1e-7)
