"""Raw files to interactions with roles and groups."""

from fairrec_pipeline.pipelines.data.pipeline import create_pipeline

__all__ = ["create_pipeline"]
