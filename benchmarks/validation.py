"""Seconds of a validation: padded batches and top-k lists in Python, against exact ranks of the packed model."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks.isolation import Isolated, ratio, spread
from benchmarks.reference import PaddedSASRec, copy_weights, mean_ndcg
from benchmarks.step import SEED
from benchmarks.workloads import Workload, first_users
from fairrec_pipeline.metrics.ranking import ndcg, rank_targets
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.training.scoring import ModelScorer


class PackedValidation:
    """Ours."""

    def __init__(self, workload: Workload, threads: int) -> None:
        torch.set_num_threads(threads)
        self.workload, self.model = workload, _model(workload)

    def validate(self) -> tuple[float, float]:
        """Seconds and mean NDCG@20."""
        begun = time.perf_counter()
        sequences = self.workload.validation
        ranks = rank_targets(ModelScorer(self.model, sequences), sequences, filter_seen=self.workload.filter_seen)
        score = float(ndcg(ranks, 20).mean())
        return time.perf_counter() - begun, score


class PaddedValidation:
    """The reference, with the same weights."""

    def __init__(self, workload: Workload, threads: int) -> None:
        torch.set_num_threads(threads)
        self.workload = workload
        self.model = PaddedSASRec(workload.train.n_items, **workload.backbone)
        copy_weights(_model(workload), self.model)

    def validate(self) -> tuple[float, float]:
        """Seconds and mean NDCG@20."""
        begun = time.perf_counter()
        workload = self.workload
        score = mean_ndcg(
            self.model, workload.validation, k=20, batch_size=workload.batch_size, filter_seen=workload.filter_seen
        )
        return time.perf_counter() - begun, score


def measure_validation(workload: Workload, *, n_users: int, rounds: int, threads: int) -> dict[str, Any]:
    """Both, in turns, on the first `n_users` validation users.

    Raises:
        AssertionError: the two disagree on NDCG@20 by more than a tie or a last bit could explain.
    """
    workload = replace(workload, validation=first_users(workload.validation, n_users))
    seconds: dict[str, list[float]] = {"reference": [], "ours": []}
    scores: dict[str, float] = {}
    peaks: dict[str, int] = {}
    systems = {"reference": Isolated(PaddedValidation, workload, threads)}
    systems["ours"] = Isolated(PackedValidation, workload, threads)
    for system in systems.values():
        system.wait()
    for _ in range(rounds):
        for name, system in systems.items():
            elapsed, scores[name] = system.call("validate")
            seconds[name].append(elapsed)
    for name, system in systems.items():
        peaks[name] = system.peak_memory()
        system.close()
    assert abs(scores["reference"] - scores["ours"]) < 1e-3, scores
    return {
        "workload": workload.name,
        "n_users": workload.validation.n_users,
        "systems": {
            name: {
                **spread(times),
                "peak_memory_bytes": peaks[name],
                "ndcg_at_20": scores[name],
                "reference_over_this": ratio(seconds["reference"], times),
            }
            for name, times in seconds.items()
        },
    }


def _model(workload: Workload) -> SASRec:
    torch.manual_seed(SEED)
    return SASRec(workload.train.n_items, **workload.backbone).eval()
