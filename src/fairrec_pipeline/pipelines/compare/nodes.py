"""Nodes of the compare pipeline."""

from __future__ import annotations

import itertools
from typing import Any

import ibis
import pandas as pd
import plotly.graph_objects as go

from fairrec_pipeline.comparison.baselines import BASELINES
from fairrec_pipeline.comparison.comparison import TrainedArm, compare_arms, select_arms
from fairrec_pipeline.report.evidence import Evidence
from fairrec_pipeline.report.figures import draw
from fairrec_pipeline.metrics.by_group import HEADLINE_METRIC
from fairrec_pipeline.metrics.ranking import rank_targets, user_metrics
from fairrec_pipeline.report.page import Subject, html_report, markdown_report, run_cards
from fairrec_pipeline.comparison.user_weights import found_users, repeat_share, weight_shares
from fairrec_pipeline.comparison.trainings import VALIDATION_NDCG, training_curves, trainings
from fairrec_pipeline.interactions.columns import ITEM, ROLE, TEST, USER, VALIDATION
from fairrec_pipeline.interactions.histories import evaluation_histories, training_histories
from fairrec_pipeline.interactions.statistics import check_fingerprint
from fairrec_pipeline.parameters.blocks import Evaluate


def score_baselines(
    interactions: ibis.Table,
    user_groups: ibis.Table,
    dataset_statistics: dict[str, Any],
    dataset: str,
    evaluate: Evaluate,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Test metrics of the untrained arms, and their NDCG@20 on validation.

    Returns:
        The columns of user_metrics after a column `arm`; by arm.
    """
    events = interactions.to_pandas()
    check_fingerprint(dataset_statistics, dataset, events, user_groups.to_pandas())
    train = training_histories(events)
    test, validation = (evaluation_histories(events, train.catalogue, role) for role in (TEST, VALIDATION))
    frames, on_validation = [], {}
    for name, build in BASELINES.items():
        frame, validated = (
            user_metrics(users, rank_targets(build(train, users), users, filter_seen=evaluate.filter_seen), None)
            for users in (test, validation)
        )
        frame.insert(0, "arm", name)
        frames.append(frame)
        on_validation[name] = float(validated[HEADLINE_METRIC].mean())
    return pd.concat(frames, ignore_index=True), on_validation


def select_runs(
    trained_arms: list[TrainedArm],
    baseline_user_metrics: pd.DataFrame,
    baseline_validation: dict[str, float],
    dataset_statistics: dict[str, Any],
    evaluate: Evaluate,
    *after: Any,
) -> list[TrainedArm]:
    """The runs that may stand in one table, untrained arms last; `after` is there for the order of the nodes only."""
    fingerprint = dataset_statistics["fingerprint"]
    untrained = [
        TrainedArm(name, name, None, None, fingerprint, {VALIDATION_NDCG: on_validation}, rows.drop(columns="arm"))
        for name, on_validation in baseline_validation.items()
        for rows in [baseline_user_metrics[baseline_user_metrics["arm"] == name]]
    ]
    runs = select_arms(
        [*trained_arms, *untrained],
        fingerprint=fingerprint,
        filter_seen=evaluate.filter_seen,
        other_data=evaluate.other_data,
    )
    return [run for seeds in runs.values() for run in seeds]


def compare(
    selected_runs: list[TrainedArm],
    user_groups: ibis.Table,
    dataset_statistics: dict[str, Any],
    dataset: str,
    evaluate: Evaluate,
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The tidy comparison, and the run cards behind it."""
    comparison = compare_arms(
        selected_runs,
        user_groups.to_pandas(),
        dataset=dataset,
        confidence=evaluate.confidence,
        significance=evaluate.significance,
        correction=evaluate.correction,
        other_data=evaluate.other_data,
        fingerprint=dataset_statistics["fingerprint"],
        filter_seen=evaluate.filter_seen,
    )
    return comparison, run_cards(selected_runs)


def follow_trainings(selected_runs: list[TrainedArm], user_groups: ibis.Table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every training with its numbers, and the curves of those that are compared."""
    return trainings(selected_runs, user_groups.to_pandas()), training_curves(selected_runs)


def look_whom_they_trained_on(
    selected_runs: list[TrainedArm], user_groups: ibis.Table, interactions: ibis.Table
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shares of the training weight by group, and rules that say who got more than in erm."""
    runs = {arm: list(seeds) for arm, seeds in itertools.groupby(selected_runs, key=lambda run: run.arm)}
    groups = user_groups.to_pandas()
    repeats = repeat_share(interactions.select(USER, ITEM, ROLE).to_pandas())
    return weight_shares(runs, groups), found_users(runs, groups, repeats)


def report(
    comparison: pd.DataFrame,
    compared_runs: list[dict[str, Any]],
    all_trainings: pd.DataFrame,
    training_curves: pd.DataFrame,
    weight_shares: pd.DataFrame,
    found_users: pd.DataFrame,
    dataset_statistics: dict[str, Any],
    dataset: str,
    evaluate: Evaluate,
) -> tuple[pd.DataFrame, go.Figure, go.Figure, go.Figure, go.Figure, go.Figure, str, str]:
    """The comparison as CSV, figures, Markdown and one HTML file."""
    subject = Subject(
        dataset=dataset,
        statistics=dataset_statistics,
        fingerprint=dataset_statistics["fingerprint"],
        runs=compared_runs,
        confidence=evaluate.confidence,
        significance=evaluate.significance,
        correction=evaluate.correction,
        filter_seen=evaluate.filter_seen,
    )
    evidence = Evidence(comparison, all_trainings, training_curves, weight_shares, found_users)
    drawn = draw(evidence)
    return (
        comparison,
        drawn["relative_change"],
        drawn["group_values"],
        drawn["repeat_and_new"],
        drawn["trade_off"],
        drawn["learning_curves"],
        markdown_report(evidence, subject),
        html_report(evidence, subject, drawn),
    )
