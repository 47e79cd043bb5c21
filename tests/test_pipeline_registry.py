"""What can be run, and that every dataset of it has a place on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from fairrec_pipeline.pipeline_registry import PAPER_LOSSES, register_pipelines
from fairrec_pipeline.pipelines.train.pipeline import arm_namespace

CHAIN = [
    "ingest",
    "filter_core",
    "assign_groups",
    "split_leave_one_out",
    "fit_arm",
    "evaluate_arm",
    "compare",
    "report",
]


def test_the_pipelines_of_the_interface() -> None:
    assert {"__default__", "data", "train", "tune", "experiment", "compare", "table1", "recommend"} <= set(
        register_pipelines()
    )


def test_the_default_pipeline_is_the_chain_of_the_card_with_one_block_a_method() -> None:
    order = [
        node.short_name.rpartition(".")[2].lower().replace(" ", "_")
        for node in register_pipelines()["__default__"].nodes
    ]
    places = [order.index(name) for name in CHAIN]
    assert places == sorted(places)
    namespaces = {node.namespace for node in register_pipelines()["__default__"].nodes if node.namespace}
    assert namespaces == {arm_namespace(loss) for loss in PAPER_LOSSES}


@pytest.mark.parametrize(
    "name", ["__default__", "data", "train", "tune", "experiment", "compare", "table1", "recommend"]
)
def test_nothing_falls_through_to_memory(name: str, shared_project: Path) -> None:
    bootstrap_project(shared_project)
    with KedroSession.create(
        shared_project, env="test", runtime_params={"loss": "gdro", "loss_groups": "seq33"}
    ) as session:
        context = session.load_context()
        catalog, written = context.catalog, set(context.config_loader["catalog"])
    datasets = register_pipelines()[name].datasets()
    in_memory = [
        dataset
        for dataset in datasets
        if not dataset.startswith("params:")
        and dataset not in written
        and type(catalog.get(dataset)).__name__ == "MemoryDataset"
    ]
    assert in_memory == []


def test_an_arm_has_the_same_place_alone_and_among_others(shared_project: Path) -> None:
    bootstrap_project(shared_project)
    for loss, alone in (("cvar", "cvar"), ("gdro", "gdro-seq33")):
        with KedroSession.create(
            shared_project, env="test", runtime_params={"loss": loss, "loss_groups": "seq33"}
        ) as session:
            catalog = session.load_context().catalog
        for name in ("model", "training_history", "run_card", "user_metrics", "group_metrics"):
            path = str(catalog.get(name)._filepath)
            assert f"/synthetic/{alone}/seed-0/" in path
            assert str(catalog.get(f"{arm_namespace(loss)}.{name}")._filepath) == path
