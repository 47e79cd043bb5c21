"""The compare pipeline from memory: order of the nodes, what reaches the catalog."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ibis
import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.selection import IncomparableArmsError
from fairrec_pipeline.interactions.histories import evaluation_histories, training_histories
from fairrec_pipeline.metrics.ranking import user_metrics
from fairrec_pipeline.pipelines.compare.nodes import draw_figures
from fairrec_pipeline.pipelines.compare.pipeline import create_pipeline, create_table1_pipeline
from fairrec_pipeline.report.evidence import Evidence
from fairrec_pipeline.report.verdict import verdict
from tests.worlds import EVALUATE, N_ITEMS, N_USERS, STATISTICS, interactions, record_of, user_groups, with_parts


def arms_of(*records: ArmRecord) -> SimpleNamespace:
    """What the catalog entry `arms` loads, as far as the pipeline knows it."""
    return SimpleNamespace(records=list(records).copy)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    events, rng = interactions(), np.random.default_rng(0)
    train = training_histories(events)
    validation, test = (evaluation_histories(events, train.catalogue, role) for role in ("validation", "test"))

    def arm(loss: str) -> ArmRecord:
        ranks = rng.integers(1, N_ITEMS, size=N_USERS)
        return record_of(loss, user_metrics(test, ranks, np.ones(N_USERS, dtype=np.float32)))

    return {
        "histories": SimpleNamespace(
            train=train, validation=validation, test=test, fingerprint=STATISTICS["fingerprint"]
        ),
        "user_groups": ibis.memtable(user_groups()),
        "interactions": ibis.memtable(events),
        "recommendations_folder": tmp_path,
        "dataset_statistics": STATISTICS,
        "arms": arms_of(arm("erm"), arm("cvar")),
        "params:dataset": "synthetic",
        "params:evaluate": EVALUATE,
    }


def run(pipeline: Pipeline, inputs: dict[str, Any]) -> dict[str, Any]:
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
    assert set(outputs) >= {"comparison_csv", "report_markdown", "report_html"}


def test_the_figures_of_the_catalog_are_those_of_the_report(inputs):
    evidence = run(create_pipeline().to_outputs("evidence"), inputs)["evidence"]
    figures, *kept = draw_figures(evidence)
    names = ("relative_change", "group_values", "repeat_and_new", "trade_off", "learning_curves")
    assert [figures[name] for name in names] == kept
    assert all(figures[name].data for name in names[:4])
    assert figures["learning_curves"].layout.annotations  # says that no history was kept


def test_what_arms_left_behind_reaches_the_report(inputs):
    erm, cvar = inputs["arms"].records()
    history = pd.DataFrame(
        {"epoch": [1, 2], "loss": [2.0, 1], "validation_ndcg_at_20": [0.1, 0.2], "seconds": [1.0, 2]}
    )
    users = np.arange(N_USERS)
    weights = pd.DataFrame({"user_id": users, "window": 0, "drawn": 1, "weight": np.where(users % 3 == 0, 2.0, 0.5)})
    common = {"seed": 0, "card": cvar.card}
    points = [
        {"point": f"alpha={a}", "options": {"alpha": a}, "test_ndcg_at_20": {"overall": a}, **common}
        for a in (0.1, 0.2)
    ]
    full = with_parts(cvar, training_history=history, user_weights=weights, tuning_runs=points)
    with_history = inputs | {"arms": arms_of(erm, full)}
    outputs = run(create_pipeline(), with_history)
    assert "alpha=0.1" in outputs["report_html"]
    assert "Whom the arms trained on" in outputs["report_markdown"]
    assert "not tuned alike" in outputs["report_markdown"]
    curves = run(create_pipeline().to_outputs("learning_curves_figure"), with_history)["learning_curves_figure"]
    assert any(trace.name == "cvar" for trace in curves.data)


def test_a_file_of_another_system_is_an_arm(inputs, tmp_path):
    users = np.repeat(np.arange(N_USERS), 20)
    lists = pd.DataFrame(
        {"user": users, "item": np.tile(np.arange(20), N_USERS), "rank": np.tile(np.arange(20), N_USERS)}
    )
    lists.to_parquet(tmp_path / "theirs.parquet")
    outputs = run(create_pipeline(), inputs)
    assert "*theirs* (foreign)" in outputs["report_markdown"]
    assert "theirs <small>foreign</small>" in outputs["report_html"].replace("</th>", "")
    assert "theirs: NDCG@20" in outputs["report_markdown"]
    assert "theirs" not in " ".join(verdict(Evidence(outputs["comparison_csv"])))
    coverage = outputs["comparison_csv"].query("arm == 'theirs' and metric == 'coverage_at_20' and split == 'overall'")
    assert coverage["value"].tolist() == [20 / N_ITEMS]
    assert "What the lists do to the items" in outputs["report_markdown"]


def test_untrained_arms_are_compared_where_nothing_was_trained(inputs):
    outputs = run(create_pipeline(), inputs | {"arms": arms_of()})
    assert "No arm was trained" in outputs["report_markdown"]


def test_arms_of_other_data_stop_it(inputs):
    erm, cvar = inputs["arms"].records()
    stranger = with_parts(cvar, {"data_fingerprint": "0" * 64})
    with pytest.raises(IncomparableArmsError, match="cvar"):
        run(create_pipeline(), inputs | {"arms": arms_of(erm, stranger)})


@pytest.mark.parametrize("changed", [{"fingerprint": "0" * 64}, {"dataset": "movielens-1m"}])
def test_histories_that_are_not_those_of_the_statistics_stop_it(inputs, changed):
    with pytest.raises(ValueError, match="not the prepared data of synthetic"):
        run(create_pipeline(), inputs | {"dataset_statistics": STATISTICS | changed})


def test_what_passes_between_nodes_can_be_sent_to_other_processes(inputs):
    """ParallelRunner pickles it, and an explicit MemoryDataset would break it."""
    baselines = run(create_pipeline().only_nodes("score_baselines"), inputs)
    selecting = create_pipeline().only_nodes("select_arms")
    selected = run(selecting, inputs | baselines | {"foreign_arms": []})["selected_arms"]
    again = pickle.loads(pickle.dumps(selected))
    assert [record.label for record in again] == [record.label for record in selected]
    for one, other in zip(selected, again, strict=True):
        pd.testing.assert_frame_equal(one.user_metrics, other.user_metrics)


def test_names_and_inputs_of_the_nodes():
    nodes = {node.name: node for node in create_pipeline().nodes}
    assert nodes.keys() == {
        *(
            "score_baselines",
            "judge_foreign",
            "select_arms",
            "compare_arms",
            "follow_trainings",
            "share_weights",
            "find_slices",
            "audit",
            "gather_evidence",
            "draw_figures",
            "report",
        )
    }
    assert max(len([name for name in node.inputs if not name.endswith("_figure")]) for node in nodes.values()) <= 8


def test_it_waits_for_the_arms_of_the_same_run():
    train = Pipeline([Node(lambda: 1, inputs=None, outputs="trained_arms", name="train")])
    ordered = [node.name for node in (train + create_pipeline(after=["trained_arms"])).nodes]
    assert ordered.index("train") < ordered.index("compare_arms") < ordered.index("report")


def test_table1_from_the_statistics():
    counts = {"n_users": 22_178, "n_items": 17_803, "n_interactions": 364_943, "group_shares": {}}
    inputs = {"dataset_statistics": counts, "params:dataset": "retailrocket"}
    outputs = run(create_table1_pipeline(), inputs)
    assert (outputs["table1_csv"]["difference"] == 0).all()
    assert outputs["table1_markdown"].startswith("# Table 1: retailrocket")
