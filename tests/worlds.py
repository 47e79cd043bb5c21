"""The small worlds of the tests: one table of options, one spec, random histories, a prepared dataset, records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch.utils._python_dispatch import TorchDispatchMode

from fairrec_pipeline.arms.record import PARTS, ArmRecord, SavedModel
from fairrec_pipeline.arms.spec import ArmSpec
from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.interactions.histories import Histories, evaluation_histories, training_histories
from fairrec_pipeline.interactions.prepared import PreparedData, combined_fingerprint
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.objectives.base import Objective, State
from fairrec_pipeline.parameters.blocks import Evaluate
from fairrec_pipeline.parameters.methods import METHODS, parts_of_arm
from fairrec_pipeline.training.checkpoint import Checkpoint, Snapshot
from fairrec_pipeline.training.fit import Fitted
from fairrec_pipeline.training.loss_groups import population
from fairrec_pipeline.training.step import TrainingStep

_RSR = {"clusters": 3, "temperature": 0.5, "weight_learning_rate": 0.5}
_GROUP_DRO = {"eta": 0.1, "absent_groups": "keep", "adjustment": 0.0, "balanced_batches": False}
OPTIONS: dict[str, dict[str, Any]] = {
    "erm": {},
    "cb": {},
    "cb_log": {},
    "ipw": {"count": "users"},
    "ipw_log": {"count": "users"},
    "gdro": _GROUP_DRO,
    "sdro": _GROUP_DRO | {"beta": 0.1},
    "cvar": {"alpha": 0.3},
    "erm_positions": {},
    "cvar_doro": {"alpha": 0.3, "eps": 0.2},
    "cvar_smooth": {"alpha": 0.3, "h": 0.15},
    "chi2": {"alpha": 0.5},
    "kl": {"tau": 1.0},
    "arl": {"adversary_learning_rate": 0.1},
    "rsr_hard": _RSR | {"refresh_steps": 2},
    "rsr_soft": _RSR | {"prototype_learning_rate": 0.1, "clustering_weight": 0.05},
    "causald": {
        "weight": 0.5, "temperature": 1.0, "teachers": "activity", "n_teachers": 2, "samples": 2, "positions": 2,
        "predictor_epochs": 1,
    },
}  # fmt: skip
"""Example options of every method."""

MODEL: dict[str, Any] = {
    "dim": 8, "feed_forward": 8, "blocks": 1, "heads": 1, "dropout": 0.1, "max_length": 8, "init_std": 0.02,
    "tied_embeddings": False, "copy_window": 0,
}  # fmt: skip
TRAIN: dict[str, Any] = {
    "epochs": 2, "steps_per_epoch": 3, "batch_size": 16, "learning_rate": 0.01, "weight_decay": 0.0, "warm_up_steps": 0,
    "schedule": "constant", "warm_start_steps": 0, "patience": None, "precision": "fp32", "cuda_graphs": True,
    "compile": False, "item_chunk": None, "checkpoint_seconds": 0.0, "workers": 1,
}  # fmt: skip


def spec_of(
    arm: str = "erm",
    options: Mapping[str, Any] | None = None,
    *,
    model: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    **changes: Any,
) -> ArmSpec:
    """A small training of an arm such as `gdro-pop33`; what is given lies over `OPTIONS`, `MODEL` and `TRAIN`."""
    loss, groups = parts_of_arm(arm)
    assert METHODS[loss].needs_groups == (groups is not None), arm
    return ArmSpec.model_validate(
        {
            "objective": {"loss": loss, "groups": groups, "options": {**OPTIONS[loss], **(options or {})}},
            "model": {**MODEL, **(model or {})},
            "train": {**TRAIN, **(train or {})},
            "filter_seen": False,
            "seed": 0,
            "device": "cpu",
            **changes,
        }
    )


def random_histories(lengths: list[int], *, n_items: int = 37, seed: int = 0, held_out: bool = False) -> Histories:
    """Random histories of those lengths; with a random target each if they are `held_out`."""
    rng = np.random.default_rng(seed)
    items = rng.integers(0, n_items, size=sum(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    users = 100 + np.arange(len(lengths))
    targets = rng.integers(0, n_items, size=len(lengths)) if held_out else None
    repeats = np.zeros(len(lengths), dtype=bool) if held_out else None
    return Histories(users, np.arange(n_items), items, offsets, targets, repeats)


def complete_histories(interactions: pd.DataFrame, catalogue: np.ndarray) -> Histories:
    """All that every user did, of a catalogue of numbers; what comes next is not known."""
    users = interactions["user_id"].unique()
    asked = pd.DataFrame({"user_id": users, "item_id": -1, "position": len(interactions), "role": "test"})
    return evaluation_histories(pd.concat([interactions.assign(role="train"), asked]), catalogue, "test")


def small_model(n_items: int = 37, dtype: torch.dtype = torch.float64, **changes: Any) -> SASRec:
    """A small SASRec whose norms and biases are not those of a fresh one."""
    backbone = {"dim": 16, "feed_forward": 24, "blocks": 2, "heads": 2, "dropout": 0.0, "max_length": 12}
    torch.manual_seed(3)
    model = SASRec(n_items, **(backbone | {"init_std": 0.5} | changes)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


N_USERS, N_ITEMS, LENGTH = 60, 25, 9


def interactions() -> pd.DataFrame:
    """60 users with 9 interactions each, split; every item occurs in training."""
    rng = np.random.default_rng(0)
    users, positions = np.repeat(np.arange(N_USERS), LENGTH), np.tile(np.arange(LENGTH), N_USERS)
    roles = np.select([positions == LENGTH - 1, positions == LENGTH - 2], ["test", "validation"], "train")
    items = np.where(positions == 0, users % N_ITEMS, rng.integers(N_ITEMS, size=len(users)))
    return pd.DataFrame(
        {"user_id": users, "item_id": items, "timestamp": positions, "position": positions, "role": roles}
    )


def user_groups(n_users: int = N_USERS, **attributes: Any) -> pd.DataFrame:
    """Groups of as many users, in turns, and attributes by name."""
    users = np.arange(n_users)
    return pd.DataFrame(
        {
            "user_id": users,
            "train_length": LENGTH - 2,
            "popularity_ratio": 0.5,
            "pop33": np.array(["niche", "diverse", "popular"])[users % 3],
            "seq33": np.array(["short", "medium", "long"])[users // 3 % 3],
            **attributes,
        }
    )


FINGERPRINT = "f" * 64


def metrics_of(ndcg: np.ndarray) -> pd.DataFrame:
    """user_metrics from the NDCG@20 of every user; the other metrics are the same numbers."""
    users = np.arange(len(ndcg))
    return pd.DataFrame(
        {
            "user_id": users,
            "rank": pd.array(np.full(len(ndcg), 5), dtype="Int64"),
            "repeat_target": users % 4 == 0,
            "loss": np.float32(1.0),
        }
        | dict.fromkeys(("ndcg_at_10", "ndcg_at_20", "recall_at_10", "recall_at_20"), ndcg)
    )


def record_of(
    arm: str, user_metrics: pd.DataFrame, seed: int | None = 0, *, card: Mapping[str, Any] | None = None, **parts: Any
) -> ArmRecord:
    """A record in memory; what is given lies over the card that such an arm would have."""
    loss, groups = parts_of_arm(arm)
    common = {
        "arm": arm, "loss": loss, "loss_groups": groups, "seed": seed, "data_fingerprint": FINGERPRINT,
        "groups_fingerprint": None,
    }  # fmt: skip
    trained = {
        "parameters": {"seed": seed, "evaluate": {"filter_seen": False}}, "seconds": 12.0, "device": "cpu",
        "finished": f"2026-01-01T00:00:0{seed}+00:00", "epochs": 30, "best_epoch": 12,
        "training": f"{loss}-seed-{seed}-a", "dataset": "small",
        "started": "2026-01-01T00:00:00+00:00", "validation_ndcg_at_20": 0.25,
    }  # fmt: skip
    return ArmRecord.of(
        {**common, **({} if seed is None else trained), **(card or {})}, user_metrics=user_metrics, **parts
    )


def prepared_data(**attributes: Any) -> PreparedData:
    """The 60 users, ready to train on; attributes by name."""
    events, groups = interactions(), user_groups(**attributes)
    train = training_histories(events)
    validation, test = (evaluation_histories(events, train.catalogue, role) for role in ("validation", "test"))
    fingerprints = {name: hashlib.sha256(",".join(groups[name]).encode()).hexdigest() for name in groups.columns[3:]}
    return PreparedData(train, validation, test, FINGERPRINT, "small", {}, groups, fingerprints)


EVALUATE = Evaluate(
    filter_seen=False, confidence=0.95, significance=0.05, correction="holm", other_data="refuse", backbone=None
)
STATISTICS: dict[str, Any] = {
    "dataset": "synthetic",
    "fingerprint": FINGERPRINT,
    "group_fingerprints": {"pop33": "a" * 64, "seq33": "b" * 64},
}
"""Of the data that the records of `record_at` were trained on."""
N_COMPARED = 240


def compared_groups() -> pd.DataFrame:
    """Groups of the 240 users of `record_at`, and an attribute."""
    users = np.arange(N_COMPARED)
    groups = user_groups(N_COMPARED, segment=np.where(users % 2 == 0, "even", "odd"))
    return groups.assign(train_length=3 + users % 7, popularity_ratio=users / N_COMPARED)


def record_at(
    level: float, arm: str, seed: int | None = 0, *, card: Mapping[str, Any] | None = None, **parameters: Any
) -> ArmRecord:
    """A record of 240 users with a mean NDCG@20 of about `level`; users differ alike in every arm."""
    noise = np.random.default_rng([seed or 0, len(arm)]).normal(0, 0.01, N_COMPARED)
    groups = combined_fingerprint(STATISTICS["group_fingerprints"], parts_of_arm(arm)[1])
    trained = {
        "parameters": {"seed": seed, "evaluate": {"filter_seen": False}, **parameters},
        "best_epoch": 30 if arm == "cvar" else 12,
    }
    of_arm = {"groups_fingerprint": groups, **({"validation_ndcg_at_20": level - 0.1} if seed is None else trained)}
    metrics = metrics_of(level + 0.1 * np.sin(np.arange(N_COMPARED)) + noise)
    return record_of(arm, metrics, seed, card={**of_arm, **(card or {})})


def with_parts(record: ArmRecord, card: Mapping[str, Any] | None = None, **parts: Any) -> ArmRecord:
    """The same record with other parts and other values in its card."""
    return ArmRecord.of({**record.card, **(card or {})}, **{name: record.open_part(name) for name in PARTS} | parts)


# --- trainings and steps

HISTORY_LENGTHS = [1, 1, 2, 3, 3, 5, 8, 9, 11, 12, 13, 14, 20, 31]
"""Around the 12 tokens that `small_model` looks at: at it, one beyond it, far beyond it."""


def objective_of(
    loss: str,
    train: Histories,
    options: Mapping[str, Any] | None = None,
    *,
    groups: np.ndarray | None = None,
    state_dim: int = 16,
) -> Objective:
    """An objective for these histories; options lie over `OPTIONS`. Without `groups` three take turns."""
    codes = np.arange(train.n_users) % 3 if groups is None else groups
    names = ["a", "b", "c"][: int(codes.max()) + 1]
    return build_objective(loss, population(train, codes, names, state_dim), {**OPTIONS[loss], **(options or {})})


def groups_for(loss: str, train: Histories) -> torch.Tensor | None:
    """Three groups in turns, if the loss is told groups."""
    return torch.arange(train.n_users) % 3 if METHODS[loss].needs_groups else None


def step_of(loss: str, model: SASRec, train: Histories, *, device: str = "cpu", **options: Any) -> TrainingStep:
    """A training step whose optimiser gets its learning rate from outside."""
    objective = objective_of(loss, train, state_dim=model.output_table.shape[1])
    groups = groups_for(loss, train)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, fused=device != "meta")
    return TrainingStep(model, optimizer, objective, None if groups is None else groups.to(device), **options)


def state_of(step: TrainingStep, device: str = "cpu") -> State:
    """The objective's state before the first step."""
    return {name: value.to(device) for name, value in step.objective.initial_state().items()}


