"""Wiring of the compare pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from fairrec_pipeline.pipelines.compare.nodes import compare, report, score_baselines


def create_pipeline(after: Sequence[str] = ()) -> Pipeline:
    """Compare every trained arm of the dataset with erm and with the untrained arms.

    interactions, user_groups, dataset_statistics -> score_baselines -> baseline_user_metrics
    trained_arms, baseline_user_metrics, user_groups -> compare -> comparison, compared_runs
    comparison, compared_runs -> report -> comparison_csv, figures, report_markdown, report_html

    Args:
        after: datasets that have to be there first, such as the user_metrics of arms trained in the same run: which
            arms there are is only seen on disk, so the order has to be said.
    """
    return Pipeline(
        [
            Node(
                score_baselines,
                inputs=["interactions", "user_groups", "dataset_statistics", "params:dataset", "params:evaluate"],
                outputs="baseline_user_metrics",
                name="score_baselines",
            ),
            Node(
                compare,
                inputs=[
                    "trained_arms",
                    "baseline_user_metrics",
                    "user_groups",
                    "dataset_statistics",
                    "params:dataset",
                    "params:evaluate",
                    *after,
                ],
                outputs=["comparison", "compared_runs"],
                name="compare",
            ),
            Node(
                report,
                inputs=["comparison", "compared_runs", "dataset_statistics", "params:dataset", "params:evaluate"],
                outputs=[
                    "comparison_csv",
                    "relative_change_figure",
                    "group_values_figure",
                    "repeat_and_new_figure",
                    "report_markdown",
                    "report_html",
                ],
                name="report",
            ),
        ]
    )
