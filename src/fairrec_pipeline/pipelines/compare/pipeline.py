"""Wiring of the compare pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from fairrec_pipeline.pipelines.compare.nodes import (
    compare,
    follow_trainings,
    look_whom_they_trained_on,
    report,
    score_baselines,
    select_runs,
)


def create_pipeline(after: Sequence[str] = ()) -> Pipeline:
    """Compare every trained arm of the dataset with erm and with the untrained arms.

    interactions, user_groups, dataset_statistics -> score_baselines -> baseline_user_metrics, baseline_validation
    trained_arms, both -> select_runs -> selected_runs
    selected_runs, user_groups -> compare -> comparison, compared_runs
    selected_runs, user_groups -> follow_trainings -> all_trainings, training_curves
    selected_runs, user_groups, interactions -> look_whom_they_trained_on -> weight_shares, found_users
    all of these -> report -> comparison_csv, figures, report_markdown, report_html

    Args:
        after: datasets that have to be there first, such as the user_metrics of arms trained in the same run: which
            arms there are is only seen on disk, so the order has to be said.
    """
    return Pipeline(
        [
            Node(
                score_baselines,
                inputs=["interactions", "user_groups", "dataset_statistics", "params:dataset", "params:evaluate"],
                outputs=["baseline_user_metrics", "baseline_validation"],
                name="score_baselines",
            ),
            Node(
                select_runs,
                inputs=[
                    "trained_arms",
                    "baseline_user_metrics",
                    "baseline_validation",
                    "dataset_statistics",
                    "params:evaluate",
                    *after,
                ],
                outputs="selected_runs",
                name="select_runs",
            ),
            Node(
                compare,
                inputs=["selected_runs", "user_groups", "dataset_statistics", "params:dataset", "params:evaluate"],
                outputs=["comparison", "compared_runs"],
                name="compare",
            ),
            Node(
                follow_trainings,
                inputs=["selected_runs", "user_groups"],
                outputs=["all_trainings", "training_curves"],
                name="follow_trainings",
            ),
            Node(
                look_whom_they_trained_on,
                inputs=["selected_runs", "user_groups", "interactions"],
                outputs=["weight_shares", "found_users"],
                name="look_whom_they_trained_on",
            ),
            Node(
                report,
                inputs=[
                    "comparison",
                    "compared_runs",
                    "all_trainings",
                    "training_curves",
                    "weight_shares",
                    "found_users",
                    "dataset_statistics",
                    "params:dataset",
                    "params:evaluate",
                ],
                outputs=[
                    "comparison_csv",
                    "relative_change_figure",
                    "group_values_figure",
                    "repeat_and_new_figure",
                    "trade_off_figure",
                    "learning_curves_figure",
                    "report_markdown",
                    "report_html",
                ],
                name="report",
            ),
        ]
    )
