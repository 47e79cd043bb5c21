"""Kedro pipelines: `pipeline.py` wires, `nodes.py` adapts, the other packages compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kedro.pipeline import Node


def node(function: Callable[..., Any], inputs: Sequence[str], outputs: str | list[str], **more: Any) -> Node:
    """A node with the name of its function, unless `more` has another; `more` are arguments of Kedro's."""
    return Node(function, list(inputs), outputs, **({"name": function.__name__} | more))
