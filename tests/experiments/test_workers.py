"""`train.workers`: one training on several processes gives what one process gives, and goes on with another number."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fairrec_pipeline.arms.spec import ArmSpec
from fairrec_pipeline.errors import FairrecError, OptionError
from fairrec_pipeline.experiments.train_arm import key_of, record_of, train
from fairrec_pipeline.experiments.workers import together
from fairrec_pipeline.training.checkpoint import Checkpoint
from fairrec_pipeline.training.fit import Fitted, TrainingData, fit
from fairrec_pipeline.training.loss_groups import group_codes
from fairrec_pipeline.training.team import Team, require_gpus
from tests.worlds import objective_of, prepared_data, saved_snapshot, spec_of, store_at

EPOCHS = 4


def spec(arm: str = "gdro-pop33", **train: Any) -> ArmSpec:
    model = {"tied_embeddings": True, "copy_window": 4}
    return spec_of(arm, model=model, train={"epochs": EPOCHS, **train})


def fitted_in_double_precision(chosen: ArmSpec, path: str | None, stop_after: int = EPOCHS) -> tuple[Fitted, int]:
    """A training, or the first epochs of one whose process is stopped; and how many processes it had."""
    torch.set_default_dtype(torch.float64)
    try:
        data = prepared_data()
        codes, _ = group_codes(data.user_groups, chosen.objective.groups, data.train.users)
        objective = objective_of(chosen.objective.loss, data.train, groups=codes, state_dim=chosen.model.dim)
        steps, ask = stop_after * chosen.train.steps_per_epoch, objective.weights
        if stop_after < chosen.train.epochs:

            def stopped(batch: Any, state: Any) -> Any:
                if batch.step == steps:
                    raise InterruptedError
                return ask(batch, state)

            objective.weights = stopped  # type: ignore[method-assign]
        checkpoint = Checkpoint(path) if path else None
        return fit(chosen, TrainingData(data.train, data.validation, codes), objective, checkpoint), Team.here().size
    finally:
        torch.set_default_dtype(torch.float32)


def assert_equal_but_for_rounding(one: Fitted, other: Fitted) -> None:
    for name, weight in one.weights.items():
        torch.testing.assert_close(weight, other.weights[name], rtol=0, atol=1e-9 * float(weight.abs().max()))
    histories = [fitted.history.drop(columns="seconds") for fitted in (one, other)]
    pd.testing.assert_frame_equal(*histories, rtol=1e-9)
    pd.testing.assert_frame_equal(one.user_weights, other.user_weights, rtol=1e-9)
    assert (one.best_epoch, one.best_ndcg) == (other.best_epoch, other.best_ndcg)
    for name, state in one.objective_state.items():
        torch.testing.assert_close(state, other.objective_state[name], rtol=1e-9, atol=1e-9)


def test_a_training_equals_that_of_one_process_and_goes_on_with_another_number(tmp_path: Path) -> None:
    """With dropout, copying and its calibration. Stopped with one process, it goes on with 2."""
    alone, _ = fitted_in_double_precision(spec(), None)
    path = str(tmp_path / "checkpoint.safetensors")
    with pytest.raises(InterruptedError):
        fitted_in_double_precision(spec(), path, 2)
    assert saved_snapshot(Path(path)).description["progress"]["epoch"] == 2
    resumed = together(fitted_in_double_precision, 2, (spec(), path))
    assert [size for _, size in resumed] == [2, 2]
    assert_equal_but_for_rounding(alone, resumed[0][0])
    assert alone.history["own_item_bias"].abs().max() > 0
    # the others know the history as well, and leave the weights to the first
    pd.testing.assert_frame_equal(resumed[0][0].user_weights, resumed[1][0].user_weights, check_exact=True)
    assert not resumed[1][0].weights


def test_one_command_trains_on_two_workers(tmp_path: Path) -> None:
    data = prepared_data()
    single, several = spec_of("cvar"), spec_of("cvar", train={"workers": 2})
    assert key_of(single, data) == key_of(several, data)
    one, two = (record_of(each, data, store_at(tmp_path / name)) for name, each in (("1", single), ("2", several)))
    assert (one.card["workers"], two.card["workers"]) == (1, 2)
    assert two.model is not None
    assert one.model is not None
    for name, weight in one.model.weights.items():
        if not name.endswith("qkv.bias"):  # that of the keys changes nothing, and its gradient is but rounding
            np.testing.assert_allclose(two.model.weights[name], weight, atol=1e-4)
    # complete, so nothing is trained again, by however many
    again, _ = train(single, data, store_at(tmp_path / "2"))
    assert again["finished"] == two.card["finished"]


def failing(rank: int) -> None:
    if Team.here().rank == rank:
        message = "no such thing"
        raise OptionError(message)
    Team.here().add_up([torch.zeros(1)])


def test_an_error_of_one_worker_is_told_and_ends_the_others() -> None:
    with pytest.raises(OptionError, match="no such thing"):
        together(failing, 2, (1,))


def killed(rank: int) -> None:
    if Team.here().rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    Team.here().add_up([torch.zeros(1)])


def test_a_killed_worker_ends_the_others_and_is_told() -> None:
    with pytest.raises(FairrecError, match=r"one of the 2 processes of a training was killed.*another train.workers"):
        together(killed, 2, (1,))


def test_gpus_are_counted_before_anything_starts() -> None:
    with pytest.raises(OptionError, match=r"train.workers=1000 on CUDA needs as many GPUs.*device=cpu"):
        require_gpus(1000)


def test_a_team_of_one_tells_nobody_anything() -> None:
    team, x = Team.here(), torch.ones(2)
    team.add_up([x])
    team.follow_first([x])
    assert (team.size, team.is_first, team.from_first(lambda: 3.0, x.device), x.tolist()) == (1, True, 3.0, [1.0, 1.0])
