"""What a run found is shown in the terminal when it is done."""

from __future__ import annotations

from typing import Any

from kedro.framework.hooks import hook_impl


class TerminalTable:
    """Prints the headline table of a comparison."""

    @hook_impl
    def after_node_run(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        if "comparison" in inputs and "report_html" in outputs:
            import click

            from fairrec_pipeline.report.page import comparison_table

            click.echo(comparison_table(inputs["comparison"], inputs["params:evaluate"].significance))
