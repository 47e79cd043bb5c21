"""Node of the table1 pipeline."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fairrec_pipeline.comparison.paper.table1 import markdown, table1


def make_table1(statistics: dict[str, Any], dataset: str) -> tuple[pd.DataFrame, str]:
    """Sizes of groups and dataset beside the published ones, as a table and as Markdown."""
    table = table1(statistics, dataset)
    return table, markdown(table, dataset)
