"""Training: one arm (`train`), its grid (`tune`), a named `experiment`, the paper's methods (`__default__`)."""

from fairrec_pipeline.pipelines.train.pipeline import create_checked_pipeline, create_pipeline

__all__ = ["create_checked_pipeline", "create_pipeline"]
