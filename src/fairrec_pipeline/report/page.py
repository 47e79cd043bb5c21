"""The comparison as a page: in words, in tables, in figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import fill
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from plotly.offline import get_plotlyjs

from fairrec_pipeline.comparison.paper.stars import stars_in_words
from fairrec_pipeline.metrics.by_group import BY_TARGET, SPLIT, TARGET
from fairrec_pipeline.parameters.blocks import Evaluate
from fairrec_pipeline.report.evidence import Evidence
from fairrec_pipeline.report.evidence_tables import (
    AUDIT_NOTE,
    SLICES_NOTE,
    audit_table,
    slices_in_words,
    slices_table,
)
from fairrec_pipeline.report.findings import budget_in_words, findings, rules_in_words
from fairrec_pipeline.report.item_tables import ITEM_NOTE, foreign_in_words, item_tables
from fairrec_pipeline.report.paper_tables import paper_tables, stars_table
from fairrec_pipeline.report.tables import (
    EVERY_ARM_SPLITS,
    Table,
    difference_table,
    group_table,
    headline_table,
    metrics_table,
)
from fairrec_pipeline.report.training_tables import (
    budget_table,
    parameters_table,
    rules_table,
    same_parameters,
    shares_table,
    unequal_in_words,
    unfinished_in_words,
)
from fairrec_pipeline.report.verdict import left_out_in_words, summary_table, verdict, verdict_line

_TERMINAL, _NAME_WIDTH = 120, 20  # columns
_CORRECTION_NAMES = {"holm": "Holm", "fdr_bh": "Benjamini-Hochberg"}


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: of the part.
        words: sentences, as a list.
        tables: with a caption each, which may be empty.
        note: how to read the tables; Markdown's and HTML's are the same but for escaped stars.
        figures: names of figures; those that were not drawn are left out, and Markdown has none.
    """

    title: str
    words: Sequence[str] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    note: str = ""
    figures: Sequence[str] = ()


@dataclass(frozen=True)
class Subject:
    """What was compared, and how.

    Attributes:
        dataset: its name.
        statistics: the `dataset_statistics` of the data pipeline.
        runs: from `training_tables.run_cards`.
        evaluate: confidence, level of the tests, correction, and whether seen items were left out of the ranking.
    """

    dataset: str
    statistics: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]]
    evaluate: Evaluate


def markdown_report(evidence: Evidence, subject: Subject) -> str:
    """The report without figures.

    Args:
        evidence: the tables of a comparison.
        subject: what was compared.
    """
    return environment().get_template("report.md.j2").render(_context(evidence, subject))


def html_report(evidence: Evidence, subject: Subject, figures: Mapping[str, go.Figure]) -> str:
    """The report as one file that needs no network: plotly.js is in it once.

    Args:
        evidence: the tables of a comparison.
        subject: what was compared.
        figures: by name, from `figures.draw`.
    """
    parts = {
        name: go.Figure(figure)
        .update_layout(width=None)  # as wide as the page
        .to_html(
            full_html=False,
            include_plotlyjs=False,
            config={"displaylogo": False, "responsive": True, "displayModeBar": name != "summary"},
        )
        for name, figure in figures.items()
    }
    context = _context(evidence, subject)
    return environment().get_template("report.html.j2").render(context, figures=parts, plotly=get_plotlyjs())


