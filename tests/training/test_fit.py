"""The training loop: reproducible, resumable after kill -9, and clear about what went wrong."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fairrec_pipeline.metrics.ranking import SeenItems
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives.base import LossBatch, Objective, State
from fairrec_pipeline.objectives.erm import Erm
from fairrec_pipeline.parameters.methods import METHODS
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.checkpoint import Checkpoint, CheckpointError
from fairrec_pipeline.training.divergence import DivergenceError
from fairrec_pipeline.training.fit import Fitted, TrainingData, fit, resolve_device
from fairrec_pipeline.training.step import TrainingStep
from fairrec_pipeline.training.validation import Validation
from tests.worlds import OPTIONS, assert_same_fit, objective_of, random_histories, saved_snapshot, spec_of

CPU = torch.device("cpu")
MODEL = {"heads": 2, "dropout": 0.2, "max_length": 6, "init_std": 0.1}
TRAIN = {"epochs": 4, "batch_size": 7}
GROUPS = np.arange(12) % 3


def train_arm(
    world: TrainingData,
    loss: str = "erm",
    options: Mapping[str, Any] | None = None,
    *,
    objective: Objective | None = None,
    groups: np.ndarray = GROUPS,
    path: Path | None = None,
    identity: dict[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    seed: int = 11,
    filter_seen: bool = False,
    **changes: Any,
) -> Fitted:
    """Train a small arm; `changes` are those of the budget."""
    needs_groups = METHODS[loss].needs_groups
    spec = spec_of(
        f"{loss}-pop33" if needs_groups else loss,
        options,
        model={**MODEL, **(model or {})},
        train={**TRAIN, **changes},
        seed=seed,
        filter_seen=filter_seen,
    )
    objective = objective or objective_of(loss, world.train, options, groups=groups, state_dim=spec.model.dim)
    data = dataclasses.replace(world, groups=groups if needs_groups else None)
    return fit(spec, data, objective, Checkpoint(path, identity or {}) if path else None)


def test_two_trainings_are_bitwise_equal(world: TrainingData) -> None:
    first = train_arm(world, "gdro")
    assert_same_fit(first, train_arm(world, "gdro"))
    other_seed = train_arm(world, "gdro", seed=12)
    assert not torch.equal(first.weights["output_embedding.weight"], other_seed.weights["output_embedding.weight"])


def test_history(world: TrainingData) -> None:
    fitted = train_arm(world, "gdro")
    columns = ["epoch", "loss", "validation_ndcg_at_20", "learning_rate", "seconds"]
    assert fitted.history.columns.tolist() == [*columns, "group_weight_a", "group_weight_b", "group_weight_c"]
    assert fitted.history["epoch"].tolist() == [1, 2, 3, 4]
    assert fitted.history["seconds"].is_monotonic_increasing
    weights = fitted.history[["group_weight_a", "group_weight_b", "group_weight_c"]].sum(axis=1)
    np.testing.assert_allclose(weights, 1, atol=1e-6)
    best = fitted.history["validation_ndcg_at_20"].idxmax()
    assert fitted.best_epoch == fitted.history["epoch"][best]
    assert fitted.best_ndcg == fitted.history["validation_ndcg_at_20"][best]


def test_training_learns() -> None:
    """Every user repeats one item of 15: the first target is a guess, of loss ln 15 = 2.7, and all others are known:

    a mean loss of 2.7 / 6 = 0.45 is the best there is; dropout keeps it above that.
    """
    train = random_histories([6] * 30, n_items=15)
    items = np.repeat(np.arange(30) % 15, 6)
    train = dataclasses.replace(train, items=items)
    validation = dataclasses.replace(train, targets=np.arange(30) % 15, repeats=np.ones(30, dtype=bool))
    fitted = train_arm(
        TrainingData(train, validation, None), groups=np.zeros(30, dtype=np.int64), epochs=40, batch_size=30
    )
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


def train_until_killed(world: TrainingData, path: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    train_arm(world, objective=KillsItself(8), path=path)


def test_killed_and_resumed_equals_uninterrupted(world: TrainingData, tmp_path: Path) -> None:
    """Killed in the second of three steps of epoch 3; resumed from the checkpoint of epoch 2."""
    path = tmp_path / "checkpoint.safetensors"
    arguments = (world, path, torch.get_num_threads())
    process = multiprocessing.get_context("spawn").Process(target=train_until_killed, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    snapshot = saved_snapshot(path)
    assert snapshot.description["progress"]["epoch"] == 2

    whole = train_arm(world, path=tmp_path / "another.safetensors")
    resumed = train_arm(world, path=path)
    assert_same_fit(resumed, whole)


def test_interrupted_and_resumed_with_tied_embeddings_and_copying(world: TrainingData, tmp_path: Path) -> None:
    path, model = tmp_path / "checkpoint.safetensors", {"tied_embeddings": True, "copy_window": 3}
    with pytest.raises(KeyboardInterrupt):
        train_arm(world, objective=Interrupted(Erm(), 8), path=path, model=model)
    resumed = train_arm(world, path=path, model=model)
    assert_same_fit(resumed, train_arm(world, model=model))
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
    "case",
    [
        *((loss, {}) for loss in OPTIONS if loss != "causald"),
        ("gdro", {"balanced_batches": True, "adjustment": 1.0}),
        ("gdro", {"absent_groups": "climb"}),
    ],
    ids=str,
)
def test_stopped_and_continued_equals_uninterrupted(
    world: TrainingData, tmp_path: Path, case: tuple[str, dict[str, Any]]
) -> None:
    """The objective's state and Adam's go on where they were."""
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        objective = objective_of(case[0], world.train, case[1], groups=GROUPS, state_dim=8)
        train_arm(world, *case, path=path, objective=Interrupted(objective, 8))
    assert_same_fit(train_arm(world, *case, path=path), train_arm(world, *case))


def test_a_finished_training_is_not_trained_again(world: TrainingData, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    first = train_arm(world, path=path)
    again = train_arm(world, path=path, objective=KillsItself(1))
    assert_same_fit(first, again)
    assert first.seconds == again.seconds
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_checkpoint_of_another_training_is_not_continued(world: TrainingData, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    train_arm(world, path=path, identity={"learning_rate": 0.5}, learning_rate=0.5)
    assert_same_fit(train_arm(world, path=path, identity={"learning_rate": 0.01}), train_arm(world))


@pytest.mark.parametrize("lost", ["progress", "best", "user_weights", "optimizer", "objective"])
def test_a_checkpoint_that_lacks_something_is_named(world: TrainingData, tmp_path: Path, lost: str) -> None:
    """As another program, or another version, would write it: whole, and with a checksum of its own."""
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        objective = Interrupted(objective_of("gdro", world.train, groups=GROUPS, state_dim=8), 8)
        train_arm(world, "gdro", path=path, objective=objective)
    snapshot = saved_snapshot(path)
    tensors = {name: value for name, value in snapshot.tensors.items() if not name.startswith(f"{lost}/")}
    description = {name: value for name, value in snapshot.description.items() if name != lost}
    Checkpoint(path).save(dataclasses.replace(snapshot, tensors=tensors, description=description))
    with pytest.raises(CheckpointError, match=r"checkpoint.safetensors is damaged, .* Delete it"):
        train_arm(world, "gdro", path=path)


def test_only_what_goes_on_is_said_to(world: TrainingData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of a training that begins or is complete."""
    caplog.set_level(logging.INFO, "fairrec_pipeline")
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_arm(world, path=path, objective=Interrupted(Erm(), 8))
    assert caplog.messages == []
    train_arm(world, path=path)
    assert caplog.messages == [f"Continuing from {path}, after epoch 2"]
    train_arm(world, path=path)
    assert len(caplog.messages) == 1


