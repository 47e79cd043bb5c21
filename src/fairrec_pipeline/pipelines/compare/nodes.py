"""Nodes of the compare pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import plotly.graph_objects as go

from fairrec_pipeline.arms.record import ArmRecord, Card
from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.comparison import bad_slices, selection, user_weights
from fairrec_pipeline.comparison import comparison as comparisons
from fairrec_pipeline.comparison.baselines import BASELINES
from fairrec_pipeline.comparison.foreign import foreign_arms as judged_files
from fairrec_pipeline.comparison.paper import table1 as paper_table1
from fairrec_pipeline.comparison.trainings import VALIDATION_NDCG, training_curves, trainings
from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import ROLE, TIMESTAMP, USER
from fairrec_pipeline.interactions.prepared import PreparedHistories
from fairrec_pipeline.metrics.by_group import HEADLINE_METRIC
from fairrec_pipeline.metrics.item_side import ListKeeper, item_metrics
from fairrec_pipeline.metrics.ranking import rank_targets, user_metrics
from fairrec_pipeline.parameters.blocks import Evaluate
from fairrec_pipeline.report.evidence import Evidence
from fairrec_pipeline.report.figures import draw
from fairrec_pipeline.report.page import Subject, html_report, markdown_report
from fairrec_pipeline.report.training_tables import run_cards


def score_baselines(
    histories: PreparedHistories,
    user_groups: ibis.Table,
    dataset_statistics: dict[str, Any],
    dataset: str,
    evaluate: Evaluate,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, float]]:
    """Test metrics of the untrained arms, by user and of their lists, and their NDCG@20 on validation.

    Returns:
        The columns of user_metrics and of item_metrics, each after a column `arm`; NDCG@20 by arm.

    Raises:
        DataError: the histories are not those that the statistics describe, or of another dataset.
    """
    described = dataset_statistics["fingerprint"]
    if dataset_statistics["dataset"] != dataset or histories.fingerprint != described:
        raise DataError(
            f"the histories are not the prepared data of {dataset}: dataset_statistics describes "
            f"{dataset_statistics['dataset']} with fingerprint {described[:12]}, the histories have "
            f"{histories.fingerprint[:12]}; run: kedro run --pipeline=data --params dataset={dataset}"
        )
    train, test, groups, seen = histories.train, histories.test, user_groups.to_pandas(), evaluate.filter_seen
    tested, listed, on_validation = [], [], {}
    for arm, build in BASELINES.items():
        scorer = ListKeeper(build(train, test), test, filter_seen=seen)
        metrics = user_metrics(test, rank_targets(scorer, test, filter_seen=seen), None)
        listed.append(item_metrics(scorer.lists, train, test, metrics, groups).assign(arm=arm))
        tested.append(metrics.assign(arm=arm))
        ranks = rank_targets(build(train, histories.validation), histories.validation, filter_seen=seen)
        on_validation[arm] = float(user_metrics(histories.validation, ranks, None)[HEADLINE_METRIC].mean())
    return pd.concat(tested, ignore_index=True), pd.concat(listed, ignore_index=True), on_validation


def judge_foreign(
    recommendations_folder: Path, histories: PreparedHistories, user_groups: ibis.Table, evaluate: Evaluate
) -> list[ArmRecord]:
    """Arms from the files of other systems; none where there are no files."""
    groups = user_groups.to_pandas()
    return judged_files(recommendations_folder, histories, groups, filter_seen=evaluate.filter_seen)


def select_arms(
    arms: ArmStore,
    foreign_arms: list[ArmRecord],
    baseline_user_metrics: pd.DataFrame,
    baseline_item_metrics: pd.DataFrame,
    baseline_validation: dict[str, float],
    dataset_statistics: dict[str, Any],
    evaluate: Evaluate,
    *after: Any,
) -> list[ArmRecord]:
    """The arms that may stand in one table, untrained and foreign ones last, by their names within their backbone.

    `after` is there for the order of the nodes only.
    """
    common = {"loss_groups": None, "seed": None, "data_fingerprint": dataset_statistics["fingerprint"]}
    untrained = [
        ArmRecord.of(
            {"arm": arm, "loss": arm, **common, VALIDATION_NDCG: baseline_validation[str(arm)]},
            user_metrics=rows.drop(columns="arm"),
            item_metrics=baseline_item_metrics[baseline_item_metrics["arm"] == arm].drop(columns="arm"),
        )
        for arm, rows in baseline_user_metrics.groupby("arm", sort=False)
    ]
    records = selection.select_arms([*arms.records(), *untrained, *foreign_arms], dataset_statistics, evaluate)
    return [record.without_backbone() for record in records]


def compare_arms(
    selected_arms: list[ArmRecord], user_groups: ibis.Table, dataset_statistics: dict[str, Any], evaluate: Evaluate
) -> tuple[pd.DataFrame, list[Card]]:
    """The tidy comparison, and the cards behind it."""
    dataset = dataset_statistics["dataset"]
    table = comparisons.compare_arms(selected_arms, user_groups.to_pandas(), dataset=dataset, evaluate=evaluate)
    return table, run_cards(selected_arms)


def follow_trainings(selected_arms: list[ArmRecord], user_groups: ibis.Table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every training with its numbers, and the curves of those that are compared."""
    return trainings(selected_arms, user_groups.to_pandas()), training_curves(selected_arms)


def share_weights(
    selected_arms: list[ArmRecord], user_groups: ibis.Table, histories: PreparedHistories
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shares of the training weight by group, and rules that say who got more than in erm."""
    groups, repeats = user_groups.to_pandas(), user_weights.repeat_share(histories.train)
    return (
        user_weights.weight_shares(selected_arms, groups),
        user_weights.weight_rules(selected_arms, groups, repeats),
    )


def find_slices(
    selected_arms: list[ArmRecord], user_groups: ibis.Table, histories: PreparedHistories, interactions: ibis.Table
) -> pd.DataFrame:
    """Users whom each arm serves badly, without labels."""
    times = interactions.select(USER, TIMESTAMP, ROLE).to_pandas()
    features = (user_weights.repeat_share(histories.train), *bad_slices.activity(times))
    return bad_slices.bad_slices(selected_arms, user_groups.to_pandas(), *features)


def draw_figures(evidence: Evidence) -> tuple[dict[str, go.Figure] | go.Figure, ...]:
    """Every figure of the report by name, and those that are kept by themselves."""
    drawn = draw(evidence)
    kept = ("relative_change", "group_values", "repeat_and_new", "trade_off", "learning_curves")
    return (drawn, *(drawn[name] for name in kept))


def report(
    evidence: Evidence,
    figures: dict[str, go.Figure],
    compared_runs: list[Card],
    dataset_statistics: dict[str, Any],
    evaluate: Evaluate,
    *after: Any,
) -> tuple[pd.DataFrame, str, str]:
    """The comparison as CSV, Markdown and one HTML file.

    `after` is there for the order of the nodes only: who has the page finds its figures, too.
    """
    subject = Subject(dataset_statistics["dataset"], dataset_statistics, compared_runs, evaluate)
    return evidence.comparison, markdown_report(evidence, subject), html_report(evidence, subject, figures)


def table1(dataset_statistics: dict[str, Any], dataset: str) -> tuple[pd.DataFrame, str]:
    """Sizes of groups and dataset beside the published ones, as a table and as Markdown."""
    table = paper_table1.table1(dataset_statistics, dataset)
    return table, paper_table1.markdown(table, dataset)
