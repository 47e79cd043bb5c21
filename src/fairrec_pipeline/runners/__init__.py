"""Kedro runners, for this project and any other: `kedro run --runner=fairrec_pipeline.runners.RayRunner`."""

from fairrec_pipeline.runners.ray_runner import RayRunner

__all__ = ["RayRunner"]
