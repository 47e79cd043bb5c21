"""RayRunner: this project's pipelines, and those of a plain Kedro project that knows nothing of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from fairrec_pipeline.runners import RayRunner
from tests.conftest import copy_project
from tests.projects import assert_same, run_pipeline, store
from tests.scale.conftest import SmallCluster


def test_the_default_pipeline(
    cluster: SmallCluster,
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The arms and the table of SequentialRunner, and a row of MLflow for each arm."""
    import mlflow
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = copy_project(tmp_path_factory.mktemp("alone"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as a worker has; the last digit of a product depends on it
    try:
        with threadpool_limits(1):
            run_pipeline(alone, "__default__")
    finally:
        torch.set_num_threads(before)
    capsys.readouterr()
    run_pipeline(project, "__default__", options={"runner": RayRunner(address=cluster.address)})
    assert_same(store(project).records(), store(alone).records())
    csv = "data/08_reporting/synthetic/comparison.csv"
    assert (project / csv).read_bytes() == (alone / csv).read_bytes()
    assert "The report: " in capsys.readouterr().out  # a hook of datasets is called
    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    rows = client.search_runs([client.get_experiment_by_name("fairrec").experiment_id])
    assert len([row for row in rows if "mlflow.parentRunId" in row.data.tags]) == 8
    assert {row.info.status for row in rows} == {"FINISHED"}


FILES = {
    "pyproject.toml": """
        [tool.kedro]
        package_name = "shop"
        project_name = "shop"
        kedro_init_version = "1.7.0"
        source_dir = "src"
    """,
    "conf/base/catalog.yml": """
        orders: {type: pandas.CSVDataset, filepath: data/orders.csv}
        totals: {type: pandas.CSVDataset, filepath: data/totals.csv, versioned: true, save_args: {index: false}}
    """,
    "conf/base/parameters.yml": "least: 2\n",
    "conf/local/.gitkeep": "",
    "data/orders.csv": "item,price\na,1\na,2\nb,5\nc,1\n",
    "src/shop/__init__.py": "",
    "src/shop/settings.py": """
        from kedro.framework.hooks import hook_impl


        class Diary:
            @hook_impl
            def before_node_run(self, node, inputs):
                write(f"before {node.name} {sorted(inputs)}")
                if node.name == "keep":
                    return {"counts": inputs["counts"].assign(by="a hook")}

            @hook_impl
            def after_node_run(self, node, outputs):
                shapes = {name: getattr(data, "shape", data) for name, data in outputs.items()}
                write(f"after {node.name} {shapes}")

            @hook_impl
            def on_node_error(self, error, node):
                write(f"failed {node.name} {error}")


        def write(line):
            with open("diary.txt", "a") as diary:
                print(line, file=diary)


        HOOKS = (Diary(),)
        DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow", "kedro_viz")  # of this environment, not of the project
    """,
    "src/shop/pipeline_registry.py": """
        import ray
        from kedro.pipeline import Node, Pipeline


        def count(orders):
            cores = ray.get_runtime_context().get_assigned_resources()["CPU"]
            return orders.groupby("item", as_index=False).size().assign(cores=cores)


        def keep(counts, least):
            if least > 1000:
                raise ValueError(f"least is {least}")
            return counts[counts["size"] >= least]


        def total(orders, kept):
            kept = orders[orders["item"].isin(kept["item"])].merge(kept)
            return kept.groupby(["item", "by", "cores"], as_index=False)["price"].sum(), len(kept)


        def register_pipelines():
            return {"__default__": Pipeline([
                Node(count, "orders", "counts", name="count", tags="ray.num_cpus.0.75"),
                Node(keep, ["counts", "params:least"], "kept", name="keep", tags=["ray.num_cpus.0.5", "other"]),
                Node(total, ["orders", "kept"], ["totals", "n"], name="total", tags="ray.shop.1"),
            ])}
    """,
}

RUN = """
import sys
from pathlib import Path
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from fairrec_pipeline.runners import RayRunner

bootstrap_project(Path.cwd())
with KedroSession.create() as session:
    outputs = session.run(runner=RayRunner(address=sys.argv[1]))
print(f"n {outputs['n'].load()}")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A Kedro project of three nodes, with a hook of its own."""
    from textwrap import dedent

    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"))
    return tmp_path


def python(shop: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=shop, capture_output=True, text=True, check=False)


def diary(shop: Path) -> list[str]:
    """What the hooks wrote. Not to the output: there Ray prints what workers say, in the middle of other lines."""
    return (shop / "diary.txt").read_text().splitlines()


def test_a_plain_project(cluster: SmallCluster, shop: Path) -> None:
    """Data between nodes in memory and in files, hooks, and what nodes take of the cluster."""
    run = python(shop, "-c", RUN, cluster.address)
    assert run.returncode == 0, run.stdout + run.stderr
    (totals,) = shop.glob("data/totals.csv/*/totals.csv")
    expected = pd.DataFrame({"item": ["a"], "by": ["a hook"], "cores": [0.75], "price": [3]})
    pd.testing.assert_frame_equal(pd.read_csv(totals), expected)
    assert "n 2" in run.stdout, "an output in memory is there when the cluster is not any more"
    assert diary(shop) == [
        *("before count ['orders']", "after count {'counts': (3, 3)}"),
        *("before keep ['counts', 'params:least']", "after keep {'kept': (1, 4)}"),
        *("before total ['kept', 'orders']", "after total {'totals': (1, 4), 'n': 2}"),
    ]


def test_from_the_command_line_and_a_node_that_fails(shop: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed; make test-scale has it")
    runner = "--runner=fairrec_pipeline.runners.RayRunner"
    ran = python(shop, "-m", "kedro", "run", runner, "--nodes=count,keep")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert diary(shop)[-1] == "after keep {'kept': (1, 4)}"
    failed = python(shop, "-m", "kedro", "run", runner, "--params=least=5000", "--nodes=count,keep")
    assert failed.returncode == 1
    assert diary(shop)[-1] == "failed keep least is 5000"
    assert "ValueError: least is 5000" in failed.stdout + failed.stderr
    assert "in keep" in failed.stdout + failed.stderr, "the line of the node, which ran in another process"
