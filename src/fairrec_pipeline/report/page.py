"""The comparison as a page: in words, in tables, in figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from textwrap import fill
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from plotly.offline import get_plotlyjs

from fairrec_pipeline.comparison.paper.stars import stars_in_words
from fairrec_pipeline.metrics.by_group import BY_TARGET, SPLIT, TARGET
from fairrec_pipeline.parameters.blocks import Evaluate
from fairrec_pipeline.report import audit_tables, findings, item_tables, paper_tables, tables, training_tables, verdict
from fairrec_pipeline.report.evidence import Evidence
from fairrec_pipeline.report.tables import Table

_TERMINAL, _NAME_WIDTH = 120, 20  # columns


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: of the part.
        words: sentences, as a list.
        tables: with a caption each, which may be empty.
        note: how to read the tables and figures; Markdown's and HTML's are the same but for escaped stars.
        figures: names of figures; Markdown has none.
    """

    title: str
    words: Sequence[str] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    note: str = ""
    figures: Sequence[str] = ()

    def without_gaps(self, drawn: Iterable[str]) -> Section | None:
        """The same without tables that have no rows and figures that were not drawn; None if nothing is left."""
        tables = {caption: table for caption, table in self.tables.items() if table.rows}
        figures = [name for name in self.figures if name in drawn]
        section = replace(self, tables=tables, figures=figures, note=self.note if tables or figures else "")
        return section if section.words or tables or figures else None


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
    """The report without figures."""
    return environment().get_template("report.md.j2").render(_context(evidence, subject, figures=()))


def html_report(evidence: Evidence, subject: Subject, figures: Mapping[str, go.Figure]) -> str:
    """The report as one file that needs no network: plotly.js is in it once; `figures` are those of `figures.draw`."""
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
    context = _context(evidence, subject, figures)
    return environment().get_template("report.html.j2").render(context, figures=parts, plotly=get_plotlyjs())


def comparison_table(evidence: Evidence) -> str:
    """NDCG@20 overall, by group and of the worst group, then the verdict in one sentence: text of 120 columns."""
    table = tables.headline_table(evidence)
    splits = ["", *(split for split, width in table.splits for _ in range(width))]
    labels = ["" if split == before else split for before, split in pairwise(["", *splits])]
    rows = [
        [_shortened(row.arm if row.trained else f"({row.arm})"), *(f"{cell.text}{cell.marks}" for cell in row.cells)]
        for row in table.rows
    ]
    columns = zip(labels, ["NDCG@20", *table.header], *rows, strict=True)
    # Targets and gaps stay in the report: a terminal is narrow.
    shown = [column for split, column in zip(splits, columns, strict=True) if split not in (TARGET, "gap")]
    padded = [[part.ljust(max(map(len, column))) for part in column] for column in shown]
    text = "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))
    legend = (
        f"* differs from erm (t-test, p < {evidence.significance:g})  † after the correction too  "
        "‡ for another training too  ↓ below an untrained arm"
    )
    return f"{text}\n{legend}\n\n{fill(verdict.verdict_line(evidence), _TERMINAL)}"


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"


def _context(evidence: Evidence, subject: Subject, figures: Iterable[str]) -> dict[str, Any]:
    """What the templates are given; `figures` are the names of those that were drawn."""
    evidence = replace(evidence.shortened(), significance=subject.evaluate.significance)
    return {
        "subject": subject,
        "verdict": verdict.verdict(evidence),
        "summary": verdict.summary_table(evidence),
        "summary_note": f"{verdict.left_out_in_words(evidence)} {_SUMMARY_NOTE}".strip(),
        "sections": [full for section in _sections(evidence, subject) if (full := section.without_gaps(figures))],
        "same_parameters": training_tables.same_parameters(subject.runs),
    }


