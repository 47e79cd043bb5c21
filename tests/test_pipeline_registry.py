"""What can be run, and that every dataset of it has a place on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from fairrec_pipeline.parameters.methods import METHODS
from fairrec_pipeline.pipeline_registry import PAPER_METHODS, register_pipelines

CHAIN = [
    "ingest",
    "filter_core",
    "assign_groups",
    "split_leave_one_out",
    "make_arrays",
    "check_arms",
    *(f"train_{method}" for method in PAPER_METHODS),
    "select_arms",
    "compare_arms",
    "report",
]
NAMES = ["__default__", "data", "train", "tune", "experiment", "compare", "table1", "recommend", "promote"]
HANDLES = {"checked_arms", "selected_arms", "promotion"}
"""Small objects that nodes hand on; what they stand for lies in the store."""


def test_the_pipelines_of_the_interface() -> None:
    assert set(NAMES) <= set(register_pipelines())


def test_the_methods_of_the_paper() -> None:
    assert PAPER_METHODS == ("erm", "cb", "cb_log", "ipw", "ipw_log", "gdro", "sdro", "cvar")


def test_the_default_pipeline_is_the_chain_of_the_card_with_one_node_a_method() -> None:
    pipeline = register_pipelines()["__default__"]
    order = [node.name.rpartition(".")[2] for node in pipeline.nodes]
    places = {name: order.index(name) for name in CHAIN}
    stages = ["ingest", "filter_core", "assign_groups", "split_leave_one_out", "make_arrays", "check_arms"]
    trained = [places[f"train_{method}"] for method in PAPER_METHODS]
    after = ["select_arms", "compare_arms", "report"]
    assert [places[name] for name in stages] == sorted(places[name] for name in stages)
    assert places["check_arms"] < min(trained) <= max(trained) < places["select_arms"]
    assert [places[name] for name in after] == sorted(places[name] for name in after)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_have_few_inputs(name: str) -> None:
    """What a node takes is read at a glance; what only orders nodes is not taken."""
    for node in register_pipelines()[name].nodes:
        taken = [each for each in node.inputs if not (each.startswith("trained_") or each.endswith("_figure"))]
        assert len(taken) <= 8, node.name


@pytest.mark.parametrize("name", NAMES)
def test_nothing_falls_through_to_memory(name: str, shared_project: Path) -> None:
    bootstrap_project(shared_project)
    runtime = {"loss": "gdro", "loss_groups": "seq33"}
    with KedroSession.create(shared_project, env="test", runtime_params=runtime) as session:
        catalog = session.load_context().catalog
    in_memory = {
        dataset
        for dataset in register_pipelines()[name].datasets()
        if not dataset.startswith("params:") and type(catalog.get(dataset)).__name__ == "MemoryDataset"
    }
    assert in_memory <= HANDLES


def test_no_entry_of_the_catalog_is_memory(shared_project: Path) -> None:
    """Such an entry breaks --runner=ParallelRunner."""
    bootstrap_project(shared_project)
    with KedroSession.create(shared_project, env="test") as session:
        config = session.load_context().config_loader["catalog"]
    assert [name for name, entry in config.items() if "MemoryDataset" in str(entry.get("type"))] == []


@pytest.mark.parametrize("loss", ["cvar", "gdro"])
def test_parts_of_an_arm_are_those_of_its_record(shared_project: Path, loss: str) -> None:
    bootstrap_project(shared_project)
    runtime = {"loss": loss, "loss_groups": "seq33", "seed": 3}
    with KedroSession.create(shared_project, env="test", runtime_params=runtime) as session:
        catalog = session.load_context().catalog
    name = "gdro-seq33" if METHODS[loss].needs_groups else loss
    for part in (
        "model",
        "training_history",
        "user_weights",
        "user_metrics",
        "validation_user_metrics",
        "group_metrics",
        "run_card",
        "tuning_runs",
    ):
        described = catalog.get(part)._describe()
        assert (described["arm"], described["seed"], described["part"]) == (name, 3, part)
        assert not catalog.exists(part)
    assert f"/{name}/seed-3/" in str(catalog.get("recommendations")._filepath)


@pytest.mark.parametrize(
    ("arm", "loaded", "folder"),
    [
        (None, "gdro-seq33", "/gdro-seq33/seed-3/"),
        ("cvar", "cvar", "/cvar/seed-3/"),
        ("champion",) * 2 + ("/champion/",),
    ],
)
def test_recommendations_of_another_arm(shared_project: Path, arm: str | None, loaded: str, folder: str) -> None:
    bootstrap_project(shared_project)
    runtime = {"loss": "gdro", "loss_groups": "seq33", "seed": 3, "recommend": {"arm": arm}}
    with KedroSession.create(shared_project, env="test", runtime_params=runtime) as session:
        catalog = session.load_context().catalog
    assert catalog.get("recommender")._describe()["arm"] == loaded
    assert folder in str(catalog.get("recommendations")._filepath)
