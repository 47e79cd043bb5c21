"""Time to quality: seconds of training until test NDCG@20 on RetailRocket passes the published best.

The figure a user feels. Validation alone decides: which weights are kept, and when to stop for good. The test score of
the kept weights is looked at from outside of the clock, to draw the curve and to say when it passed.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from benchmarks.workloads import RETAILROCKET_FOLDERS, TRAIN, real_retailrocket, workload
from fairrec_pipeline.arms.spec import ArmSpec
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.metrics.ranking import ndcg, rank_targets
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.objectives.base import Population
from fairrec_pipeline.training.checkpoint import Checkpoint, Snapshot
from fairrec_pipeline.training.fit import TrainingData, fit
from fairrec_pipeline.training.scoring import ModelScorer

PUBLISHED_BEST = 0.2386
BACKBONE = {
    "dim": 64,
    "feed_forward": 64,
    "blocks": 1,
    "heads": 1,
    "dropout": 0.25,
    "max_length": 200,
    "init_std": 0.02,
    "tied_embeddings": True,
    "copy_window": 0,
}
COPYING = BACKBONE | {"copy_window": 50}
BUDGET = TRAIN | {
    "epochs": 200, "steps_per_epoch": 64, "batch_size": 128, "learning_rate": 4e-3, "warm_up_steps": 64,
    "patience": 10, "precision": "fp32",
}  # fmt: skip
ARMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "erm": ("erm", {}, BACKBONE),
    "cvar": ("cvar", {"alpha": 0.3}, BACKBONE),
    "erm_copying": ("erm", {}, COPYING),
    "cvar_copying": ("cvar", {"alpha": 0.3}, COPYING),
}
"""Loss, its options and the backbone, by name."""


def time_to_quality(arm: str, *, threads: int, quick: bool = False) -> dict[str, Any]:
    """Train one arm until its chosen weights pass the published best, or validation stops improving.

    Args:
        arm: a name of `ARMS`.
        threads: of torch.
        quick: a toy world and four epochs, to see that it runs.

    Returns:
        For the record: seconds until it passed (None if it did not), and the curve, a row an epoch.

    Raises:
        FileNotFoundError: RetailRocket's log is not there.
    """
    torch.set_num_threads(threads)
    loss, options, model = ARMS[arm]
    train, validation, test = _histories(quick=quick)
    objective = {"loss": loss, "groups": None, "options": options}
    budget = BUDGET | ({"epochs": 4, "steps_per_epoch": 2, "batch_size": 8} if quick else {})
    spec = ArmSpec.model_validate(
        {"objective": objective, "model": model, "train": budget, "filter_seen": False, "seed": 0, "device": "cpu"}
    )
    curve = _Curve(spec, train, test, stop_above=float("inf") if quick else PUBLISHED_BEST)
    with contextlib.suppress(_PassedError):
        fit(
            spec,
            TrainingData(train, validation, groups=None),
            build_objective(loss, Population(torch.from_numpy(train.item_counts)), options),
            curve,
            description=arm,
        )
    return {
        "arm": arm,
        "loss": loss,
        "options": options,
        "backbone": model,
        "budget": budget,
        "seconds_to_published_best": curve.passed,
        "curve": curve.rows,
    }


class _PassedError(Exception):
    """The chosen weights are good enough."""


class _Curve(Checkpoint):
    """Is given every checkpoint and looks at the test with it instead of keeping it; `fit` stops its clock before."""

    def __init__(self, spec: ArmSpec, train: Histories, test: Histories, stop_above: float) -> None:
        super().__init__("")
        self.spec, self.train, self.test, self.stop_above = spec, train, test, stop_above
        self.rows: list[dict[str, Any]] = []
        self.passed: float | None = None

    def load(self) -> None:
        return None

    def save(self, snapshot: Snapshot) -> None:
        progress = snapshot.description["progress"]
        score = self.rows[-1]["test_ndcg_at_20_of_chosen"] if self.rows else 0.0
        if progress["best_epoch"] == progress["epoch"]:
            model = SASRec(self.train.n_items, **vars(self.spec.model))
            model.load_state_dict(snapshot.section("best"))
            score = float(ndcg(rank_targets(ModelScorer(model, self.test), self.test, filter_seen=False), 20).mean())
        row = progress["history"][-1]
        self.rows.append(
            {
                **{name: row[name] for name in ("epoch", "seconds", "loss", "validation_ndcg_at_20")},
                "steps": progress["epoch"] * self.spec.train.steps_per_epoch,
                "test_ndcg_at_20_of_chosen": score,
            }
        )
        if score > self.stop_above:
            self.passed = progress["seconds"]
            raise _PassedError


def _histories(*, quick: bool) -> tuple[Histories, Histories, Histories]:
    if quick:
        toy = workload("toy")
        return toy.train, toy.validation, toy.validation
    for folder in RETAILROCKET_FOLDERS:
        if any(folder.glob("events.csv*")):
            return real_retailrocket(folder)
    message = f"time to quality needs RetailRocket's events.csv or events.csv.gz in {RETAILROCKET_FOLDERS[0]}"
    raise FileNotFoundError(message)
