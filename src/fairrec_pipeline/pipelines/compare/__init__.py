"""Tables, tests, figures and a report over every trained arm of a dataset; Table 1 of the paper."""

from fairrec_pipeline.pipelines.compare.pipeline import (
    create_comparison_pipeline,
    create_pipeline,
    create_selection_pipeline,
    create_table1_pipeline,
)

__all__ = ["create_comparison_pipeline", "create_pipeline", "create_selection_pipeline", "create_table1_pipeline"]
