"""The best arm on validation becomes the champion of its dataset."""

from fairrec_pipeline.pipelines.promote.pipeline import create_pipeline

__all__ = ["create_pipeline"]
