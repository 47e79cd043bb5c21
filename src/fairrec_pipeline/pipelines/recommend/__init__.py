"""Top-k items for every user, from a trained arm."""

from fairrec_pipeline.pipelines.recommend.pipeline import create_pipeline

__all__ = ["create_pipeline"]
