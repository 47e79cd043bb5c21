"""Dataset of a figure; apart, so that only a comparison waits for the import of Plotly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro_datasets.plotly import JSONDataset

from fairrec_pipeline.catalog.files import Atomic

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class PlotlyJson(Atomic, JSONDataset):
    """A Plotly figure as JSON, which Kedro-Viz shows."""

    def _write(self, data: Figure, path: Path) -> None:
        data.write_json(path, **self._save_args)

    def _read(self, path: Path) -> Any:
        import plotly.io

        return plotly.io.from_json(path.read_text(encoding="utf-8"), **self._load_args)