def test_a_half_written_checkpoint_does_not_matter(world: TrainingData, tmp_path: Path) -> None:
    """What a process killed while it wrote leaves behind."""
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_arm(world, path=path, objective=Interrupted(Erm(), 8))
    path.with_name(".checkpoint.safetensors.another-host.1.partial").write_bytes(b"half of")
    assert_same_fit(train_arm(world, path=path), train_arm(world))


class Explodes(Erm):
    """ERM that does harm in one batch: its weights are not finite, or so large that the next loss is not."""

    def __init__(self, batches: int, factor: float) -> None:
        super().__init__()
        self.batches, self.factor = batches, factor

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        self.batches -= 1
        weights, state = super().weights(batch, state)
        return (weights * self.factor if self.batches == 0 else weights), state


def test_divergence_names_step_and_users_and_keeps_the_checkpoint(world: TrainingData, tmp_path: Path) -> None:
    """Weights explode in the first of three steps of epoch 2, the fourth step in all: gradients are beyond float32."""
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(
        DivergenceError,
        match=r"loss is not finite in epoch 2, step 5, for users \[1\d\d, .*\.\.\.\]?.*"
        r"Try a smaller train.learning_rate than 0.01\. The checkpoint of an earlier epoch is kept",
    ):
        train_arm(world, path=path, objective=Explodes(4, 1e38))
    snapshot = saved_snapshot(path)
    assert snapshot.description["progress"]["epoch"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in snapshot.tensors.values())
    assert_same_fit(train_arm(world, path=path), train_arm(world))


