"""Experiments: what is trained, what is not trained again, what is selected, and what is left when it is killed."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

from fairrec_pipeline.interactions.statistics import dataset_statistics
from fairrec_pipeline.training import arms as arms_module
from fairrec_pipeline.training import fit as fit_module
from fairrec_pipeline.experiments.train_arm import ArmData, Training, Trials, arm_data
from fairrec_pipeline.experiments.run import ArmOfExperiment, ArmResult, run_experiment
from fairrec_pipeline.training.fit import DivergenceError, fit
from fairrec_pipeline.experiments.grid import best_point, grid_points, point_name

# a process that is started to be killed imports this file, and what it does not need of Kedro would take seconds
if TYPE_CHECKING:
    from fairrec_pipeline.catalog.experiment_datasets import ArmResultsDataset

N_USERS, N_ITEMS, LENGTH, EPOCHS = 60, 25, 9, 2
MODEL = {
    "dim": 8, "feed_forward": 8, "blocks": 1, "heads": 1, "dropout": 0.1, "max_length": 8, "init_std": 0.02,
}  # fmt: skip
TRAIN = {
    "epochs": EPOCHS, "steps_per_epoch": 3, "batch_size": 16, "learning_rate": 0.01, "warm_up_steps": 0,
    "schedule": "constant", "warm_start_steps": 0, "patience": None, "precision": "fp32", "checkpoint_seconds": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def world() -> ArmData:
    rng = np.random.default_rng(0)
    users, positions = np.repeat(np.arange(N_USERS), LENGTH), np.tile(np.arange(LENGTH), N_USERS)
    roles = np.select([positions == LENGTH - 1, positions == LENGTH - 2], ["test", "validation"], "train")
    items = np.where(positions == 0, users % N_ITEMS, rng.integers(N_ITEMS, size=len(users)))
    interactions = pd.DataFrame(
        {"user_id": users, "item_id": items, "timestamp": positions, "position": positions, "role": roles}
    )
    names = np.arange(N_USERS)
    user_groups = pd.DataFrame(
        {
            "user_id": names,
            "train_length": LENGTH - 2,
            "popularity_ratio": 0.5,
            "pop33": np.array(["niche", "diverse", "popular"])[names % 3],
            "seq33": np.array(["short", "medium", "long"])[names // 3 % 3],
        }
    )
    statistics = {"dataset": "small", **dataset_statistics(interactions, user_groups), "prepared_with": {"split": {}}}
    return arm_data(interactions, user_groups, statistics, "small")


@pytest.fixture(scope="module")
def data() -> ArmData:
    return world()


def arm(name: str, grid: dict[str, list[Any]] | None = None, **options: Any) -> ArmOfExperiment:
    loss, _, groups = name.partition("-")
    training = Training(
        loss=loss, loss_groups=groups or None, options=options, model=MODEL, train=TRAIN, filter_seen=False, seed=0,
        device="cpu",
    )  # fmt: skip
    return ArmOfExperiment(training, grid)


def gdro(groups: str = "pop33") -> ArmOfExperiment:
    return arm(f"gdro-{groups}", eta=0.1, absent_groups="keep")


def arms() -> list[ArmOfExperiment]:
    return [arm("erm"), arm("cvar", {"alpha": [0.2, 0.9]}, alpha=0.5), gdro()]


class Run:
    """An experiment whose results are saved below a folder; every call is a session of its own."""

    def __init__(self, folder: Path, data: ArmData) -> None:
        self.folder, self.data, self.trials = folder, data, Trials(folder / "trials")

    def results(self, version: str = "1") -> ArmResultsDataset:
        from kedro.io import Version

        from fairrec_pipeline.catalog.experiment_datasets import ArmResultsDataset

        places = ({"path": str(self.folder / name)} for name in ("models", "outputs"))
        return ArmResultsDataset(*places, version=Version(None, version))

    def __call__(
        self,
        chosen: list[ArmOfExperiment],
        seeds: tuple[int, ...] = (0, 1),
        *,
        version: str = "1",
        at_once: int = 1,
        data: ArmData | None = None,
    ) -> list[ArmResult]:
        results, made = self.results(version), []
        saved = results.load()
        for result in run_experiment(chosen, seeds, data or self.data, self.trials, saved, at_once=at_once):
            results.save(result)
            made.append(result)
            self.saved(made)
        return made

    def saved(self, made: list[ArmResult]) -> None:
        """Called when one more result is saved."""

    def table(self) -> dict[str, pd.DataFrame]:
        """Newest metrics by `<arm>/seed-<n>`."""
        files = sorted((self.folder / "outputs").glob("*/seed-*/user_metrics.parquet/*/user_metrics.parquet"))
        return {str(file.parents[2].relative_to(self.folder / "outputs")): pd.read_parquet(file) for file in files}


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one an epoch that is trained in this process."""
    trained: list[int] = []
    train_epoch: Callable[..., Any] = fit_module._train_epoch

    def counted(*arguments: Any) -> Any:
        trained.append(1)
        return train_epoch(*arguments)

    monkeypatch.setattr(fit_module, "_train_epoch", counted)
    return trained


