"""Wiring of the compare and table1 pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kedro.pipeline import Node, Pipeline

from fairrec_pipeline.pipelines.compare import nodes

_FIGURES = (
    *("relative_change_figure", "group_values_figure", "repeat_and_new_figure"),
    *("trade_off_figure", "learning_curves_figure"),
)


def create_pipeline(after: Sequence[str] = ()) -> Pipeline:
    """Compare every trained arm of the dataset with erm and with the untrained arms.

    Args:
        after: see `create_selection_pipeline`.
    """
    return create_selection_pipeline(after) + create_comparison_pipeline()


def create_selection_pipeline(after: Sequence[str] = ()) -> Pipeline:
    """The arms that may stand in one table: trained, untrained and foreign ones.

    Args:
        after: datasets that have to be there first, such as the arms that are trained in the same run. Which arms there
            are is only known from the store, so the order has to be said.
    """
    return Pipeline(
        [
            _node(
                nodes.score_baselines,
                inputs=["histories", "user_groups", "dataset_statistics", "params:dataset", "params:evaluate"],
                outputs=["baseline_user_metrics", "baseline_item_metrics", "baseline_validation"],
            ),
            _node(
                nodes.judge_foreign,
                inputs=["recommendations_folder", "histories", "user_groups", "params:evaluate"],
                outputs="foreign_arms",
            ),
            _node(
                nodes.select_arms,
                inputs=[
                    *("arms", "foreign_arms", "baseline_user_metrics", "baseline_item_metrics"),
                    *("baseline_validation", "dataset_statistics", "params:evaluate"),
                    *after,
                ],
                outputs="selected_arms",
            ),
        ]
    )


def create_comparison_pipeline() -> Pipeline:
    """The selected arms beside each other: tables, tests, figures and a report."""
    return Pipeline(
        [
            _node(
                nodes.compare_arms,
                inputs=["selected_arms", "user_groups", "dataset_statistics", "params:evaluate"],
                outputs=["comparison", "compared_runs"],
            ),
            _node(
                nodes.follow_trainings,
                inputs=["selected_arms", "user_groups"],
                outputs=["all_trainings", "training_curves"],
            ),
            _node(
                nodes.share_weights,
                inputs=["selected_arms", "user_groups", "histories"],
                outputs=["weight_shares", "weight_rules"],
            ),
            _node(
                nodes.find_slices,
                inputs=["selected_arms", "user_groups", "histories", "interactions"],
                outputs="bad_slices",
            ),
            _node(
                nodes.audit,
                inputs=["comparison", "selected_arms", "all_trainings", "dataset_statistics"],
                outputs="audit_csv",
            ),
            _node(
                nodes.gather_evidence,
                inputs=[
                    *("comparison", "all_trainings", "training_curves", "weight_shares", "weight_rules"),
                    *("bad_slices", "audit_csv"),
                ],
                outputs="evidence",
            ),
            _node(nodes.draw_figures, inputs=["evidence"], outputs=["figures", *_FIGURES]),
            _node(
                nodes.report,
                inputs=["evidence", "figures", "compared_runs", "dataset_statistics", "params:evaluate", *_FIGURES],
                outputs=["comparison_csv", "report_markdown", "report_html"],
            ),
        ]
    )


def create_table1_pipeline() -> Pipeline:
    """Table 1 of the paper for the prepared data."""
    return Pipeline(
        [
            _node(
                nodes.table1,
                inputs=["dataset_statistics", "params:dataset"],
                outputs=["table1_csv", "table1_markdown"],
            )
        ]
    )


def _node(function: Callable[..., Any], *, inputs: list[str], outputs: str | list[str]) -> Node:
    """A node with the name of its function."""
    return Node(function, inputs=inputs, outputs=outputs, name=function.__name__)