@pytest.mark.parametrize("with_checkpoint", [False, True])
def test_a_kept_checkpoint_is_named_only_where_there_is_one(
    world: TrainingData, tmp_path: Path, with_checkpoint: bool
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(DivergenceError, match="in epoch 1, step 2") as error:
        train_arm(world, path=path if with_checkpoint else None, objective=Explodes(1, 1e38))
    assert "is kept" not in str(error.value)
    assert not path.exists()


def test_weights_that_are_not_finite_are_laid_at_the_objective(world: TrainingData) -> None:
    """The losses of the same step are finite, so that no learning rate can be the cause."""
    with pytest.raises(
        DivergenceError, match=r"the weights of gdro are not finite in epoch 1, step 1, .* whose losses are"
    ) as error:
        train_arm(world, "gdro", objective=Explodes(1, float("inf")))
    assert "gdro.eta=0.1" in str(error.value)
    assert "learning_rate" not in str(error.value)
    with pytest.raises(DivergenceError, match=r"whose losses are\. The objective itself is at fault"):
        train_arm(world, objective=Explodes(4, float("inf")))


@pytest.mark.parametrize(
    ("precision", "advice"), [("fp32", r"than 1e\+12$"), ("bf16", r"than 1e\+12 or train.precision=fp32$")]
)
def test_a_learning_rate_that_diverges(world: TrainingData, precision: str, advice: str) -> None:
    with pytest.raises(DivergenceError, match=f"Try a smaller train.learning_rate {advice}"):
        train_arm(world, learning_rate=1e12, steps_per_epoch=20, precision=precision)


@pytest.mark.parametrize("patience", [1, 2])
def test_early_stopping(world: TrainingData, monkeypatch: pytest.MonkeyPatch, patience: int) -> None:
    """Validation NDCG .1, .3, .2, .3, ...: epoch 2 is the best (a tie is no progress), and patience counts from it."""

    def train_with_scores(**changes: Any) -> Fitted:
        scores = iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.2])
        monkeypatch.setattr("fairrec_pipeline.training.validation.ndcg", lambda _ranks, _k: np.array([next(scores)]))
        return train_arm(world, **changes)

    stopped, shorter = train_with_scores(epochs=6, patience=patience), train_with_scores(epochs=2)
    assert stopped.best_epoch == shorter.best_epoch == 2
    assert len(stopped.history) == 2 + patience
    assert all(torch.equal(stopped.weights[name], shorter.weights[name]) for name in stopped.weights)


