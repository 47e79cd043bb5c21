"""What a node asks of a cluster in its tags; on a cluster it is tested by tests/scale."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline

from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.runners import RayRunner
from fairrec_pipeline.runners.ray_runner import _options_of


def same(x: Any) -> Any:
    return x


@pytest.mark.parametrize(
    ("tags", "options"),
    [
        ([], {}),
        (["training", "raytracing"], {}),
        (["ray.num_gpus.1"], {"num_gpus": 1}),
        (
            ["ray.num_gpus.0.5", "ray.num_cpus.2", "ray.max_retries.0"],
            {"num_gpus": 0.5, "num_cpus": 2, "max_retries": 0},
        ),
        (["ray.TPU.4", "ray.memory.1000000"], {"memory": 1000000, "resources": {"TPU": 4}}),
    ],
)
def test_tags(tags: list[str], options: dict[str, Any]) -> None:
    assert _options_of(Node(same, "a", "b", tags=tags)) == options


@pytest.mark.parametrize("tag", ["ray.num_gpus", "ray.num_gpus.one", "ray.num_gpus.1.2.3", "ray.1", "ray.-.1"])
def test_a_tag_that_cannot_be_read_is_named(tag: str) -> None:
    with pytest.raises(OptionError, match=rf"node n: the tag '{tag}' is not of the form ray.<option>.<number>"):
        _options_of(Node(same, "a", "b", name="n", tags=tag))


def test_kedro_has_no_colon_in_a_tag() -> None:
    """Else ray:num_gpus=1 would be the better form."""
    with pytest.raises(ValueError, match="not a valid node tag"):
        Node(same, "a", "b", tags="ray:num_gpus=1")


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    catalog = DataCatalog(datasets={"a": MemoryDataset(1)})
    with pytest.raises(OptionError, match=r"Ray is not installed.*pip install 'fairrec_pipeline\[ray\]'"):
        RayRunner().run(Pipeline([Node(same, "a", "b")]), catalog)
