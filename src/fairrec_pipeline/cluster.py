"""A Ray cluster: joined, or started for a while. Ray is an extra, so it is imported only when it is asked for."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairrec_pipeline.errors import OptionError

LOCAL = "local"
"""The address of a cluster of this machine that is started, and ends with who started it."""
HEAD = {"node:__internal_head__": 0.001}
"""A resource of the head alone. What the driver needs to the end runs there: it outlives the loss of any other node."""


def import_ray() -> Any:
    """The module.

    Raises:
        OptionError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        message = (
            "Ray is not installed. Install it, pip install 'fairrec_pipeline[ray]', or train with executor=processes"
        )
        raise OptionError(message) from error
    return ray


@contextmanager
def connected(address: str, *packages: Path) -> Iterator[Any]:
    """The module `ray`, connected to a cluster within the context.

    A connection that is there already is used, and stays.

    Args:
        address: `LOCAL`; `auto`, that of RAY_ADDRESS or of this machine; or host:port.
        packages: folders of the Python packages that the tasks run; another cluster than the local one gets a copy.

    Raises:
        OptionError: Ray is not installed, there is no cluster, or it cannot be joined.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    if address == LOCAL:
        options: dict[str, Any] = {"include_dashboard": False}
    else:
        options = {"runtime_env": {"py_modules": list(map(str, packages))}}
    try:
        _require_somebody(address)
        ray.init(address, logging_level="WARNING", **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise OptionError(
            f"there is no Ray cluster at {address} ({reason}). Start one with `ray start --head`, or take the address "
            f"{LOCAL}"
        ) from error
    except RuntimeError as error:  # the cluster has another version of Ray or Python
        raise OptionError(f"the Ray cluster at {address} cannot be joined: {' '.join(str(error).split())}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_somebody(address: str) -> None:
    """Raise an OSError where nobody listens at host:port; Ray would ask again for ten minutes."""
    host, _, port = address.rpartition(":")
    if host and "://" not in address and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def cause_of(error: Exception) -> Exception:
    """What went wrong in a task, with the place there as a note; the error itself where the task or its node died."""
    cause = getattr(error, "cause", None)
    if not isinstance(cause, Exception):
        return error
    cause.add_note(f"In a task of the cluster:\n{error}")  # whose traceback is not that of this process
    return cause