def comparison_table(comparison: pd.DataFrame, significance: float = 0.05) -> str:
    """NDCG@20 overall, by group and of the worst group, then the verdict in one sentence: text of 120 columns.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: level of the star.
    """
    table = headline_table(comparison, significance=significance)
    # Targets and gaps stay in the report: a terminal is narrow.
    names = [split for split, columns in table.splits for _ in range(columns)]
    shown = [column for column, split in enumerate(names) if split not in (TARGET, "gap")]
    labels = ["" if column and names[column] == names[column - 1] else names[column] for column in shown]
    lines = [["", *labels], ["NDCG@20", *(table.header[column] for column in shown)]]
    for row in table.rows:
        name = shorten(row.arm if row.trained else f"({row.arm})", _NAME_WIDTH)
        cells = [row.cells[column] for column in shown]
        lines.append([name, *(f"{cell.text}{cell.marks}" for cell in cells)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(shown) + 1)]
    text = "\n".join(
        "  ".join(part.ljust(size) for part, size in zip(line, widths, strict=True)).rstrip() for line in lines
    )
    legend = (
        f"* differs from erm (t-test, p < {significance:g})  † after the correction too  ‡ for another training too  "
        "↓ below an untrained arm"
    )
    return f"{text}\n{legend}\n\n{fill(verdict_line(comparison, significance=significance), _TERMINAL)}"


def shorten(name: str, width: int) -> str:
    """A name of at most so many characters."""
    return name if len(name) <= width else f"{name[: width - 1]}…"


def _context(evidence: Evidence, subject: Subject) -> dict[str, Any]:
    evidence = evidence.shortened()
    comparison, level = evidence.comparison, subject.evaluate.significance
    stars = stars_in_words(comparison, subject.dataset, significance=level)
    before = [
        *budget_in_words(evidence.trainings),
        *unequal_in_words(subject.runs),
        *unfinished_in_words(subject.runs),
        *stars[:2],  # what became of each arm's stars has a section
    ]
    sections = [
        *([Section("Before you compare", words=before)] if before else []),
        Section(
            "The findings in words", words=[*findings(comparison, significance=level), *rules_in_words(evidence.rules)]
        ),
        *_group_sections(comparison, subject),
        Section(
            "Worst group, gaps and the overall value",
            figures=("worst_group", "trade_off"),
            note="Every seed, every point of a grid whose test was kept, and the untrained arms.",
        ),
        _difference_section(comparison, subject),
        Section("Other metrics, overall", tables={"": metrics_table(comparison, significance=level)}),
        *_published_sections(comparison, subject, stars),
        *_training_sections(evidence, subject),
        *_further_sections(evidence, subject),
    ]
    return {
        "subject": subject,
        "verdict": verdict(comparison, significance=level),
        "summary": summary_table(comparison, significance=level),
        "summary_note": f"{left_out_in_words(comparison, significance=level)} {_SUMMARY_NOTE}".strip(),
        "sections": sections,
        "same_parameters": same_parameters(subject.runs),
    }


def _group_sections(comparison: pd.DataFrame, subject: Subject) -> Iterable[Section]:
    level = subject.evaluate.significance
    legend = _LEGEND.format(level=level, correction=_CORRECTION_NAMES[subject.evaluate.correction])
    yield Section(
        "NDCG@20 by group",
        tables={"": headline_table(comparison, significance=level)},
        note=legend,
        figures=("group_values", "relative_change"),
    )
    details = [split for split in dict.fromkeys(comparison[SPLIT].tolist()) if split not in EVERY_ARM_SPLITS]
    by_target = [split for split in details if split.endswith(BY_TARGET)]
    yield Section(
        "Repeat and new targets",
        tables={split: group_table(comparison, [split], significance=level) for split in by_target},
        note="A repeat target is already in the user's history. All groups together: in the first table.",
        figures=("repeat_and_new", "by_target"),
    )
    others = [split for split in details if split not in by_target]
    if others:
        yield Section(
            "NDCG@20 by every other split and attribute",
            tables={split: group_table(comparison, [split], significance=level) for split in others},
            figures=("attributes", "quantile_groups", "intersections"),
        )


def _difference_section(comparison: pd.DataFrame, subject: Subject) -> Section:
    differences = difference_table(comparison, significance=subject.evaluate.significance)
    if not differences.rows:
        return Section("Difference from erm, overall", words=["There is no erm arm."])
    return Section(
        "Difference from erm, overall",
        tables={"": differences},
        note=_DIFFERENCE_NOTE.format(confidence=100 * subject.evaluate.confidence),
    )


