"""Tables, tests, figures and a report over every trained arm of a dataset."""

from fairrec_pipeline.pipelines.compare.pipeline import create_pipeline

__all__ = ["create_pipeline"]
