"""Time to quality: seconds of training until test NDCG@20 on RetailRocket passes the published best.

The figure a user feels. Validation alone decides: which weights are kept, and when to stop for good. The test score of
the kept weights is looked at from outside of the clock, to draw the curve and to say when it passed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from benchmarks.workloads import RETAILROCKET_FOLDERS, real_retailrocket, workload
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.metrics.ranking import ndcg, rank_targets
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.objectives import build_objective
from fairrec_pipeline.objectives.base import Population
from fairrec_pipeline.training.checkpoint import Snapshot
from fairrec_pipeline.training.fit import Budget, fit
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
}
COPYING = BACKBONE | {"copy_window": 50}
BUDGET = Budget(
    epochs=200,
    steps_per_epoch=64,
    batch_size=128,
    learning_rate=4e-3,
    warm_up_steps=64,
    patience=10,
    precision="fp32",
    checkpoint_seconds=0,
)
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
    loss, options, backbone = ARMS[arm]
    train, validation, test = _histories(quick=quick)
    budget = replace(BUDGET, epochs=4, steps_per_epoch=2, batch_size=8) if quick else BUDGET
    curve = _Curve(train, test, backbone, budget.steps_per_epoch, stop_above=float("inf") if quick else PUBLISHED_BEST)
    with contextlib.suppress(_PassedError):
        fit(
            train,
            validation,
            build_objective(loss, Population(torch.from_numpy(train.item_counts)), options),
            groups=None,
            backbone=backbone,
            budget=budget,
            seed=0,
            device=torch.device("cpu"),
            filter_seen=False,
            store=curve,
            description=arm,
        )
    return {
        "arm": arm,
        "loss": loss,
        "options": options,
        "backbone": backbone,
        "budget": vars(budget),
        "seconds_to_published_best": curve.passed,
        "curve": curve.rows,
    }


class _PassedError(Exception):
    """The chosen weights are good enough."""


class _Curve:
    """Is given every checkpoint and looks at the test with it instead of keeping it; `fit` stops its clock before."""

    def __init__(
        self, train: Histories, test: Histories, backbone: dict[str, Any], steps_per_epoch: int, stop_above: float
    ) -> None:
        self.train, self.test, self.backbone = train, test, backbone
        self.steps_per_epoch, self.stop_above = steps_per_epoch, stop_above
        self.rows: list[dict[str, Any]] = []
        self.passed: float | None = None

    def load(self, training: Mapping[str, Any]) -> None:
        return None

    def save(self, snapshot: Snapshot, training: Mapping[str, Any]) -> None:
        progress = snapshot.description["progress"]
        score = self.rows[-1]["test_ndcg_at_20_of_chosen"] if self.rows else 0.0
        if progress["best_epoch"] == progress["epoch"]:
            model = SASRec(self.train.n_items, **self.backbone)
            model.load_state_dict(snapshot.section("best"))
            score = float(ndcg(rank_targets(ModelScorer(model, self.test), self.test, filter_seen=False), 20).mean())
        row = progress["history"][-1]
        self.rows.append(
            {
                **{name: row[name] for name in ("epoch", "seconds", "loss", "validation_ndcg_at_20")},
                "steps": progress["epoch"] * self.steps_per_epoch,
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
