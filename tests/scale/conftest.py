"""Fixtures of what lies beyond one machine: an S3-compatible server, and clusters, all on loopback."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.storage import Place

SECRET = "secret-that-nobody-may-see"
"""Of the store's credentials."""


@dataclass(frozen=True)
class Bucket:
    """A bucket of its own on the server of the tests."""

    name: str
    credentials: dict[str, Any]

    @property
    def root(self) -> str:
        return f"s3://{self.name}/some/prefix"

    def place(self, path: str) -> Place:
        return Place(f"{self.root}/{path}", self.credentials)

    def objects(self) -> list[str]:
        """Every object, by its key below the prefix, ascending."""
        import s3fs

        found = s3fs.S3FileSystem(**self.credentials, use_listings_cache=False).find(self.name)
        return sorted(key.removeprefix(f"{self.name}/some/prefix/") for key in found)

    def write_credentials(self, project: Path, env: str = "test") -> None:
        """As a user does."""
        (project / "conf" / env / "credentials.yml").write_text(yaml.safe_dump({"data_root": self.credentials}))

    def store(self, dataset: str = "synthetic") -> ArmStore:
        models, outputs = (f"{self.root}/{name}/{dataset}" for name in ("06_models", "07_model_output"))
        return ArmStore(models, outputs, f"{models}/trials", options=self.credentials)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of a server that speaks S3."""
    for name in ("s3fs", "moto"):
        pytest.importorskip(name, reason=f"{name} is not installed; make test-scale has it")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # which logs every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def make_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Bucket]:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def make() -> Bucket:
        credentials = {"key": "somebody", "secret": SECRET, "client_kwargs": {"endpoint_url": s3_server}}
        bucket = Bucket(f"bucket-{uuid4().hex}", credentials)
        s3fs.S3FileSystem(**credentials).mkdir(bucket.name)
        return bucket

    return make


@pytest.fixture
def bucket(make_bucket: Callable[[], Bucket]) -> Bucket:
    return make_bucket()


# --- Ray

MEMORY = 100 * 2**20
"""Bytes of the object store of a node."""
RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # on a busy machine the patience of Ray is not enough, and the memory that others take is none of its business
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",  # 15 by default: beside other work a worker would get a thirtieth of its share
}
"""Environment of every cluster here."""


@pytest.fixture(scope="session", autouse=True)
def _environment_of_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY.items():
            patch.setenv(name, value)
        yield


def agent_ports() -> dict[str, int]:
    """Free ports for the agents of a node.

    A node that is given none waits for the agents to say theirs. If that takes them 30 seconds, as it does on a busy
    machine, the node ends itself, and Ray has no option for that.
    """
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in names]
        return {name: each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}


class SmallCluster:
    """A head without cores and two nodes with one core and one shop each, all on this machine."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False, **agent_ports()
            },
        )  # fmt: skip
        options = {"num_cpus": 1, "resources": {"shop": 1}, "object_store_memory": MEMORY}
        self.nodes = [self._cluster.add_node(**options, **agent_ports()) for _ in range(2)]
        self._cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def tasks(self, name: str) -> list[Any]:
        """Processes of this cluster that run a task with this name, or one that begins so."""
        import psutil

        mine = {info.process.pid for node in self._nodes() for infos in node.all_processes.values() for info in infos}
        found = []
        for process in psutil.process_iter(["cmdline"]):
            with suppress(psutil.Error):
                runs = " ".join(process.info["cmdline"] or []).startswith(f"ray::{name}")
                if runs and mine & {parent.pid for parent in process.parents()}:
                    found.append(process)
        return found

    def node_of(self, process: Any) -> Any:
        """The node whose worker a process is."""
        parents = {parent.pid for parent in process.parents()}
        for node in self.nodes:
            if parents & {info.process.pid for infos in node.all_processes.values() for info in infos}:
                return node
        raise LookupError

    def remove(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)

    def stop(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()

    def _nodes(self) -> list[Any]:
        return [self._cluster.head_node, *self.nodes]


@contextmanager
def started_cluster() -> Iterator[SmallCluster]:
    pytest.importorskip("ray", reason="ray is not installed; make test-scale has it")
    cluster = SmallCluster()
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def cluster() -> Iterator[SmallCluster]:
    """A cluster that all tests use one after the other: its start costs more than most of them."""
    with started_cluster() as cluster:
        yield cluster


@pytest.fixture
def mortal_cluster() -> Iterator[SmallCluster]:
    """A cluster whose nodes may be removed."""
    with started_cluster() as cluster:
        yield cluster
