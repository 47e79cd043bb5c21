"""The compare pipeline from memory: order of the nodes, what reaches the catalog."""

from __future__ import annotations

import dataclasses
import json

import ibis
import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from fairrec_pipeline.catalog.arms import TrainedArmsDataset
from fairrec_pipeline.comparison.comparison import IncomparableArmsError, TrainedArm
from fairrec_pipeline.interactions.histories import evaluation_histories, training_histories
from fairrec_pipeline.interactions.statistics import dataset_statistics
from fairrec_pipeline.metrics.ranking import user_metrics
from fairrec_pipeline.parameters.blocks import Evaluate
from fairrec_pipeline.pipelines.compare import create_pipeline

N_USERS, N_ITEMS, LENGTH = 60, 12, 6


@pytest.fixture
def inputs() -> dict[str, object]:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(N_USERS), LENGTH)
    positions = np.tile(np.arange(LENGTH), N_USERS)
    interactions = pd.DataFrame(
        {
            "user_id": users,
            # every item occurs in training; the rest is drawn
            "item_id": np.where(positions == 0, users % N_ITEMS, rng.integers(N_ITEMS, size=len(users))),
            "timestamp": positions,
            "position": positions,
            "role": np.select([positions == LENGTH - 1, positions == LENGTH - 2], ["test", "validation"], "train"),
        }
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
    statistics = {"dataset": "synthetic", **dataset_statistics(interactions, user_groups)}
    test = evaluation_histories(interactions, training_histories(interactions).catalogue, "test")

    def arm(loss: str) -> TrainedArm:
        ranks = rng.integers(1, N_ITEMS, size=N_USERS)
        card = {"parameters": {"seed": 0}, "seconds": 1.0, "device": "cpu", "finished": "2026-01-01"}
        metrics = user_metrics(test, ranks, np.ones(N_USERS, dtype=np.float32))
        return TrainedArm(loss, loss, None, 0, statistics["fingerprint"], card, metrics)

    return {
        "interactions": ibis.memtable(interactions),
        "user_groups": ibis.memtable(user_groups),
        "dataset_statistics": statistics,
        "trained_arms": [arm("erm"), arm("cvar")],
        "params:dataset": "synthetic",
        "params:evaluate": Evaluate(
            filter_seen=False, confidence=0.95, significance=0.05, correction="holm", other_data="refuse", top_k=20
        ),
    }


def run(pipeline: Pipeline, inputs: dict[str, object]) -> dict[str, object]:
    catalog = DataCatalog({name: MemoryDataset(value, copy_mode="assign") for name, value in inputs.items()})
    return {name: dataset.load() for name, dataset in SequentialRunner().run(pipeline, catalog).items()}


def test_everything_a_reader_wants_comes_out(inputs):
    outputs = run(create_pipeline(), inputs)
    comparison = outputs["comparison_csv"]
    assert list(comparison["arm"].unique()) == ["erm", "cvar", "markov", "markov_recency", "popularity", "recency"]
    assert set(comparison["split"]) == {
        *("overall", "pop33", "seq33", "atomic", "target"),
        *("pop33 by target", "seq33 by target"),
    }
    assert "recency" in outputs["report_markdown"]
    assert "plotly-graph-div" in outputs["report_html"]
    for name in ("relative_change_figure", "group_values_figure", "repeat_and_new_figure", "trade_off_figure"):
        assert outputs[name].data
    assert outputs["learning_curves_figure"].layout.annotations  # says that no history was kept


def test_what_arms_left_behind_reaches_the_report(inputs):
    erm, cvar = inputs["trained_arms"]
    history = pd.DataFrame(
        {"epoch": [1, 2], "loss": [2.0, 1], "validation_ndcg_at_20": [0.1, 0.2], "seconds": [1.0, 2]}
    )
    users = np.arange(N_USERS)
    weights = pd.DataFrame({"user_id": users, "window": 0, "drawn": 1, "weight": np.where(users % 3 == 0, 2.0, 0.5)})
    points = [
        {"point": f"alpha={a}", "options": {"alpha": a}, "card": cvar.card, "test_ndcg_at_20": {"overall": a}}
        for a in (0.1, 0.2)
    ]
    left = dataclasses.replace(cvar, history=history, user_weights=weights, tuning_runs=points)
    outputs = run(create_pipeline(), inputs | {"trained_arms": [erm, left]})
    assert "alpha=0.1" in outputs["report_html"]
    assert "Whom the arms trained on" in outputs["report_markdown"]
    assert "not tuned alike" in outputs["report_markdown"]
    assert any(trace.name == "cvar" for trace in outputs["learning_curves_figure"].data)


def test_untrained_arms_are_compared_where_nothing_was_trained(inputs):
    outputs = run(create_pipeline(), inputs | {"trained_arms": []})
    assert "No arm was trained" in outputs["report_markdown"]


def test_arms_of_other_data_stop_it(inputs):
    stranger = dataclasses.replace(inputs["trained_arms"][1], data_fingerprint="0" * 64)
    with pytest.raises(IncomparableArmsError, match="cvar"):
        run(create_pipeline(), inputs | {"trained_arms": [inputs["trained_arms"][0], stranger]})


def test_tables_that_are_not_those_of_the_statistics_stop_it(inputs):
    with pytest.raises(ValueError, match="not the prepared data"):
        run(
            create_pipeline(), inputs | {"dataset_statistics": inputs["dataset_statistics"] | {"fingerprint": "0" * 64}}
        )


def test_an_arm_comes_with_what_lies_beside_it(tmp_path):
    def write(arm: str, version: str, *names: str) -> None:
        for name in names:
            file = tmp_path / arm / "seed-0" / name / version / name
            file.parent.mkdir(parents=True)
            if name == "run_card.json":
                about = {"arm": arm, "loss": arm, "loss_groups": None, "seed": 0, "data_fingerprint": version}
                file.write_text(json.dumps(about))
            elif name.endswith(".json"):
                file.write_text(json.dumps([{"point": version}]))
            else:
                pd.DataFrame({"version": [version]}).to_parquet(file)

    needed = ("user_metrics.parquet", "run_card.json")
    more = ("training_history.parquet", "user_weights.parquet", "tuning_runs.json")
    write("cvar", "2026-01-01", *needed, *more)
    write("erm", "2026-01-01", *needed, *more)
    write("erm", "2026-01-02", *needed, more[0])  # trained again, not tuned
    cvar, erm = TrainedArmsDataset(str(tmp_path)).load()
    assert cvar.user_weights["version"].tolist() == ["2026-01-01"]
    assert cvar.tuning_runs == [{"point": "2026-01-01"}]
    assert erm.history["version"].tolist() == ["2026-01-02"]
    assert erm.user_weights is None
    assert erm.tuning_runs is None


def test_it_waits_for_the_arms_of_the_same_run():
    train = Pipeline([Node(lambda: 1, inputs=None, outputs="erm.user_metrics", name="train")])
    ordered = [node.name for node in (train + create_pipeline(after=["erm.user_metrics"])).nodes]
    assert ordered.index("train") < ordered.index("compare") < ordered.index("report")
