"""Copies of the project in tests: a pipeline run in this process, and the arms that it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.arms.store import ArmStore


def run_pipeline(project: Path, name: str, *, options: dict[str, Any] | None = None, **runtime: Any) -> Any:
    bootstrap_project(project)
    with KedroSession.create(project, env="test", runtime_params=runtime) as session:
        return session.run(pipeline_names=[name], **(options or {}))


def store(project: Path) -> ArmStore:
    folders = (project / "data" / name / "synthetic" for name in ("06_models", "07_model_output"))
    models, outputs = map(str, folders)
    return ArmStore(models, outputs, f"{models}/trials")


def assert_same(records: Sequence[ArmRecord], others: Sequence[ArmRecord]) -> None:
    mine, theirs = ({(each.arm, each.seed): each for each in found} for found in (records, others))
    assert mine.keys() == theirs.keys()
    for name, one in mine.items():
        pd.testing.assert_frame_equal(one.user_metrics, theirs[name].user_metrics, check_exact=True)
        assert one.model is not None
        assert theirs[name].model is not None
        weights, other = one.model.weights, theirs[name].model.weights
        assert all(torch.equal(weights[part], other[part]) for part in weights)
