"""What a run found is shown in the terminal when it is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io.core import get_filepath_str


class TerminalTable:
    """Prints the headline table of a comparison, its verdict in one sentence and where the report is."""

    def __init__(self) -> None:
        self._text = ""

    @hook_impl
    def after_node_run(self, catalog: Any, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        if "report_html" in outputs:
            from fairrec_pipeline.report.page import comparison_table

            evidence = replace(inputs["evidence"], significance=inputs["params:evaluate"].significance)
            self._text = f"{comparison_table(evidence)}\n\nThe report: {_path_of(catalog['report_html'])}"

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        if dataset_name == "report_html" and self._text:
            import click

            click.echo(f"\n{self._text}\n")


def _path_of(dataset: Any) -> str:
    """Where a file dataset lies, from the working directory if it is below that."""
    path = get_filepath_str(dataset._filepath, dataset._protocol)
    if dataset._protocol != "file":
        return f"{dataset._protocol}://{path}"
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
