"""Slices that an arm serves badly, and what stands behind every number."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from fairrec_pipeline.metrics.by_group import OVERALL, SPLIT
from fairrec_pipeline.report.evidence import Evidence, records
from fairrec_pipeline.report.tables import Row, Table, number, p_text

SLICES_NOTE = """Found by a regression tree on a random half of the users, tested on the other half. All numbers are of
the latter: one-sided t-test of the slice against all other users, corrected (Holm) over all slices of all arms. Erm
there: erm's NDCG@20 for the same users."""
AUDIT_NOTE = """Every cell has a row in audit.csv beside the comparison, with full fingerprints. Points: trainings that
the arm was chosen from; 1: trained as given. A commit that ends in -dirty had changes that no commit has."""


def slices_table(evidence: Evidence) -> Table:
    """Every slice of every arm, and whether it was confirmed."""
    return Table(
        header=["users with", "users", "NDCG@20", "elsewhere", "erm there", "p", "p corrected", "confirmed"],
        rows=[
            Row.of(
                *(row.arm, row.rule, f"{row.n_users:,}", number(row.value), number(row.elsewhere)),
                *("-" if pd.isna(row.erm) else number(row.erm), p_text(row.p_value), p_text(row.p_adjusted)),
                "yes" if row.p_adjusted < evidence.significance else "no",
            )
            for row in records(evidence.slices)
        ],
    )


def slices_in_words(evidence: Evidence) -> Iterable[str]:
    """How many slices were confirmed, and the one of each arm that lacks most."""
    slices = evidence.slices
    if slices.empty:
        return
    confirmed = slices[slices["p_adjusted"] < evidence.significance]
    yield f"{len(confirmed)} of {len(slices)} slices that looked bad on half of the users were confirmed on the other."
    for worst in records(confirmed.sort_values("difference").drop_duplicates("arm").sort_index()):
        yield (
            f"{worst.arm} serves users with {worst.rule} worst: NDCG@20 {number(worst.value)} for {worst.n_users:,} of "
            f"them, {number(worst.elsewhere)} for all others."
        )


def audit_table(evidence: Evidence) -> Table:
    """One row per arm: what is the same for all its cells; what is empty is null where it was read from its file."""
    audit = evidence.audit
    shown = (audit if audit.empty else audit[audit[SPLIT] == OVERALL]).astype(object)
    shown = shown.where(shown.notna(), "")
    names = ["seeds", "epochs", "tuning_points", "tuned", "seconds", "total_seconds", "device", "commit", "command"]
    return Table(
        header=["data", "split", *(name.replace("_", " ") for name in names), "file"],
        rows=[
            Row.of(
                *(row.arm, row.data_fingerprint[:12], row.data_split or "-"),
                *(_text(getattr(row, name)) for name in names),
                row.file[:60] or "-",
            )
            for row in records(shown)
        ],
    )


def _text(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else str(value) or "-"
