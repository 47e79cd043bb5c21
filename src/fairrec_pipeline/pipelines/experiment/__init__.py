"""A grid of arms, options and seeds, trained and compared by one command."""

from fairrec_pipeline.pipelines.experiment.pipeline import create_pipeline

__all__ = ["create_pipeline"]
