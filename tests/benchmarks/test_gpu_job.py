"""The GPU job at toy size on the CPU: cut anywhere it comes out the same, and its numbers are what they are called."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gpu_job
from benchmarks.gpu_job import compared, epoch_seconds, flops_per_step, main, profile, train
from benchmarks.jobs import BY_GROUP, LOSSES, Arm, Job, published_job, read_job, toy_job, write_job
from benchmarks.kernels import kernel_lines, kind_of
from benchmarks.padded import padded_scorer
from benchmarks.reference import PaddedSASRec, mean_ndcg
from fairrec_pipeline.errors import DataError
from fairrec_pipeline.metrics.ranking import ndcg, rank_targets
from fairrec_pipeline.parameters.methods import METHODS

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
    assert flops_per_step(job) == pytest.approx(whole / job.train.n_users * job.budget["batch_size"])


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
            "seconds_of_the_whole_budget": seconds / 2 * 10,
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


def test_trials_by_turns_equal_the_one_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_profile_has_the_steps_of_one_epoch(job: Job) -> None:
    measured = profile(job, Arm("erm", "pop33", None, 0, CPU), 3)
    launches = {kernel["name"]: kernel["launches"] for kernel in measured["step"]["kernels"]}
    assert launches["aten::_fused_adamw_"] == 1
    assert measured["step"]["floor_ms"] > 0
    assert "aten::_fused_adamw_" not in {kernel["name"] for kernel in measured["validation"]["kernels"]}
    for part in measured.values():
        assert part["launches"] == pytest.approx(sum(kind["launches"] for kind in part["by_kind"].values()))
        assert 0 < part["busy_ms"] <= part["ms"] * 1.5
        assert kernel_lines("erm", part)[0].startswith("erm: ")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "adam"),
        ("nvjet_sm90_tst_32x64_64x16_4x2_h_bz_coopA_NNN", "product"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("void at::native::(anonymous namespace)::GammaBetaBackwardCUDAKernelTemplate<float>", "norm"),
        ("void at::native::reduce_kernel<128, 4, at::native::ReduceOp<c10::BFloat16>>", "sum"),
        ("triton_poi_fused_add_native_dropout_0", "compiled"),
        ("void at::native::vectorized_elementwise_kernel<8, at::native::FillFunctor<float>>", "copy or fill"),
        ("what nobody knows", "other"),
    ],
)
def test_kinds_of_kernels(name: str, kind: str) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize("generated", [None, "retailrocket", "movielens-1m"])
def test_a_job_goes_through_a_file(job: Job, generated: str | None, tmp_path: Path) -> None:
    job = job if generated is None else published_job(generated, None, generated=True)
    write_job(job, tmp_path / "job.npz")
    read = read_job(tmp_path / "job.npz")
    for name in ("dataset", "backbone", "budget", "filter_seen"):
        assert getattr(read, name) == getattr(job, name)
    for name in ("train", "validation", "test"):
        before, after = vars(getattr(job, name)), vars(getattr(read, name))
        for part, value in before.items():
            np.testing.assert_array_equal(after[part], value)
            assert value is None or after[part].dtype == value.dtype
    for column in ("user_id", "pop33", "seq33"):
        assert read.user_groups[column].tolist() == job.user_groups[column].tolist()


WITHOUT_THE_PROJECTS_LIBRARIES = """
import sys
for name in ("duckdb", "ibis", "pydantic", "kedro", "mlflow", "pandera", "pyarrow", "sklearn"):
    sys.modules[name] = None  # importing it fails