def assert_same(table: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    assert table.keys() == other.keys()
    for name, metrics in table.items():
        pd.testing.assert_frame_equal(metrics, other[name], check_exact=True)


def test_every_arm_and_seed_leaves_the_files_of_train(tmp_path: Path, data: ArmData) -> None:
    Run(tmp_path, data)(arms())
    for name in ("erm", "cvar", "gdro-pop33"):
        for seed in (0, 1):
            files = {path.name for path in (tmp_path / "outputs" / name / f"seed-{seed}").rglob("*") if path.is_file()}
            tuned = {"tuning_runs.json"} if (name, seed) == ("cvar", 0) else set()
            assert files == tuned | {
                "training_history.parquet", "user_weights.parquet", "run_card.json", "user_metrics.parquet",
                "group_metrics.parquet",
            }  # fmt: skip
            (model,) = (tmp_path / "models" / name / f"seed-{seed}").glob("model.safetensors/1/model.safetensors")
            assert model.with_name("config.json").exists()


def test_a_point_of_a_grid_tells_all_there_is_to_report(tmp_path: Path, data: ArmData) -> None:
    _, tuned, _ = Run(tmp_path, data)(arms(), seeds=(0,))
    runs = json.loads((tmp_path / "outputs/cvar/seed-0/tuning_runs.json/1/tuning_runs.json").read_text())
    assert [(run["point"], run["options"], run["seed"]) for run in runs] == [
        ("alpha=0.2", {"alpha": 0.2}, 0), ("alpha=0.9", {"alpha": 0.9}, 0),
    ]  # fmt: skip
    assert [len(run["history"]) for run in runs] == [EPOCHS, EPOCHS]
    best = max(runs, key=lambda run: run["card"]["validation_ndcg_at_20"])
    assert tuned.run_card["parameters"]["cvar"] == best["options"]
    # what the winner scores as a point of the grid is what it scores as an arm, overall and by group
    ndcg = tuned.user_metrics["ndcg_at_20"]
    niche = tuned.user_metrics.loc[tuned.user_metrics["user_id"] % 3 == 0, "ndcg_at_20"]
    assert best["test_ndcg_at_20"]["overall"] == pytest.approx(ndcg.mean())
    assert best["test_ndcg_at_20"]["pop33/niche"] == pytest.approx(niche.mean())


def test_the_winner_is_trained_with_the_other_seeds(tmp_path: Path, data: ArmData, epochs: list[int]) -> None:
    first, other = Run(tmp_path, data)([arm("cvar", {"alpha": [0.2, 0.9]}, alpha=0.5)])
    assert (first.run_card["seed"], other.run_card["seed"]) == (0, 1)
    assert other.run_card["parameters"]["cvar"] == first.run_card["parameters"]["cvar"]
    assert other.tuning_runs is None
    assert len(epochs) == 3 * EPOCHS  # two points, and the winner once more


def test_selection_does_not_look_at_the_test_targets(tmp_path: Path, data: ArmData) -> None:
    """With other test targets the same points win, though the test metrics are others."""
    grid = {"alpha": [0.1, 0.5, 1.0], "train.learning_rate": [0.003, 0.03]}
    other = replace(data, test=replace(data.test, targets=np.roll(data.test.targets, 7)))
    cards, tested = [], []
    for folder, seen in (("a", data), ("b", other)):
        (result,) = Run(tmp_path / folder, seen)([arm("cvar", grid, alpha=0.5)], seeds=(0,))
        assert result.tuning_runs is not None
        scores = [run["card"]["validation_ndcg_at_20"] for run in result.tuning_runs]
        assert len(set(scores)) > 1
        assert result.run_card["validation_ndcg_at_20"] == max(scores)
        cards.append(result.run_card["parameters"])
        tested.append([run["test_ndcg_at_20"]["overall"] for run in result.tuning_runs])
    assert cards[0] == cards[1]
    assert tested[0] != tested[1]


def test_a_grid_reaches_the_blocks_of_model_and_train(tmp_path: Path, data: ArmData) -> None:
    grid = {"model.dim": [4, 8], "train.learning_rate": [0.02]}
    (result,) = Run(tmp_path, data)([arm("erm", grid)], seeds=(0,))
    assert result.tuning_runs is not None
    tried = [run["card"]["parameters"] for run in result.tuning_runs]
    assert [parameters["model"]["dim"] for parameters in tried] == [4, 8]
    assert {parameters["train"]["learning_rate"] for parameters in tried} == {0.02}
    assert [run["point"] for run in result.tuning_runs] == [
        "model.dim=4-train.learning_rate=0.02", "model.dim=8-train.learning_rate=0.02",
    ]  # fmt: skip
    dim = result.run_card["parameters"]["model"]["dim"]
    assert result.model.tensors["output_embedding.weight"].shape == (N_ITEMS, dim)
    assert result.model.description["backbone"]["dim"] == dim


def test_nothing_is_trained_twice(tmp_path: Path, data: ArmData, epochs: list[int]) -> None:
    run = Run(tmp_path, data)
    run([arm("erm"), gdro()])
    assert len(epochs) == 4 * EPOCHS  # 2 arms x 2 seeds
    # another table with the same erm, and a grid one of whose points it has trained
    run([arm("erm"), gdro("seq33")], version="2")
    assert len(epochs) == 6 * EPOCHS
    (tuned,) = run([arm("erm", {"train.learning_rate": [0.01, 0.02]})], seeds=(0,), version="3")
    assert len(epochs) == 7 * EPOCHS
    assert tuned.tuning_runs is not None
    # what is complete is not saved again either, until it has to be
    assert run([arm("erm", {"train.learning_rate": [0.01, 0.02]})], seeds=(0,), version="4") == []
    assert len(run([arm("erm", {"train.learning_rate": [0.01, 0.03]})], seeds=(0,), version="5")) == 1


def test_other_data_or_another_seed_are_another_training(data: ArmData) -> None:
    training = arm("erm").training
    assert training.name(data) == arm("erm").training.name(data)
    assert training.name(data) != training.with_seed(1).name(data)
    assert training.name(data) != training.name(replace(data, fingerprint="0" * 64))
    # how often it is saved does not decide what a training results in
    assert training.name(data) == training.at({"train.checkpoint_seconds": 99.0}).name(data)


def _train(folder: str) -> None:
    torch.set_num_threads(1)
    list(run_experiment(arms(), (0, 1), world(), Trials(Path(folder)), {}))


def _kill_when(trials: Path, complete: int) -> None:
    """kill -9 the experiment when so many trainings are complete."""
    process = multiprocessing.get_context("spawn").Process(target=_train, args=(str(trials),))
    process.start()
    deadline = time.monotonic() + 60
    while len(list(trials.glob("*.json"))) < complete and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -9, "it was complete before it could be killed"


def test_killed_twice_it_ends_as_if_it_had_not_been(
    tmp_path: Path, data: ArmData, epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, whole = Run(tmp_path / "killed", data), Run(tmp_path / "whole", data)
    _kill_when(killed.trials.folder, 3)
    found = len(list(killed.trials.folder.glob("*.json")))
    assert found >= 3
    # and once more, now that arms are saved
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "saved", lambda _, made: _interrupt(made, 2))
        killed(arms(), version="2")
    assert len(killed.table()) == 2
    assert len(killed(arms(), version="3")) == 4
    assert len(epochs) <= (7 - found) * EPOCHS  # erm 2, cvar 2 + 1, gdro 2
    whole(arms())
    assert_same(killed.table(), whole.table())


def _interrupt(made: list[ArmResult], after: int) -> None:
    if len(made) == after:
        raise KeyboardInterrupt


def test_side_by_side_is_what_one_after_the_other_is(tmp_path: Path, data: ArmData, epochs: list[int]) -> None:
    """Bit for bit, with a thread each."""
    beside = Run(tmp_path / "beside", data)
    beside(arms(), at_once=2)
    assert epochs == []  # all in other processes
    alone = Run(tmp_path / "alone", data)
    alone(arms())
    assert_same(beside.table(), alone.table())
    for name in ("trials", "models"):
        files = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone" / name).rglob("*.safe*"))
        assert files == sorted(
            path.relative_to(tmp_path / "beside") for path in (tmp_path / "beside" / name).rglob("*.safe*")
        )
    assert beside(arms(), at_once=2, version="2") == []


def test_a_failing_training_ends_the_others_with_its_error(tmp_path: Path, data: ArmData) -> None:
    run = Run(tmp_path, data)
    endless = arm("cvar", None, alpha=0.5)
    endless = replace(endless, training=endless.training.at({"train.epochs": 10**6}))
    before = set(multiprocessing.active_children())
    with pytest.raises(ValueError, match="no column 'pop20'"):
        run([arm("erm"), gdro("pop20"), endless], at_once=2)
    deadline = time.monotonic() + 10
    while set(multiprocessing.active_children()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(multiprocessing.active_children()) - before
    assert list(run.table()) == ["erm/seed-0"]  # what was complete stays


def diverging(monkeypatch: pytest.MonkeyPatch, *alphas: float) -> None:
    """Trainings of cvar at these levels diverge."""

    def trainer(_loss: str, options: dict[str, Any]) -> Any:
        def diverge(*_: Any, **__: Any) -> Any:
            message = f"the loss is not finite at alpha {options['alpha']}"
            raise DivergenceError(message)

        return diverge if options.get("alpha") in alphas else fit

    monkeypatch.setattr(arms_module, "trainer", trainer)


def test_a_point_that_diverges_is_reported_and_not_selected(
    tmp_path: Path, data: ArmData, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging(monkeypatch, 0.2)
    tuned = arm("cvar", {"alpha": [0.2, 0.9]}, alpha=0.5)
    (result,) = Run(tmp_path, data)([tuned], seeds=(0,))
    assert result.tuning_runs is not None
    diverged, sound = result.tuning_runs
    assert result.run_card["parameters"]["cvar"] == {"alpha": 0.9}
    assert np.isnan(diverged["card"]["validation_ndcg_at_20"])
    assert diverged["card"]["diverged"] == "the loss is not finite at alpha 0.2"
    assert (diverged["history"], diverged["test_ndcg_at_20"]) == ([], {})
    assert len(sound["history"]) == EPOCHS


def test_a_grid_that_diverges_everywhere_stops_the_experiment(
    tmp_path: Path, data: ArmData, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging(monkeypatch, 0.2, 0.9)
    with pytest.raises(DivergenceError, match=r"no training of cvar with seed 0 .* alpha 0\.2"):
        Run(tmp_path, data)([arm("cvar", {"alpha": [0.2, 0.9]}, alpha=0.5)])


def test_points_and_their_choice() -> None:
    assert grid_points({"a": [1, 2], "b": [3, 4]}) == [
        {"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4},
    ]  # fmt: skip
    assert grid_points({}) == [{}]
    assert [point_name(point) for point in ({"a": 1, "b": 3}, {})] == ["a=1-b=3", "only"]
    cards = [{"validation_ndcg_at_20": score} for score in (0.1, 0.3, 0.2, 0.3)]
    assert best_point(cards) == 1
    assert best_point([{"validation_ndcg_at_20": float("nan"), "diverged": "it did"}, *cards]) == 2


def run_pipeline(project: Path, name: str, **runtime: Any) -> None:
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(project)
    with KedroSession.create(project, env="test", runtime_params=runtime) as session:
        session.run(pipeline_names=[name])


def test_the_pipelines_find_what_another_has_trained(project: Path, epochs: list[int]) -> None:
    experiment = {"experiment": "small", "experiments": {"small": {"arms": ["erm", "cvar"], "seeds": 2, "tune": True}}}
    run_pipeline(project, "experiment", **experiment)
    assert len(epochs) == 5 * 2  # erm with 2 seeds, 2 points of cvar and the winner with another seed; 2 epochs each
    comparison = pd.read_csv(project / "data/08_reporting/synthetic/comparison.csv")
    seeds = comparison[comparison["arm"].isin(["erm", "cvar"])].groupby("arm")["n_seeds"].max()
    assert seeds.to_dict() == {"cvar": 2, "erm": 2}

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("fairrec").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.data.tags["experiment"] == "small"
    children = sorted(run.info.run_name for run in runs if run.info.run_id != parent.info.run_id)
    assert children == [
        "cvar seed 0", "cvar seed 0 alpha=0.3", "cvar seed 0 alpha=0.9", "cvar seed 1", "erm seed 0", "erm seed 1",
    ]  # fmt: skip

    run_pipeline(project, "tune", loss="cvar")
    assert len(epochs) == 5 * 2
    arms = project / "data/07_model_output/synthetic"
    versions = [len(list(arms.glob(f"cvar/seed-{seed}/tuning_runs.json/*/tuning_runs.json"))) for seed in (0, 1)]
    assert versions == [2, 0]
