"""Table 1 of the paper for the prepared data."""

from fairrec_pipeline.pipelines.table1.pipeline import create_pipeline

__all__ = ["create_pipeline"]