from benchmarks.gpu_job import main
main(sys.argv[1:])
"""


def test_a_prepared_job_needs_few_libraries(tmp_path: Path) -> None:
    """Prepared here, trained there in two runs: as here in one."""
    job, output = str(tmp_path / "job.npz"), tmp_path / "record.json"
    main(["--quick", "--prepare", job])
    there = ["--quick", "--job", job, "--loss", "gdro", "--checkpoints", str(tmp_path), "--output", str(output)]
    as_many_threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # others round otherwise
    for epochs in ("2", "4"):
        command = [sys.executable, "-c", WITHOUT_THE_PROJECTS_LIBRARIES, *there, "--epochs", epochs]
        subprocess.run(command, check=True, capture_output=True, timeout=300, env=as_many_threads)
    (arm,) = json.loads(output.read_text())["arms"]
    assert arm["state"] == "complete"
    here = trained(toy_job(), Arm("gdro", "pop33", None, 0, CPU), tmp_path / "here")
    assert arm["test_ndcg_at_20"] == here["test_ndcg_at_20"]
    assert [row["loss"] for row in arm["curve"]] == [row["loss"] for row in here["curve"]]


def test_another_movielens_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        ratings = [f"{user}::{item}::5::{item}\n" for user in (1, 2) for item in (3, 4)]
        archive.writestr("ml-1m/ratings.dat", "".join(ratings))
        archive.writestr("ml-1m/users.dat", "1::F::1::10::48067\n2::M::56::16::70072\n")
    with pytest.raises(DataError, match=r"has 2 users, but movielens-1m has 6,040.*--generated"):
        published_job("movielens-1m", tmp_path)


def test_an_error_in_one_arm_leaves_the_record_of_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_in_the_second(job: Job, arm: Arm, **options: Any) -> dict[str, Any]:
        if arm.loss == "cb":
            message = "out of memory"
            raise RuntimeError(message)
        return train(job, arm, **options)

    monkeypatch.setattr(gpu_job, "train", fails_in_the_second)
    output = tmp_path / "record.json"
    with pytest.raises(RuntimeError, match="out of memory"):
        main(["--quick", "--loss", "erm", "cb", "--checkpoints", str(tmp_path), "--output", str(output)])
    assert [arm["arm"] for arm in json.loads(output.read_text())["arms"]] == ["erm"]


def test_the_first_epoch_is_not_the_usual_one() -> None:
    """Epochs of 9, 2, 2 and 5 seconds, of which validation took 8, .5, 1 and 1: training 1, 1.5, 1 and 4."""
    assert epoch_seconds([9.0, 11.0, 13.0, 18.0], [8.0, 0.5, 1.0, 1.0]) == (9.0, 2.0, 1.5)
    assert epoch_seconds([9.0], [8.0]) == (9.0, 9.0, 1.0)


def test_validation_is_timed_where_it_happens(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second slower in validation leaves the rate of the steps alone, whatever else shares the device."""
    before = rank_targets

    def slow(*arguments: Any, **options: Any) -> np.ndarray:
        time.sleep(0.5)
        return before(*arguments, **options)

    monkeypatch.setattr("fairrec_pipeline.training.validation.rank_targets", slow)
    arm = trained(job, Arm("erm", "pop33", None, 0, CPU), tmp_path)
    assert arm["seconds_of_validation"] > 4 * 0.5
    assert arm["seconds_of_training"] + arm["seconds_of_validation"] == pytest.approx(arm["seconds"])
    usual = float(np.median(np.diff([row["seconds"] for row in arm["curve"]])))
    assert usual > 0.5
    assert job.budget["steps_per_epoch"] / (usual - 0.5) / 2 < arm["steps_per_second"] < 1e5


def test_losses_are_those_of_the_table() -> None:
    """The paper's methods and erm over positions, their objectives and the arguments that are not options."""
    assert [*(loss for loss, method in METHODS.items() if method.of_paper), "erm_positions"] == list(LOSSES)
    for loss, (path, options) in LOSSES.items():
        assert path == METHODS[loss].objective
        assert METHODS[loss].arguments.items() <= options.items()
        assert METHODS[loss].needs_groups == (loss in BY_GROUP)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says that there is no GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match=r"no CUDA device here, .*--quick"):
        main([])
