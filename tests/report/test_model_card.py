"""The model card: the numbers of the champion, whom it serves worst, and what it must not be used for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fairrec_pipeline.comparison.promotion import judge
from fairrec_pipeline.parameters.blocks import Promote
from fairrec_pipeline.report.model_card import MOST_GROUPS, Subject, model_card, served_groups
from tests.worlds import STATISTICS, compared_groups, metrics_of, record_at, with_parts

COUNTS = {
    "n_users": 240,
    "n_items": 1_900,
    "n_interactions": 21_000,
    "n_train": 20_640,
    "n_validation": 120,
    "n_test": 240,
}
CARD = {"torch": "2.13", "finished": "2026-01-01"}


def subject(groups: pd.DataFrame | None = None) -> Subject:
    groups = compared_groups() if groups is None else groups
    niche = (groups["pop33"] == "niche").to_numpy()
    record = record_at(0.3, "gdro-pop33", **{"model.dim": 64})
    metrics = metrics_of(np.where(niche, 0.1, 0.4) + 0.01 * (np.arange(len(groups)) % 5))
    record = with_parts(record, CARD, user_metrics=metrics, validation_user_metrics=metrics)
    other = with_parts(record_at(0.3, "erm"), CARD, validation_user_metrics=metrics_of(np.full(len(groups), 0.2)))
    rule = Promote(rule="best_overall", within=1.0)
    return Subject(record, judge([other, record], groups), rule, STATISTICS | COUNTS, groups, 0.9)


def test_the_intervals_are_those_of_scipy() -> None:
    about = subject()
    served = served_groups(about).set_index(["split", "group"])
    niche = about.record.user_metrics.loc[(about.user_groups["pop33"] == "niche").to_numpy(), "ndcg_at_20"]
    low, high = stats.t.interval(0.9, len(niche) - 1, niche.mean(), stats.sem(niche))
    row = served.loc[("pop33", "niche")]
    assert (row["n_users"], row["value"]) == (80, pytest.approx(niche.mean()))
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert list(served.index.get_level_values("split").unique()) == ["overall", "pop33", "seq33", "segment", "target"]


def test_what_a_reader_looks_for() -> None:
    text = model_card(subject())
    for part in (
        "# gdro-pop33 on synthetic",
        "- pop33: niche, 80 test users, NDCG@20 0.1",
        "## What it must not be used for",
        "data fingerprint `" + "f" * 64,
        "| pop33 | niche | 80 | 0.1",
        "| **gdro-pop33** | 1 | 0.3",
        "| erm | 1 | 0.2000 | 0.2000",
        "with 90 % intervals",
        "21,000 interactions",
        "attributes segment",
        "| `model.dim` | 64 |",
    ):
        assert part in text


def test_names_that_would_break_a_table_and_attributes_of_many_values() -> None:
    users = np.arange(240)
    towns = [f"town|{user % 60}\n" for user in users]
    text = model_card(subject(compared_groups().assign(town=towns)))
    rows = [line for line in text.splitlines() if line.startswith("| town |")]
    assert len(rows) == MOST_GROUPS
    assert all(line.count("|") - line.count("\\|") == 6 for line in rows)


def test_a_group_of_one_user_has_no_interval() -> None:
    names = np.where(np.arange(240) == 0, "alone", "others")
    assert "| kind | alone | 1 | 0.1000 | - |" in model_card(subject(compared_groups().assign(kind=names)))