def _sections(evidence: Evidence, subject: Subject) -> list[Section]:
    """Every part that a report may have, whether or not there is something in it."""
    evaluate, splits = subject.evaluate, dict.fromkeys(evidence.comparison[SPLIT])
    details = {split: tables.group_table(evidence, split) for split in splits if split not in tables.EVERY_ARM_SPLITS}
    differences = tables.difference_table(evidence)
    stars = stars_in_words(evidence.comparison, subject.dataset, significance=evidence.significance)
    return [
        Section(
            "Before you compare",
            words=[
                *findings.budget_in_words(evidence),
                *training_tables.unequal_in_words(subject.runs),
                *training_tables.unfinished_in_words(subject.runs),
                *stars[:2],  # what became of each arm's stars has a section
            ],
        ),
        Section("The findings in words", words=[*findings.findings(evidence), *findings.rules_in_words(evidence)]),
        Section(
            "NDCG@20 by group",
            tables={"": tables.headline_table(evidence)},
            note=_LEGEND.format(level=evaluate.significance, correction=_CORRECTION_NAMES[evaluate.correction]),
            figures=("group_values", "relative_change"),
        ),
        Section(
            "Repeat and new targets",
            tables={split: table for split, table in details.items() if split.endswith(BY_TARGET)},
            note="A repeat target is already in the user's history. All groups together: in the first table.",
            figures=("repeat_and_new", "by_target"),
        ),
        Section(
            "NDCG@20 by every other split and attribute",
            tables={split: table for split, table in details.items() if not split.endswith(BY_TARGET)},
            figures=("attributes", "quantile_groups", "intersections"),
        ),
        Section(
            "Worst group, gaps and the overall value",
            figures=("worst_group", "trade_off"),
            note="Every seed, every point of a grid whose test was kept, and the untrained arms.",
        ),
        Section(
            "Difference from erm, overall",
            words=[] if differences.rows else ["There is no erm arm."],
            tables={"": differences},
            note=_DIFFERENCE_NOTE.format(confidence=100 * evaluate.confidence),
        ),
        Section("Other metrics, overall", tables={"": tables.metrics_table(evidence)}),
        Section(
            "Ours beside the published numbers",
            tables=paper_tables.paper_tables(evidence, subject.dataset),
            note=_PUBLISHED_NOTE,
        ),
        Section("Which published stars survive", words=stars, tables={"": paper_tables.stars_table(evidence)}),
        Section(
            "How the arms were trained, and what it cost",
            tables={"": training_tables.budget_table(evidence)},
            note="Seconds in all: compared runs and every point of the grid, the winner counted once. One tuning "
            "point: trained as given.",
            figures=("learning_curves", "option_curves", "group_weights", "method_columns", "cost"),
        ),
        Section(
            "Whom the arms trained on",
            tables={
                "Share of the weight by group, over the whole training": training_tables.shares_table(evidence),
                "Users above erm's weight, by rules of a decision tree": training_tables.rules_table(evidence),
            },
            note=_SHARES_NOTE,
            figures=("lifts", "lifts_over_training"),
        ),
        Section("Parameters", tables={"": training_tables.parameters_table(subject.runs)}),
        Section(
            "Users whom an arm serves badly",
            words=[*audit_tables.slices_in_words(evidence)],
            tables={"": audit_tables.slices_table(evidence)},
            note=audit_tables.SLICES_NOTE,
        ),
        Section("Recommendations of other systems", words=[*item_tables.foreign_in_words(evidence)]),
        Section("What the lists do to the items", tables=item_tables.item_tables(evidence), note=item_tables.ITEM_NOTE),
        Section("Audit", tables={"": audit_tables.audit_table(evidence)}, note=audit_tables.AUDIT_NOTE),
    ]


_CORRECTION_NAMES = {"holm": "Holm", "fdr_bh": "Benjamini-Hochberg"}
_SUMMARY_NOTE = """\\* differs from erm, † also after the correction, ‡ also for another training, ↓ below the best
untrained arm. Bold: best trained arm. To erm: percent of erm's value in the same group."""
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
    """Reads the templates of this room; HTML is escaped, Markdown where the filter `label` says so."""
    made = Environment(
        loader=PackageLoader("fairrec_pipeline.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["label"] = _label
    return made


def _label(text: object) -> str:
    """A name from the data within Markdown: on one line, no cell of its own, no tag."""
    return " ".join(re.sub("<(?=[a-zA-Z/!])", "&lt;", str(text).replace("|", "\\|")).split())
