"""Curves, grids and costs from what arms left behind."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.trainings import budgets, training_curves, trainings
from tests.worlds import metrics_of, record_of


@pytest.fixture
def four_users() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": [1, 2, 3, 4],
            "train_length": 5,
            "popularity_ratio": 0.5,
            "pop33": ["niche", "niche", "popular", "popular"],
            "seq33": ["short", "short", "short", "long"],
        }
    )


def card(alpha: float, seconds: float = 10.0, **more: object) -> dict[str, object]:
    parameters = {"seed": 0, "loss": "cvar", "cvar": {"alpha": alpha}, "train": {"steps_per_epoch": 128}}
    return {"loss": "cvar", "parameters": parameters, "seconds": seconds, "device": "cpu x2", "epochs": 3, **more}


def run(seed: int | None = 0, **parts: object) -> ArmRecord:
    metrics = metrics_of(np.array([0.2, 0.4, 0.6, 1.0])).assign(user_id=[1, 2, 3, 4])
    return record_of("cvar", metrics, seed, card=card(0.3, best_epoch=2), **parts)


def test_a_run_by_hand(four_users):
    found = trainings([run()], four_users).iloc[0]
    # niche .3, popular .8; short .4, long 1
    assert found["overall"] == pytest.approx(0.55)
    assert (found["worst"], found["worst_group"]) == (pytest.approx(0.3), "niche")
    assert (found["gap_pop33"], found["gap_seq33"]) == (pytest.approx(0.5), pytest.approx(0.6))
    assert found["kind"] == "seed"


def test_a_grid_with_and_without_its_test(four_users):
    tested = {
        "point": "alpha=0.1",
        "options": {"alpha": 0.1},
        "seed": 0,
        "card": card(0.1, 7.0, validation_ndcg_at_20=0.4),
        "history": [],
        "test_ndcg_at_20": {"overall": 0.5, "pop33/niche": 0.4, "pop33/popular": 0.7, "worst_group": 0.4},
    }
    untested = {
        "point": "alpha=0.3", "options": {"alpha": 0.3}, "seed": 0, "card": card(0.3, validation_ndcg_at_20=0.45),
        "history": [], "test_ndcg_at_20": None,
    }  # fmt: skip
    table = trainings([run(tuning_runs=[tested, untested])], four_users)
    grid = table[table["kind"] == "grid"].set_index("point")
    assert grid["option"].tolist() == ["alpha", "alpha"]
    assert grid["option_value"].tolist() == [0.1, 0.3]
    assert grid["selected"].tolist() == [False, True]
    assert grid["validation_ndcg_at_20"].tolist() == [0.4, 0.45]
    assert grid.loc["alpha=0.1", "worst"] == 0.4
    assert grid.loc["alpha=0.1", "gap_pop33"] == pytest.approx(0.3)
    assert grid.loc["alpha=0.3", ["overall", "worst", "worst_group"]].isna().all()


def test_a_grid_over_the_training_marks_its_winner(four_users):
    """Options of the blocks `train` and `model` have a dot in their name."""
    points = [
        {"point": str(steps), "options": {"alpha": 0.3, "train.steps_per_epoch": steps}, "seed": 0, "card": card(0.3)}
        for steps in (64, 128, 256)
    ]
    table = trainings([run(tuning_runs=points)], four_users)
    assert table[table["kind"] == "grid"]["selected"].tolist() == [False, True, False]
    assert budgets(table).loc["cvar", "total_seconds"] == 30


def test_two_tuned_options_have_no_curve(four_users):
    points = [
        {"point": str(index), "options": options, "seed": 0, "card": card(0.3)}
        for index, options in enumerate(({"eta": 1, "beta": 2}, {"eta": 2, "beta": 1}))
    ]
    assert trainings([run(tuning_runs=points)], four_users)["option"].isna().all()


def test_the_winner_is_paid_once(four_users):
    points = [{"point": f"alpha={a}", "options": {"alpha": a}, "seed": 0, "card": card(a)} for a in (0.1, 0.3, 0.5)]
    found = budgets(trainings([run(tuning_runs=points), run(seed=1)], four_users)).loc["cvar"]
    # two runs of 10 s; of three points of 10 s the winner is the run of seed 0
    assert (found["points"], found["runs"], found["seconds"], found["total_seconds"]) == (3, 2, 10, 40)
    assert found["device"] == "cpu x2"
    assert found["warm_start_steps"] == 0
    assert budgets(trainings([run(seed=None)], four_users)).empty


def test_curves_count_steps_and_mark_what_was_kept():
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "loss": [3.0, 2, 1], "validation_ndcg_at_20": 0.1, "seconds": [5, 9, 14]}
    )
    curves = training_curves(
        [
            run(training_history=history.assign(group_weight_niche=0.5)),
            run(seed=1, training_history=history),
            run(2),
        ]
    )
    assert curves["step"].tolist() == [128, 256, 384] * 2
    assert curves["selected"].tolist() == [False, True, False] * 2
    assert curves["training_loss"].tolist() == [3, 2, 1] * 2
    assert curves["group_weight_niche"].isna().tolist() == [False] * 3 + [True] * 3
    assert training_curves([run(2)]).empty
    assert np.isin(["arm", "step", "validation_ndcg_at_20"], training_curves([run(2)]).columns).all()
