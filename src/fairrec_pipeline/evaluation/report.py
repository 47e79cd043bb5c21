"""The comparison as a page: in words, in tables, in figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from fairrec_pipeline.evaluation.comparison import TrainedArm
from fairrec_pipeline.evaluation.findings import findings
from fairrec_pipeline.evaluation.group_metrics import METRICS, OVERALL, SPLIT, STANDARD_SPLITS
from fairrec_pipeline.evaluation.tables import (
    EVERY_ARM_SPLITS,
    Cell,
    Row,
    Table,
    difference_table,
    group_table,
    headline_table,
    published_table,
)

_CORRECTION_NAMES = {"holm": "Holm", "fdr_bh": "Benjamini-Hochberg"}
_METRIC_NAMES = {
    "ndcg_at_10": "NDCG@10",
    "ndcg_at_20": "NDCG@20",
    "recall_at_10": "Recall@10",
    "recall_at_20": "Recall@20",
}


@dataclass(frozen=True)
class Subject:
    """What was compared, and how.

    Attributes:
        dataset: its name.
        statistics: the `dataset_statistics` of the data pipeline.
        fingerprint: of the data.
        runs: from `run_cards`.
        confidence: of the intervals.
        significance: level of the tests.
        correction: `holm` or `fdr_bh`.
        filter_seen: items of the history were left out of the ranking.
    """

    dataset: str
    statistics: Mapping[str, Any]
    fingerprint: str
    runs: Sequence[Mapping[str, Any]]
    confidence: float
    significance: float
    correction: str
    filter_seen: bool


def run_cards(runs: Iterable[TrainedArm]) -> list[dict[str, Any]]:
    """What stands behind each row of a comparison, ready for JSON.

    Args:
        runs: compared runs; untrained arms are left out.

    Returns:
        Per run: arm, seed, seconds, device, finished, epochs, best_epoch (null where the card lacks them), and
        parameters by dotted name.
    """
    return [
        {"arm": run.arm, "seed": run.seed}
        | {name: run.card.get(name) for name in ("seconds", "device", "finished", "epochs", "best_epoch")}
        | {"parameters": run.parameters}
        for run in runs
        if run.seed is not None
    ]


def markdown_report(comparison: pd.DataFrame, subject: Subject) -> str:
    """The report without figures.

    Args:
        comparison: from `comparison.compare_arms`.
        subject: what was compared.
    """
    return _environment().get_template("report.md.j2").render(_context(comparison, subject))


def html_report(comparison: pd.DataFrame, subject: Subject, figures: Sequence[go.Figure]) -> str:
    """The report as one file that needs no network: plotly.js is in it once.

    Args:
        comparison: from `comparison.compare_arms`.
        subject: what was compared.
        figures: in the order of the page.
    """
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=place == 0, config={"displaylogo": False})
        for place, figure in enumerate(figures)
    ]
    return _environment().get_template("report.html.j2").render(_context(comparison, subject), figures=parts)


def comparison_table(comparison: pd.DataFrame, significance: float = 0.05) -> str:
    """The headline table as plain text for a terminal.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: level of the star.
    """
    table = headline_table(comparison, significance=significance)
    # The gaps and marks of rank stay in the report: a terminal is narrow.
    width = sum(columns for split, columns in table.splits if split != "gap")
    labels = [label for split, columns in table.splits for label in [split, *[""] * (columns - 1)]][:width]
    lines = [["", *labels], ["NDCG@20", *table.header[:width]]]
    for row in table.rows:
        name = row.arm if row.trained else f"({row.arm})"
        lines.append([name, *(f"{cell.text}{cell.marks:<3}" for cell in row.cells[:width])])
    widths = [max(len(line[column]) for line in lines) for column in range(width + 1)]
    text = "\n".join(
        "  ".join(part.ljust(size) for part, size in zip(line, widths, strict=True)).rstrip() for line in lines
    )
    return (
        f"{text}\n* differs from erm (paired t-test, p < {significance:g})  † also after the correction  "
        "↓ below an untrained arm  (untrained)"
    )


def _context(comparison: pd.DataFrame, subject: Subject) -> dict[str, Any]:
    level = subject.significance
    splits = [str(split) for split in comparison[SPLIT].unique()]
    details = [split for split in splits if split not in EVERY_ARM_SPLITS]
    blocks = [(OVERALL, *STANDARD_SPLITS), *((split,) for split in details)]
    published = [table for block in blocks if (table := published_table(comparison, block)) is not None]
    return {
        "subject": subject,
        "correction": _CORRECTION_NAMES[subject.correction],
        "words": [*findings(comparison, significance=level), *_unequal(subject.runs), *_unfinished(subject.runs)],
        "headline": headline_table(comparison, significance=level),
        "differences": difference_table(comparison, significance=level),
        "details": {split: group_table(comparison, [split], significance=level) for split in details},
        "metrics": _metrics_table(comparison, level),
        "published": published,
        "parameters": _parameters_table(subject.runs),
        "same_parameters": _same_parameters(subject.runs),
    }


def _metrics_table(comparison: pd.DataFrame, significance: float) -> Table:
    """Every metric, overall."""
    tables = [group_table(comparison, [OVERALL], significance=significance, metric=metric) for metric in METRICS]
    rows = zip(*(table.rows for table in tables), strict=True)
    return Table(
        splits=(),
        header=tuple(_METRIC_NAMES[metric] for metric in METRICS),
        rows=tuple(Row(same[0].arm, same[0].trained, tuple(row.cells[0] for row in same)) for same in rows),
    )


def _unequal(runs: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """A warning for every parameter of backbone and budget that is not the same in all trained arms."""
    values: dict[str, dict[str, set[str]]] = {}
    for run in runs:
        for name, value in run["parameters"].items():
            if name.startswith(("model.", "train.")):
                values.setdefault(name, {}).setdefault(str(value), set()).add(run["arm"])
    for name, arms_of in values.items():
        if len(arms_of) > 1:
            listed = "; ".join(f"{value}: {', '.join(sorted(named))}" for value, named in arms_of.items())
            yield f"The arms were not trained alike, so a difference need not be the method's: {name} is {listed}."


def _unfinished(runs: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Arms whose budget ended too early for a comparison of methods rather than of speeds."""
    rising = [run["arm"] for run in runs if run["epochs"] and run["best_epoch"] == run["epochs"]]
    if rising:
        yield (
            f"Still improving on validation when the budget ended: {', '.join(dict.fromkeys(rising))}. Such a table "
            "compares speeds of convergence; give train.epochs room until every arm stops by itself."
        )