def _published_sections(comparison: pd.DataFrame, subject: Subject, stars: Sequence[str]) -> Iterable[Section]:
    tables = paper_tables(comparison, subject.dataset)
    if tables:
        yield Section("Ours beside the published numbers", tables=tables, note=_PUBLISHED_NOTE)
    if stars:
        every = stars_table(comparison, significance=subject.evaluate.significance)
        yield Section("Which published stars survive", words=stars, tables={"": every} if every.rows else {})


def _training_sections(evidence: Evidence, subject: Subject) -> Iterable[Section]:
    yield Section(
        "How the arms were trained, and what it cost",
        tables={"": budget_table(evidence.trainings, evidence.comparison)},
        note="Seconds in all: compared runs and every point of the grid, the winner counted once. One tuning point: "
        "trained as given.",
        figures=("learning_curves", "option_curves", "group_weights", "method_columns", "cost"),
    )
    if not evidence.shares.empty:
        tables = {"Share of the weight by group, over the whole training": shares_table(evidence.shares)}
        if not evidence.rules.empty:
            tables["Users above erm's weight, by rules of a decision tree"] = rules_table(evidence.rules)
        yield Section(
            "Whom the arms trained on",
            tables=tables,
            note=_SHARES_NOTE,
            figures=("lifts", "lifts_over_training"),
        )
    parameters = parameters_table(subject.runs)
    if parameters.rows:
        yield Section("Parameters", tables={"": parameters})


_SUMMARY_NOTE = """\\* differs from erm, † also after the correction, ‡ also for another training, ↓ below the best
untrained arm. Bold: best trained arm. To erm: percent of erm's value in the same group."""


def _further_sections(evidence: Evidence, subject: Subject) -> Iterable[Section]:
    """Slices, files of other systems, items, and what stands behind every number."""
    level = subject.evaluate.significance
    if not evidence.slices.empty:
        yield Section(
            "Users whom an arm serves badly",
            words=list(slices_in_words(evidence.slices, level)),
            tables={"": slices_table(evidence.slices, level)},
            note=SLICES_NOTE,
        )
    words = list(foreign_in_words(evidence.comparison, level))
    if words:
        yield Section("Recommendations of other systems", words=words)
    if items := item_tables(evidence.comparison):
        yield Section("What the lists do to the items", tables=items, note=ITEM_NOTE)
    if not evidence.audit.empty:
        yield Section("Audit", tables={"": audit_table(evidence.audit)}, note=AUDIT_NOTE)


_LEGEND = """\\* differs from erm: paired t-test over users, p < {level}, uncorrected (the paper's test). † differs also
after the {correction} correction over all trained arms and groups of the split. ‡ differs also for another training of
both arms (users and seeds as samples, from 3 seeds on), after the same correction. ↓ below the best untrained arm.
Bold: best, underlined: second best of the trained arms. A small gap is good only where the groups are served well."""
_DIFFERENCE_NOTE = """Intervals: {confidence:g} %, paired over users; the bootstrap's is BCa with 2000 resamples. d_z:
mean difference in standard deviations over users. p: paired t-test over users (the paper's); p Wilcoxon: signed ranks;
both know no variance between trainings. p over seeds: paired t-test over the seeds that both arms share, for these
users; p users and seeds: for other users, too. Both from 3 seeds on."""
_PUBLISHED_NOTE = """Ours / published (ours minus published; the same in standard deviations of one published cell over
the paper's own repeats, where it has any); the star is the paper's. Budget and backbone are those below, not the
paper's, unless env paper was used."""
_SHARES_NOTE = """Lift: share of the weight over share of the draws; 1 as in erm. Above erm: the user's mean weight is
above the arm's mean, which is erm's, 1, wherever the weights of a batch sum to one. Accuracy of a tree: balanced, on
the same users; 0.5 says that its rules tell nothing."""


def environment() -> Environment:
    """Reads the templates of this room; HTML is escaped, Markdown is not."""
    return Environment(
        loader=PackageLoader("fairrec_pipeline.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
