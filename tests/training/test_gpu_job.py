"""The GPU job at toy size on the CPU: cut anywhere it comes out the same, and its numbers are what they are called."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu_job import Arm, Job, compared, flops_per_step, main, padded_scorer, profile, toy_job, train
from benchmarks.reference import PaddedSASRec, mean_ndcg
from fairrec_pipeline.evaluation.ranking import ndcg, rank_targets

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def job() -> Job:
    return toy_job()


def trained(job: Job, arm: Arm, folder: Path, epochs: int | None = None, seconds: float = math.inf) -> dict[str, Any]:
    return train(job, arm, deadline=time.monotonic() + seconds, epochs=epochs, folder=folder)


@pytest.mark.parametrize("padding", [None, "attended", "masked"])
def test_cut_in_two_is_the_same(job: Job, padding: str | None, tmp_path: Path) -> None:
    arm = Arm("cvar", "pop33", padding, 3, CPU)
    whole = trained(job, arm, tmp_path / "whole")
    first = trained(job, arm, tmp_path / "cut", epochs=2)
    assert first["state"] == "paused; the same command goes on from epoch 3"
    assert len(first["curve"]) == 2
    second = trained(job, arm, tmp_path / "cut")
    assert whole["state"] == second["state"] == "complete"
    assert [(row["loss"], row["validation_ndcg_at_20"]) for row in second["curve"]] == [
        (row["loss"], row["validation_ndcg_at_20"]) for row in whole["curve"]
    ]
    assert second["test_ndcg_at_20"] == whole["test_ndcg_at_20"]
    again = trained(job, arm, tmp_path / "cut")  # complete: evaluated again, not trained again
    assert again["curve"] == second["curve"]


def test_the_deadline_pauses_after_the_epoch_that_passes_it(job: Job, tmp_path: Path) -> None:
    arm = Arm("erm", "pop33", None, 0, CPU)
    assert len(trained(job, arm, tmp_path, seconds=0)["curve"]) == 1
    # over before it begins: nothing is trained, what is there is evaluated
    assert len(trained(job, arm, tmp_path, seconds=0)["curve"]) == 1


def test_groups_make_up_the_whole(job: Job, tmp_path: Path) -> None:
    """The mean over the test users is the mean of the groups' means, weighted with their users."""
    means = trained(job, Arm("gdro", "seq33", None, 0, CPU), tmp_path, epochs=1)["test_ndcg_at_20"]
    groups = job.user_groups.set_index("user_id").loc[job.test.users]
    for split in ("pop33", "seq33"):
        sizes = groups[split].value_counts()
        parts = [means[f"{split}/{group}"] * size for group, size in sizes.items()]
        assert sum(parts) / sizes.sum() == pytest.approx(means["overall"], rel=1e-12)


def test_flops_of_a_mean_step_by_hand(job: Job) -> None:
    """step_flops, written out: 6 (positions (blocks (4 d^2 + 2 d f) + d items) + blocks d sum l (l + 1)), per user."""
    lengths = np.minimum(job.train.lengths, job.backbone["max_length"]).astype(float)
    d, f, blocks = job.backbone["dim"], job.backbone["feed_forward"], job.backbone["blocks"]
    per_position = blocks * (4 * d * d + 2 * d * f) + d * job.train.n_items
    whole = 6 * (lengths.sum() * per_position + blocks * d * (lengths * (lengths + 1)).sum())
    assert flops_per_step(job) == pytest.approx(whole / job.train.n_users * job.budget.batch_size)


def test_padded_ranks_agree_with_top_k_lists(job: Job) -> None:
    torch.manual_seed(0)
    model = PaddedSASRec(job.train.n_items, **job.backbone, padding="attended")
    scorer = padded_scorer(model, job.test, 16, CPU)
    ours = ndcg(rank_targets(scorer, job.test, filter_seen=True), 20).mean()
    theirs = mean_ndcg(model, job.test, k=20, batch_size=16, filter_seen=True)
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_trials_an_hour_and_equality() -> None:
    """Ten epochs in all. Alone 2 epochs in 72 s: 360 s a training, 10 an hour. Two at once, the slower one 2 epochs in
    120 s: 600 s a training, 6 an hour each, 12 together. They begin at 0 and 20 and end at 120 and 100: both are at
    work for 80 of 120 s."""

    def arm(seed: int, seconds: float, loss: float, test: float, begun: float, ended: float) -> dict[str, Any]:
        curve = [{"loss": loss}, {"loss": 2.0}]
        return {
            "seed": seed,
            "epochs": 2,
            "epochs_of_the_budget": 10,
            "seconds": seconds,
            "curve": curve,
            "test_ndcg_at_20": {"overall": test},
            "begun": begun,
            "ended": ended,
        }

    alone, other = arm(0, 72, 4.0, 0.2, 0, 72), arm(1, 100, 5.0, 0.3, 20, 100)
    result = compared("erm", alone, [arm(0, 120, 4.002, 0.2, 0, 120), other])
    assert result["per_hour_alone"] == pytest.approx(10)
    assert result["per_hour_together"] == pytest.approx(12)
    assert result["overlap"] == pytest.approx(80 / 120)
    assert result["loss_difference_of_first_epoch"] == pytest.approx(0.0005)
    assert result["within_tolerance"] is True
    assert compared("erm", alone, [arm(0, 120, 4.008, 0.2, 0, 120), other])["within_tolerance"] is False
    assert compared("erm", alone, [arm(0, 120, 4.0, 0.206, 0, 120), other])["within_tolerance"] is False
    with pytest.raises(RuntimeError, match="no epoch was trained"):
        compared("erm", alone, [{**other, "curve": []}])


def test_trials_in_processes_equal_the_one_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the CPU to the bit."""
    output = tmp_path / "record.json"
    common = ["--quick", "--epochs", "1", "--trials", "2", "--checkpoints", str(tmp_path)]
    main([*common, "--output", str(output)])
    (trial,) = json.loads(output.read_text())["trials"]
    assert [arm["seed"] for arm in trial["together"]] == [0, 1]
    assert trial["loss_difference_largest"] == trial["test_ndcg_at_20_difference"] == 0
    assert trial["together"][0]["curve"][0]["loss"] != trial["together"][1]["curve"][0]["loss"]
    assert "erm_within_tolerance=True" in capsys.readouterr().out


def test_record_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "record.json"
    main(["--quick", "--loss", "erm", "gdro", "--checkpoints", str(tmp_path), "--output", str(output)])
    record = json.loads(output.read_text())
    assert {"command", "date", "device", "versions", "job", "arms"} == record.keys()
    assert [arm["arm"] for arm in record["arms"]] == ["erm", "gdro-pop33"]
    for arm in record["arms"]:
        assert arm["seconds"] == pytest.approx(arm["seconds_of_training"] + arm["seconds_of_validation"])
        assert arm["tflops"] * 1e3 == pytest.approx(arm["steps_per_second"] * record["job"]["gflops_per_step"])
    printed = capsys.readouterr().out
    assert "erm_tflops=" in printed
    assert "gdro_pop33_test_ndcg_at_20_seq33_short=" in printed


def test_profile_has_the_steps_of_one_epoch(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_job.PROFILED_STEPS", 3)
    rows = [line.split() for line in profile(job, Arm("erm", "pop33", None, 0, CPU)).splitlines()]
    (adam,) = [row for row in rows if row and row[0] == "Optimizer.step#Adam.step"]
    assert adam[-1] == "3"  # number of calls


@pytest.mark.skipif(torch.cuda.is_available(), reason="says that there is no GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match=r"no CUDA device here, .*--quick"):
        main([])