RECORDABLE = [loss for loss in OPTIONS if loss not in {"rsr_hard", "causald"}]
"""Losses whose steps ask the device nothing; rsr_hard clusters its users now and then."""
STEP_USERS = torch.tensor([[0, 13, 5, 7, 1], [2, 3, 4, 6, 8], [9, 9, 10, 11, 12], [13, 12, 11, 10, 0]])
"""Of four steps; one user is drawn twice."""
STEP_RATES = [2**-7, 2**-6, 2**-8, 2**-7]
"""Learning rates of four steps, which single precision knows."""


class NothingFromTheCpu(TorchDispatchMode):
    """Fails where a tensor is copied from the CPU to another device, which a GPU is waited for.

    `torch.where` copies a number, too, once it is on CUDA.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.where and result.device.type != "cpu":
            assert all(part.device.type != "cpu" for part in args), "a number of the CPU"
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            assert source.device.type != "cpu" or result.device.type == "cpu", "copied from the CPU"
        return result


def assert_same_fit(first: Fitted, second: Fitted) -> None:
    """Weights, history, choice of the epoch and state to the bit; seconds differ."""
    assert first.weights.keys() == second.weights.keys()
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    histories = [fitted.history.drop(columns="seconds") for fitted in (first, second)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    assert (first.best_epoch, first.best_ndcg) == (second.best_epoch, second.best_ndcg)
    pd.testing.assert_frame_equal(first.user_weights, second.user_weights, check_exact=True)
    assert first.objective_state.keys() == second.objective_state.keys()
    assert all(torch.equal(value, second.objective_state[name]) for name, value in first.objective_state.items())


def saved_snapshot(path: Path) -> Snapshot:
    """What a checkpoint holds, whatever its identity."""
    with safe_open(path, framework="pt") as file:
        identity = json.loads(file.metadata()["description"])["identity"]
    snapshot = Checkpoint(path, identity).load()
    assert snapshot is not None
    return snapshot


def points(arm: str, option: str, *values: Any) -> list[ArmSpec]:
    """The points of a grid of one option: of the loss, or of a block where it has a dot."""
    block, _, name = option.rpartition(".")
    changes = [{block: {name: value}} if block else {"options": {name: value}} for value in values]
    return [spec_of(arm, point={option: value}, **each) for value, each in zip(values, changes, strict=True)]


def specs() -> list[ArmSpec]:
    return [spec_of("erm"), *points("cvar", "alpha", 0.2, 0.9), spec_of("gdro-pop33")]


def store_at(folder: Path, version: str = "1") -> ArmStore:
    return ArmStore(str(folder / "models"), str(folder / "outputs"), str(folder / "trials"), version)


HISTORY = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "validation_ndcg_at_20": [0.1, 0.2]})


def saved_record(arm: str = "cvar", seed: int = 0, level: float = 0.3, **parts: Any) -> ArmRecord:
    model = SavedModel({"weight": torch.full((2, 3), level)}, {"backbone": {"dim": 3}})
    return record_of(arm, metrics_of(np.full(5, level)), seed, model=model, training_history=HISTORY, **parts)
