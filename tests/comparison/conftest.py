"""A small world of arms: what the tests of tables, reports and figures look at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from fairrec_pipeline.comparison.comparison import TrainedArm

N_USERS = 240
FINGERPRINT = "f" * 64


@pytest.fixture(scope="session")
def user_groups() -> pd.DataFrame:
    users = np.arange(N_USERS)
    return pd.DataFrame(
        {
            "user_id": users,
            "train_length": 3 + users % 7,
            "popularity_ratio": users / N_USERS,
            "pop33": np.array(["niche", "diverse", "popular"])[users % 3],
            "seq33": np.array(["short", "medium", "long"])[users // 3 % 3],
            "segment": np.where(users % 2 == 0, "even", "odd"),
        }
    )


@pytest.fixture(scope="session")
def metrics() -> Callable[..., pd.DataFrame]:
    """Builds user_metrics from the NDCG@20 of every user; the other metrics are the same numbers."""

    def build(ndcg: np.ndarray) -> pd.DataFrame:
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

    return build


@pytest.fixture(scope="session")
def arm(metrics: Callable[..., pd.DataFrame]) -> Callable[..., TrainedArm]:
    """Builds an arm whose users have a mean NDCG@20 of about `level`; users differ alike in every arm."""

    def build(
        name: str, level: float, seed: int | None = 0, *, fingerprint: str = FINGERPRINT, **parameters: object
    ) -> TrainedArm:
        users = 0.1 * np.sin(np.arange(N_USERS))
        noise = np.random.default_rng([seed or 0, len(name)]).normal(0, 0.01, N_USERS)
        loss, _, groups = name.partition("-")
        return TrainedArm(
            arm=name,
            loss=loss,
            loss_groups=groups or None,
            seed=seed,
            data_fingerprint=fingerprint,
            card={"validation_ndcg_at_20": level - 0.1}
            if seed is None
            else {
                "parameters": {"seed": seed, "evaluate": {"filter_seen": False}, **parameters},
                "seconds": 12.0,
                "device": "cpu",
                "finished": f"2026-01-01T00:00:0{seed}+00:00",
                "epochs": 30,
                "best_epoch": 30 if loss == "cvar" else 12,
            },
            user_metrics=metrics(level + users + noise),
        )

    return build
