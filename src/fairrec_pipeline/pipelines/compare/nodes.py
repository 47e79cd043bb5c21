"""Nodes of the compare pipeline."""

from __future__ import annotations

from typing import Any

import ibis
import pandas as pd
import plotly.graph_objects as go

from fairrec_pipeline.evaluation import figures
from fairrec_pipeline.evaluation.baselines import BASELINES
from fairrec_pipeline.evaluation.comparison import TrainedArm, compare_arms, select_arms
from fairrec_pipeline.evaluation.ranking import rank_targets, user_metrics
from fairrec_pipeline.evaluation.report import Subject, html_report, markdown_report, run_cards
from fairrec_pipeline.interactions.columns import TEST
from fairrec_pipeline.interactions.sequences import evaluation_sequences, training_sequences
from fairrec_pipeline.interactions.statistics import check_fingerprint
from fairrec_pipeline.parameters import Evaluate


def score_baselines(
    interactions: ibis.Table,
    user_groups: ibis.Table,
    dataset_statistics: dict[str, Any],
    dataset: str,
    evaluate: Evaluate,
) -> pd.DataFrame:
    """Test metrics of the untrained arms; returns the columns of user_metrics after a column `arm`."""
    events = interactions.to_pandas()
    check_fingerprint(dataset_statistics, dataset, events, user_groups.to_pandas())
    train = training_sequences(events)
    test = evaluation_sequences(events, train.catalogue, TEST)
    frames = []
    for name, build in BASELINES.items():
        ranks = rank_targets(build(train, test), test, filter_seen=evaluate.filter_seen)
        frame = user_metrics(test, ranks, None)
        frame.insert(0, "arm", name)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def compare(
    trained_arms: list[TrainedArm],
    baseline_user_metrics: pd.DataFrame,
    user_groups: ibis.Table,
    dataset_statistics: dict[str, Any],
    dataset: str,
    evaluate: Evaluate,
    *after: Any,
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The tidy comparison, and the run cards behind it; `after` is there for the order of the nodes only."""
    fingerprint = dataset_statistics["fingerprint"]
    untrained = [
        TrainedArm(str(name), str(name), None, None, fingerprint, {}, rows.drop(columns="arm"))
        for name, rows in baseline_user_metrics.groupby("arm", sort=False)
    ]
    runs = select_arms(
        [*trained_arms, *untrained],
        fingerprint=fingerprint,
        filter_seen=evaluate.filter_seen,
        other_data=evaluate.other_data,
    )
    selected = [run for seeds in runs.values() for run in seeds]
    comparison = compare_arms(
        selected,
        user_groups.to_pandas(),
        dataset=dataset,
        confidence=evaluate.confidence,
        significance=evaluate.significance,
        correction=evaluate.correction,
        other_data=evaluate.other_data,
        fingerprint=fingerprint,
        filter_seen=evaluate.filter_seen,
    )
    return comparison, run_cards(selected)


def report(
    comparison: pd.DataFrame,
    compared_runs: list[dict[str, Any]],
    dataset_statistics: dict[str, Any],
    dataset: str,
    evaluate: Evaluate,
) -> tuple[pd.DataFrame, go.Figure, go.Figure, go.Figure, str, str]:
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
    drawn = (
        figures.relative_change(comparison),
        figures.group_values(comparison),
        figures.repeat_and_new(comparison),
    )
    return comparison, *drawn, markdown_report(comparison, subject), html_report(comparison, subject, drawn)
