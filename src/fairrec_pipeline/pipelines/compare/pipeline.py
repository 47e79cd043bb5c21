"""Wiring of the compare and table1 pipelines."""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Pipeline

from fairrec_pipeline.comparison.audit import audit
from fairrec_pipeline.pipelines import node
from fairrec_pipeline.pipelines.compare import nodes
from fairrec_pipeline.report.evidence import Evidence

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
            node(
                nodes.score_baselines,
                ["histories", "user_groups", "dataset_statistics", "params:dataset", "params:evaluate"],
                ["baseline_user_metrics", "baseline_item_metrics", "baseline_validation"],
            ),
            node(
                nodes.judge_foreign,
                ["recommendations_folder", "histories", "user_groups", "params:evaluate"],
                "foreign_arms",
            ),
            node(
                nodes.select_arms,
                [
                    *("arms", "foreign_arms", "baseline_user_metrics", "baseline_item_metrics"),
                    *("baseline_validation", "dataset_statistics", "params:evaluate"),
                    *after,
                ],
                "selected_arms",
            ),
        ]
    )


def create_comparison_pipeline() -> Pipeline:
    """The selected arms beside each other: tables, tests, figures and a report."""
    return Pipeline(
        [
            node(
                nodes.compare_arms,
                ["selected_arms", "user_groups", "dataset_statistics", "params:evaluate"],
                ["comparison", "compared_runs"],
            ),
            node(nodes.follow_trainings, ["selected_arms", "user_groups"], ["all_trainings", "training_curves"]),
            node(nodes.share_weights, ["selected_arms", "user_groups", "histories"], ["weight_shares", "weight_rules"]),
            node(nodes.find_slices, ["selected_arms", "user_groups", "histories", "interactions"], "bad_slices"),
            node(audit, ["comparison", "selected_arms", "all_trainings", "dataset_statistics"], "audit_csv"),
            node(
                Evidence,
                [
                    *("comparison", "all_trainings", "training_curves", "weight_shares", "weight_rules"),
                    *("bad_slices", "audit_csv"),
                ],
                "evidence",
                name="gather_evidence",
            ),
            node(nodes.draw_figures, ["evidence"], ["figures", *_FIGURES]),
            node(
                nodes.report,
                ["evidence", "figures", "compared_runs", "dataset_statistics", "params:evaluate", *_FIGURES],
                ["comparison_csv", "report_markdown", "report_html"],
            ),
        ]
    )


def create_table1_pipeline() -> Pipeline:
    """Table 1 of the paper for the prepared data."""
    return Pipeline([node(nodes.table1, ["dataset_statistics", "params:dataset"], ["table1_csv", "table1_markdown"])])