def _parameters_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """One row per arm: its seeds, cost, device and the parameters that are not the same for every arm."""
    same = _same_parameters(runs)
    # The name of the arm says these two.
    differing = sorted({name for run in runs for name in run["parameters"]} - same.keys() - {"loss", "loss_groups"})
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_arm.setdefault(run["arm"], []).append(run)
    rows = []
    for arm, seeds in by_arm.items():
        seconds = [run["seconds"] for run in seeds if run["seconds"] is not None]
        texts = [
            ", ".join(str(run["seed"]) for run in seeds),
            f"{sum(seconds) / len(seconds):.0f}" if seconds else "-",
            ", ".join(dict.fromkeys(str(run["device"] or "-") for run in seeds)),
            max(str(run["finished"] or "-") for run in seeds)[:19],
            ", ".join(f"{run['epochs'] or '-'} ({run['best_epoch'] or '-'})" for run in seeds),
            *(str(seeds[0]["parameters"].get(name, "-")) for name in differing),
        ]
        rows.append(Row(arm, True, tuple(Cell(text) for text in texts)))
    return Table((), ("seeds", "seconds per run", "device", "last finished", "epochs (best)", *differing), tuple(rows))


def _same_parameters(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Parameters that every run has, with one value."""
    if not runs:
        return {}
    first = runs[0]["parameters"]
    absent = object()
    return {
        name: value
        for name, value in sorted(first.items())
        if all(run["parameters"].get(name, absent) == value for run in runs)
    }


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("fairrec_pipeline.evaluation"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
