"""One example of every dataset that writes a file."""

from __future__ import annotations

from typing import Any

import ibis
import pandas as pd
import plotly.graph_objects as go
from kedro.io import AbstractVersionedDataset

from fairrec_pipeline.catalog.figures import PlotlyJson
from fairrec_pipeline.catalog.files import Csv, HistoriesNpz, IbisParquet, Json, Parquet, Text
from fairrec_pipeline.interactions.prepared import PreparedHistories
from tests.worlds import interactions

FRAME = pd.DataFrame({"user_id": [2, 1, 3], "name": ["b", "a", "c"]})
HISTORIES = PreparedHistories.of(interactions())
CASES = [
    (IbisParquet, "a.parquet", FRAME),
    (Parquet, "a.parquet", FRAME),
    (Csv, "a.csv", FRAME),
    (Json, "a.json", {"n": 1, "s": "é"}),
    (Text, "a.md", "é\n"),
    (HistoriesNpz, "a.npz", HISTORIES),
    (PlotlyJson, "a.json", go.Figure(layout={"title": {"text": "é"}})),
]

Case = tuple[type[AbstractVersionedDataset], str, Any]


def plain(data: Any) -> Any:
    data = data.to_pandas() if isinstance(data, ibis.Table) else data
    if isinstance(data, PreparedHistories):
        return (data.fingerprint, data.train.items.tolist(), data.test.targets.tolist())
    return data.to_dict("list") if isinstance(data, pd.DataFrame) else data


def newer(data: Any) -> Any:
    """Something else of the same type."""
    if isinstance(data, PreparedHistories):
        return PreparedHistories.of(interactions().replace({"item_id": {3: 4}}))
    return {dict: {"n": 2}, str: "n", pd.DataFrame: FRAME.head(1), go.Figure: go.Figure()}[type(data)]