ONE_GROUP = np.zeros(12, dtype=np.int64)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        pytest.param("cvar", {"alpha": 1.0}, id="cvar alpha 1"),
        pytest.param("gdro", {}, id="gdro one group"),
        pytest.param("gdro", {"absent_groups": "climb"}, id="gdro one group, climb"),
        pytest.param("sdro", {"absent_groups": "decay"}, id="sdro one group"),
        pytest.param("ipw", {"count": "users"}, id="ipw one group"),
        pytest.param("gdro", {"adjustment": 3.0, "balanced_batches": True}, id="gdro one group, adjusted"),
        pytest.param("sdro", {"adjustment": 3.0}, id="sdro one group, adjusted"),
        pytest.param("cvar_doro", {"alpha": 1.0, "eps": 0.0}, id="cvar_doro alpha 1, eps 0"),
        pytest.param("cvar_smooth", {"alpha": 1.0, "h": 0.15}, id="cvar_smooth alpha 1"),
        pytest.param("chi2", {"alpha": 1.0}, id="chi2 alpha 1"),
        pytest.param("kl", {"tau": 1e9}, id="kl tau to infinity"),
        pytest.param("rsr_hard", {"clusters": 1}, id="rsr_hard one cluster"),
        pytest.param("rsr_soft", {"clusters": 1}, id="rsr_soft one cluster"),
        pytest.param("rsr_hard", {"temperature": 1e9}, id="rsr_hard tau to infinity"),
        pytest.param("rsr_soft", {"temperature": 1e9}, id="rsr_soft tau to infinity"),
    ],
)
def test_limit_cases_are_erm(world: TrainingData, loss: str, options: dict[str, Any]) -> None:
    """To float precision, over a whole training: their weights are 1 / B.

    But for the bias of the keys, whose gradient is 0 but for rounding: Adam makes steps out of the rounding.
    """
    erm, limit = train_arm(world), train_arm(world, loss, options, groups=ONE_GROUP)
    dim = 8
    for weights in (erm.weights, limit.weights):
        q, _, v = weights["blocks.0.qkv.bias"].split(dim)
        weights["blocks.0.qkv.bias"] = torch.cat((q, v))
    torch.testing.assert_close(limit.weights, erm.weights, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(limit.history["loss"], erm.history["loss"], rtol=1e-5)


def test_cvar_doro_without_outliers_is_cvar(world: TrainingData) -> None:
    cvar, doro = train_arm(world, "cvar", {"alpha": 0.4}), train_arm(world, "cvar_doro", {"alpha": 0.4, "eps": 0.0})
    assert_same_fit(doro, cvar)


@pytest.mark.parametrize("copy_window", [0, 3])
@pytest.mark.parametrize("filter_seen", [False, True])
def test_validation_finds_once_what_does_not_change(
    world: TrainingData, filter_seen: bool, copy_window: int, monkeypatch: pytest.MonkeyPatch
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
    arm: dict[str, Any] = {"model": {"copy_window": copy_window}, "filter_seen": filter_seen}
    once = train_arm(world, **arm)
    assert sorted(found) == ["Batches", *(["SeenItems"] if filter_seen else [])]
    for name in ("_cut", "_seen"):
        monkeypatch.setattr(Validation, name, property(getattr(Validation, name).func))
    anew = train_arm(world, **arm)
    assert len(found) == 5 * (1 + filter_seen)
    assert_same_fit(once, anew)


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


def test_weight_decay_shrinks_what_no_loss_reaches(world: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    """By 1 - rate * decay a step, as in AdamW; without decay the training is that of Adam, bit for bit."""
    longer = {"max_length": 40}  # no history reaches the last positions
    plain, decayed = (train_arm(world, model=longer, weight_decay=decay) for decay in (0.0, 5.0))
    unreached = [fitted.weights["position_embedding.weight"][-3:] for fitted in (plain, decayed)]
    steps = decayed.best_epoch * spec_of("erm").train.steps_per_epoch
    torch.testing.assert_close(unreached[1], unreached[0] * (1 - 0.01 * 5.0) ** steps)
    monkeypatch.setattr(torch.optim, "AdamW", torch.optim.Adam)
    assert_same_fit(train_arm(world, model=longer), plain)


def test_balanced_batches_are_drawn(world: TrainingData) -> None:
    """Groups of 8, 3 and 1 users, 84 draws in all: 28 of each group, and so 28 of the one user of the last."""
    groups = np.array([0] * 8 + [1] * 3 + [2])
    options = {"balanced_batches": True}
    drawn = train_arm(world, "gdro", options, groups=groups).user_weights.groupby("user")["drawn"].sum()
    assert np.bincount(groups, weights=drawn).tolist() == [28, 28, 28]


def test_ipw_of_equal_groups_is_proportional_to_erm(world: TrainingData) -> None:
    """Three groups of four users each: w = 12 / 4 = 3, so every gradient is three times that of ERM."""
    train = world.train
    gradients = {}
    for loss in ("erm", "ipw"):
        torch.manual_seed(0)
        model = SASRec(train.n_items, **vars(spec_of(model=MODEL).model)).eval()
        objective = objective_of(loss, train, groups=GROUPS, state_dim=8)
        groups = torch.from_numpy(GROUPS) if loss == "ipw" else None
        step = TrainingStep(model, torch.optim.Adam(model.parameters()), objective, groups)
        step.backward(Batches(train, max_length=6, device=CPU).batch(torch.arange(12)), {})
        gradients[loss] = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, gradient in gradients["erm"].items():
        torch.testing.assert_close(gradients["ipw"][name], 3 * gradient, rtol=1e-5, atol=1e-7)
