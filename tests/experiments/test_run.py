"""Plans: what is trained, what is not trained again, what is selected, and what is left when it is killed."""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.arms.spec import ArmSpec, Plan
from fairrec_pipeline.errors import FairrecError, OptionError
from fairrec_pipeline.experiments import executors, train_arm
from fairrec_pipeline.experiments.executors import LocalExecutor
from fairrec_pipeline.experiments.grid import best_point
from fairrec_pipeline.experiments.run import run
from fairrec_pipeline.interactions.prepared import PreparedData
from fairrec_pipeline.training.divergence import DivergenceError
from fairrec_pipeline.training.fit import fit
from tests.projects import run_pipeline
from tests.worlds import N_ITEMS, TRAIN, points, prepared_data, spec_of, specs, store_at

EPOCHS = TRAIN["epochs"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return prepared_data()


class Session:
    """Runs plans whose records are saved below a folder; every call is a session of its own."""

    def __init__(self, folder: Path, data: PreparedData) -> None:
        self.folder, self.data = folder, data

    def __call__(
        self, chosen: Sequence[ArmSpec], seeds: tuple[int, ...] = (0, 1), *, version: str = "1", at_once: int = 1
    ) -> list[ArmRecord]:
        store, made = store_at(self.folder, version), []
        for record in run(Plan(name="p", specs=tuple(chosen), seeds=seeds), self.data, store, at_once=at_once):
            store.save(record)
            made.append(record)
            self.saved(made)
        return made

    def saved(self, made: list[ArmRecord]) -> None:
        """Called when one more record is saved."""

    def table(self) -> dict[tuple[str, int | None], pd.DataFrame]:
        """Newest metrics by arm and seed."""
        return {(record.arm, record.seed): record.user_metrics for record in store_at(self.folder).records()}


def assert_same(table: dict[Any, pd.DataFrame], other: dict[Any, pd.DataFrame]) -> None:
    assert table.keys() == other.keys()
    for name, metrics in table.items():
        pd.testing.assert_frame_equal(metrics, other[name], check_exact=True)


def test_every_arm_and_seed_leaves_a_whole_record(tmp_path: Path, data: PreparedData) -> None:
    Session(tmp_path, data)(specs())
    found = {(record.arm, record.seed): record for record in store_at(tmp_path).records()}
    assert set(found) == {(name, seed) for name in ("erm", "cvar", "gdro-pop33") for seed in (0, 1)}
    for (name, seed), record in found.items():
        store_at(tmp_path).check(record)
        tuned = {"tuning_runs"} if (name, seed) == ("cvar", 0) else set()
        assert set(record.card["parts"]) == tuned | {
            "model", "config", "training_history", "user_weights", "user_metrics", "validation_user_metrics",
            "group_metrics", "item_metrics",
        }  # fmt: skip
        assert record.card["groups_fingerprint"] == (data.group_fingerprints["pop33"] if "pop33" in name else None)
        assert record.model is not None
        assert record.model.config["catalogue"] == list(range(N_ITEMS))
        assert (record.model.config["arm"], record.model.config["seed"]) == (name, seed)


def test_validation_by_user_is_what_the_training_chose_its_epoch_by(tmp_path: Path, data: PreparedData) -> None:
    """The copy mechanism is fitted in every validation: what is kept are the weights of that epoch."""
    copying = {"tied_embeddings": True, "copy_window": 5}
    records = Session(tmp_path, data)([spec_of("erm"), spec_of("cvar", model=copying)], seeds=(0,))
    assert [record.arm for record in records] == ["erm", "cvar"]
    for record in records:
        validated = record.validation_user_metrics
        assert validated is not None
        assert list(validated.columns) == list(record.user_metrics.columns)
        assert validated["user_id"].tolist() == data.validation.users.tolist()
        assert validated["ndcg_at_20"].mean() == pytest.approx(record.card["validation_ndcg_at_20"], abs=1e-9)


def test_a_record_without_validation_by_user_is_made_again(
    tmp_path: Path, data: PreparedData, epochs: list[int]
) -> None:
    Session(tmp_path, data)([spec_of("erm")], seeds=(0,))
    (path,) = (path for path in tmp_path.rglob("run_card.json") if path.is_file())
    card = json.loads(path.read_text())
    del card["parts"]["validation_user_metrics"]
    path.write_text(json.dumps(card))
    (again,) = Session(tmp_path, data)([spec_of("erm")], seeds=(0,), version="2")
    assert again.validation_user_metrics is not None
    assert len(epochs) == EPOCHS  # from its checkpoint


def test_a_point_of_a_grid_tells_all_there_is_to_report(tmp_path: Path, data: PreparedData) -> None:
    _, tuned, _ = Session(tmp_path, data)(specs(), seeds=(0,))
    record = store_at(tmp_path).find("cvar", 0)
    assert record is not None
    tried = record.tuning_runs
    assert tried is not None
    assert [(each["point"], each["options"], each["seed"]) for each in tried] == [
        ("alpha=0.2", {"alpha": 0.2}, 0), ("alpha=0.9", {"alpha": 0.9}, 0),
    ]  # fmt: skip
    assert [len(each["history"]) for each in tried] == [EPOCHS, EPOCHS]
    best = max(tried, key=lambda each: each["card"]["validation_ndcg_at_20"])
    assert tuned.card["parameters"]["cvar"] == best["options"]
    # what the winner scores as a point of the grid is what it scores as an arm, overall and by group
    ndcg = tuned.user_metrics["ndcg_at_20"]
    niche = tuned.user_metrics.loc[tuned.user_metrics["user_id"] % 3 == 0, "ndcg_at_20"]
    assert best["test_ndcg_at_20"]["overall"] == pytest.approx(ndcg.mean())
    assert best["test_ndcg_at_20"]["pop33/niche"] == pytest.approx(niche.mean())


def test_the_cards_of_points_are_the_same_after_a_restart(tmp_path: Path, data: PreparedData) -> None:
    grid = points("cvar", "alpha", 0.2, 0.9)
    (first,) = Session(tmp_path / "a", data)(grid, seeds=(0,))
    list(run(Plan(name="p", specs=tuple(grid[:1]), seeds=(0,)), data, store_at(tmp_path / "b")))
    (again,) = Session(tmp_path / "b", data)(grid, seeds=(0,), version="2")
    assert first.tuning_runs is not None
    assert again.tuning_runs is not None
    for one, other in zip(first.tuning_runs, again.tuning_runs, strict=True):
        assert one["card"].keys() == other["card"].keys()
        assert "evaluation_code" in one["card"]


def test_the_winner_is_trained_with_the_other_seeds(tmp_path: Path, data: PreparedData, epochs: list[int]) -> None:
    first, other = Session(tmp_path, data)(points("cvar", "alpha", 0.2, 0.9))
    assert (first.seed, other.seed) == (0, 1)
    assert other.card["parameters"]["cvar"] == first.card["parameters"]["cvar"]
    assert other.tuning_runs is None
    assert len(epochs) == 3 * EPOCHS  # two points, and the winner once more


def test_test_targets_decide_nothing(tmp_path: Path, data: PreparedData) -> None:
    """With other test targets the scores on test are others, and the choice is the same."""
    targets = data.test.targets
    assert targets is not None
    other = replace(data, test=replace(data.test, targets=np.roll(targets, 7)))
    cards, tested = [], []
    for folder, seen in (("a", data), ("b", other)):
        (record,) = Session(tmp_path / folder, seen)(points("cvar", "alpha", 0.2, 0.5, 0.9), seeds=(0,))
        assert record.tuning_runs is not None
        scores = [each["card"]["validation_ndcg_at_20"] for each in record.tuning_runs]
        assert len(set(scores)) > 1
        assert record.card["validation_ndcg_at_20"] == max(scores)
        cards.append(record.card["parameters"])
        tested.append([each["test_ndcg_at_20"]["overall"] for each in record.tuning_runs])
    assert cards[0] == cards[1]
    assert tested[0] != tested[1]


def test_a_grid_reaches_the_blocks_of_model_and_train(tmp_path: Path, data: PreparedData) -> None:
    grid = [
        spec_of(
            "erm",
            model={"dim": dim},
            train={"learning_rate": 0.02},
            point={"model.dim": dim, "train.learning_rate": 0.02},
        )
        for dim in (4, 8)
    ]
    (record,) = Session(tmp_path, data)(grid, seeds=(0,))
    assert record.tuning_runs is not None
    tried = [each["card"]["parameters"] for each in record.tuning_runs]
    assert [parameters["model"]["dim"] for parameters in tried] == [4, 8]
    assert {parameters["train"]["learning_rate"] for parameters in tried} == {0.02}
    assert [each["point"] for each in record.tuning_runs] == [
        "model.dim=4-train.learning_rate=0.02", "model.dim=8-train.learning_rate=0.02",
    ]  # fmt: skip
    dim = record.card["parameters"]["model"]["dim"]
    assert record.model is not None
    assert record.model.weights["output_embedding.weight"].shape == (N_ITEMS, dim)
    assert record.model.config["backbone"]["dim"] == dim


def test_nothing_is_trained_twice(tmp_path: Path, data: PreparedData, epochs: list[int]) -> None:
    session, rates = Session(tmp_path, data), "train.learning_rate"
    session([spec_of("erm"), spec_of("gdro-pop33")])
    assert len(epochs) == 4 * EPOCHS  # 2 arms x 2 seeds
    # another table with the same erm, and a grid one of whose points it has trained
    session([spec_of("erm"), spec_of("gdro-seq33")], version="2")
    assert len(epochs) == 6 * EPOCHS
    (tuned,) = session(points("erm", rates, 0.01, 0.02), seeds=(0,), version="3")
    assert len(epochs) == 7 * EPOCHS
    assert tuned.tuning_runs is not None
    # what is complete is not saved again either, until it has to be
    assert session(points("erm", rates, 0.01, 0.02), seeds=(0,), version="4") == []
    assert len(session(points("erm", rates, 0.01, 0.03), seeds=(0,), version="5")) == 1


def test_one_more_attribute_trains_nothing(tmp_path: Path, data: PreparedData, epochs: list[int]) -> None:
    session = Session(tmp_path, data)
    session([spec_of("erm"), spec_of("gdro-pop33")], seeds=(0,))
    trained = len(epochs)
    segment = np.where(np.arange(len(data.user_groups)) % 2, "odd", "even")
    session.data = prepared_data(segment=segment)
    assert session([spec_of("erm"), spec_of("gdro-pop33")], seeds=(0,), version="2") == []
    assert len(epochs) == trained
    (record,) = session([spec_of("gdro-segment")], seeds=(0,), version="3")
    assert record.card["groups_fingerprint"] == session.data.group_fingerprints["segment"]


def test_the_same_training_under_another_name_is_an_arm_of_its_own(
    tmp_path: Path, data: PreparedData, epochs: list[int]
) -> None:
    session = Session(tmp_path, data)
    session([spec_of("erm")], seeds=(0,))
    session([spec_of("erm", variants=("deep",), backbone="deep")], seeds=(0,), version="2")
    assert len(epochs) == EPOCHS
    first, second = store_at(tmp_path).records()
    assert [(record.arm, record.backbone) for record in (first, second)] == [("erm", None), ("erm@deep", "deep")]
    assert first.card["training"] == second.card["training"]


def test_a_damaged_record_is_made_again(
    tmp_path: Path, data: PreparedData, epochs: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(tmp_path, data)
    session([spec_of("erm")], seeds=(0,))
    (weights,) = (tmp_path / "models").rglob("1/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    trained = len(epochs)
    with caplog.at_level(logging.WARNING):
        (again,) = session([spec_of("erm")], seeds=(0,), version="2")
    assert f"erm seed 0 is made again: {weights} was changed" in caplog.text
    assert len(epochs) == trained  # from its checkpoint
    store_at(tmp_path).check(next(iter(store_at(tmp_path).records())))
    assert again.card["training"]


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, data: PreparedData) -> None:
    session = Session(tmp_path, data)
    session([spec_of("erm")], seeds=(0,))
    (checkpoint,) = (tmp_path / "trials").glob("*.safetensors")
    content = bytearray(checkpoint.read_bytes())
    content[-1] ^= 1
    checkpoint.write_bytes(bytes(content))
    for path in (tmp_path / "outputs").rglob("run_card.json"):
        if path.is_file():
            path.unlink()
    with pytest.raises(Exception, match=str(checkpoint)):
        session([spec_of("erm")], seeds=(0,), version="2")


def _train(folder: str) -> None:
    torch.set_num_threads(1)
    list(run(Plan(name="p", specs=tuple(specs()), seeds=(0, 1)), prepared_data(), store_at(Path(folder))))


def _kill_when(folder: Path, complete: int) -> None:
    """kill -9 the run when so many trainings are complete."""
    process = multiprocessing.get_context("spawn").Process(target=_train, args=(str(folder),))
    process.start()
    deadline = time.monotonic() + 60
    trials = folder / "trials"
    while len(list(trials.glob("*.json"))) < complete and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -9, "it was complete before it could be killed"


def test_killed_twice_it_ends_as_if_it_had_not_been(
    tmp_path: Path, data: PreparedData, epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, whole = Session(tmp_path / "killed", data), Session(tmp_path / "whole", data)
    _kill_when(killed.folder, 3)
    found = len(list((killed.folder / "trials").glob("*.json")))
    assert found >= 3
    # and once more, now that arms are saved
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Session, "saved", lambda _, made: _interrupt(made, 2))
        killed(specs(), version="2")
    assert len(killed.table()) == 2
    assert len(killed(specs(), version="3")) == 4
    assert len(epochs) <= (7 - found) * EPOCHS  # erm 2, cvar 2 + 1, gdro 2
    whole(specs())
    assert_same(killed.table(), whole.table())
    assert not list(tmp_path.rglob("*.partial"))


def _interrupt(made: list[ArmRecord], after: int) -> None:
    if len(made) == after:
        raise KeyboardInterrupt


def test_side_by_side_is_what_one_after_the_other_is(tmp_path: Path, data: PreparedData, epochs: list[int]) -> None:
    """Bit for bit, with a thread each."""
    beside, alone = Session(tmp_path / "beside", data), Session(tmp_path / "alone", data)
    beside(specs(), at_once=2)
    assert epochs == []  # all in other processes
    alone(specs())
    assert_same(beside.table(), alone.table())
    for name in ("trials", "models"):
        files = sorted(path.relative_to(alone.folder) for path in (alone.folder / name).rglob("*.safe*"))
        assert files == sorted(path.relative_to(beside.folder) for path in (beside.folder / name).rglob("*.safe*"))
    assert beside(specs(), at_once=2, version="2") == []


def test_on_a_gpu_several_take_turns_in_this_process(
    tmp_path: Path, data: PreparedData, epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the CPU in its place, where the outcome is that of one after the other bit for bit."""
    monkeypatch.setattr(executors, "resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(executors, "CudaLane", lambda: nullcontext)
    by_turns, alone = Session(tmp_path / "turns", data), Session(tmp_path / "alone", data)
    by_turns(specs(), at_once=2)
    here = len(epochs)
    alone(specs())
    assert len(epochs) == 2 * here > 0
    assert_same(by_turns.table(), alone.table())


def test_an_error_ends_no_process_but_its_trainings(tmp_path: Path, data: PreparedData) -> None:
    """Two nodes may train at the same time (`ThreadRunner`), and a session may have processes for something else."""
    executor = LocalExecutor(data, store_at(tmp_path), at_once=2, total=2, description="")
    executor._started()
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    other.start()
    with pytest.raises(RuntimeError, match="no"), executor:
        raise RuntimeError("no")
    other.join(timeout=1)
    assert other.is_alive()
    other.kill()
    other.join()


def test_a_process_that_is_killed_is_no_bug_of_the_project(tmp_path: Path, data: PreparedData) -> None:
    """As by a machine that is out of memory: the run ends with one sentence and what to do."""
    executor = LocalExecutor(data, store_at(tmp_path), at_once=2, total=2, description="")
    with pytest.raises(FairrecError, match=r"one of the 2 processes .* was killed.*The same command"), executor:
        card = executor.submit(spec_of("erm", train={"epochs": 10**6}))
        assert executor._pool is not None
        for process in list(executor._pool._processes.values()):
            process.kill()
        card()
    with pytest.raises(FairrecError, match="was killed"):  # also for whoever comes next
        executor.submit(spec_of("cvar"))


def test_a_failing_training_ends_the_others_with_its_error(tmp_path: Path, data: PreparedData) -> None:
    session = Session(tmp_path, data)
    endless = spec_of("cvar", train={"epochs": 10**6})
    before = set(multiprocessing.active_children())
    with pytest.raises(Exception, match="no column 'pop20'"):
        session([spec_of("erm"), spec_of("gdro-pop20"), endless], at_once=2)
    deadline = time.monotonic() + 10
    while set(multiprocessing.active_children()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(multiprocessing.active_children()) - before
    assert list(session.table()) == [("erm", 0)]  # what was complete stays


def diverging(monkeypatch: pytest.MonkeyPatch, *alphas: float) -> None:
    """Trainings of cvar at these levels diverge."""

    def trainer(spec: ArmSpec, *arguments: Any, **options: Any) -> Any:
        alpha = getattr(spec.objective.options, "alpha", None)
        if alpha in alphas:
            message = f"the loss is not finite at alpha {alpha}"
            raise DivergenceError(message)
        return fit(spec, *arguments, **options)

    monkeypatch.setattr(train_arm, "resolve_name", lambda _: trainer)


def test_a_gpu_without_enough_memory_is_a_mistake_and_no_bug(
    tmp_path: Path, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        message = "CUDA out of memory. Tried to allocate 2.00 GiB.\nProcess 7 has ..."
        raise torch.OutOfMemoryError(message)

    said = r"erm seed 0 does not fit .*\(CUDA out of memory. Tried to allocate 2.00 GiB.\). Lower train.batch_size"
    with monkeypatch.context() as patch, pytest.raises(OptionError, match=said):
        patch.setattr(train_arm, "resolve_name", lambda _: full)
        Session(tmp_path, data)([spec_of("erm")], seeds=(0,))
    monkeypatch.setattr(train_arm, "evaluate", full)
    with pytest.raises(OptionError, match=said):
        Session(tmp_path, data)([spec_of("erm")], seeds=(0,))


def test_a_point_that_diverges_is_reported_and_not_selected(
    tmp_path: Path, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging(monkeypatch, 0.2)
    (record,) = Session(tmp_path, data)(points("cvar", "alpha", 0.2, 0.9), seeds=(0,))
    assert record.tuning_runs is not None
    diverged, sound = record.tuning_runs
    assert record.card["parameters"]["cvar"] == {"alpha": 0.9}
    assert np.isnan(diverged["card"]["validation_ndcg_at_20"])
    assert diverged["card"]["diverged"] == "the loss is not finite at alpha 0.2"
    assert (diverged["history"], diverged["test_ndcg_at_20"]) == ([], {})
    assert len(sound["history"]) == EPOCHS


def test_a_grid_that_diverges_everywhere_stops_the_run(
    tmp_path: Path, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging(monkeypatch, 0.2, 0.9)
    with pytest.raises(DivergenceError, match=r"no training of cvar with seed 0 .* alpha 0\.2"):
        Session(tmp_path, data)(points("cvar", "alpha", 0.2, 0.9))


def test_the_best_point_and_the_first_among_equals() -> None:
    cards = [{"validation_ndcg_at_20": score} for score in (0.1, 0.3, 0.2, 0.3)]
    assert best_point(cards) == 1
    assert best_point([{"validation_ndcg_at_20": float("nan"), "diverged": "it did"}, *cards]) == 2


def test_the_pipelines_find_what_another_has_trained(project: Path, epochs: list[int]) -> None:
    experiment = {"experiment": "small", "experiments": {"small": {"arms": ["erm", "cvar"], "seeds": 2, "tune": True}}}
    run_pipeline(project, "experiment", **experiment)
    assert len(epochs) == 5 * 2  # erm with 2 seeds, 2 points of cvar and the winner with another seed; 2 epochs each
    comparison = pd.read_csv(project / "data/08_reporting/synthetic/comparison.csv")
    seeds = comparison[comparison["arm"].isin(["erm", "cvar"])].groupby("arm")["n_seeds"].max()
    assert seeds.to_dict() == {"cvar": 2, "erm": 2}

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")

    def children() -> list[str]:
        runs = client.search_runs([client.get_experiment_by_name("fairrec").experiment_id])
        (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        assert parent.data.tags["experiment"] == "small"
        assert {run.info.status for run in runs} == {"FINISHED"}
        return sorted(run.info.run_name for run in runs if run.info.run_id != parent.info.run_id)

    logged = [
        "cvar seed 0", "cvar seed 0 alpha=0.3", "cvar seed 0 alpha=0.9", "cvar seed 1", "erm seed 0", "erm seed 1",
    ]  # fmt: skip
    assert children() == logged

    # the same arm by its own command: there is nothing to train, to save or to track
    run_pipeline(project, "tune", loss="cvar")
    assert len(epochs) == 5 * 2
    assert children() == logged
    versions = list((project / "data/07_model_output/synthetic/cvar/seed-0/tuning_runs.json").glob("*/*.json"))
    assert len(versions) == 1
    assert len(json.loads(versions[0].read_text())) == 2
