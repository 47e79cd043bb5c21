"""The exception of the data stages."""

from fairrec_pipeline.errors import DataError

__all__ = ["DataError"]
