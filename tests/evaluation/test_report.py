"""The report has every arm, says bad news in words, and needs no network."""

from __future__ import annotations

import dataclasses
import re

import pandas as pd
import plotly.graph_objects as go
import pytest

from fairrec_pipeline.evaluation import figures
from fairrec_pipeline.evaluation.comparison import compare_arms, select_arms
from fairrec_pipeline.evaluation.findings import findings
from fairrec_pipeline.evaluation.report import Subject, comparison_table, html_report, markdown_report, run_cards
from fairrec_pipeline.evaluation.tables import group_table

FINGERPRINT = "f" * 64
DATA = {"fingerprint": FINGERPRINT, "other_data": "refuse"}


@pytest.fixture
def arms(arm):
    return [
        arm("erm", 0.50, model={"dim": 64}),
        arm("cb", 0.46, model={"dim": 64}),
        arm("gdro-pop33", 0.505, model={"dim": 64}, gdro={"eta": 0.1}),
        arm("cvar", 0.52, model={"dim": 64}, cvar={"alpha": 0.3}),
        arm("recency", 0.51, seed=None),
        arm("popularity", 0.02, seed=None),
    ]


@pytest.fixture
def compare(user_groups):
    def build(arms) -> pd.DataFrame:
        return compare_arms(
            arms, user_groups, dataset="retailrocket", confidence=0.95, significance=0.05, correction="holm", **DATA
        )

    return build


@pytest.fixture
def comparison(arms, compare) -> pd.DataFrame:
    return compare(arms)


@pytest.fixture
def subject(arms) -> Subject:
    runs = [run for seeds in select_arms(arms, **DATA).values() for run in seeds]
    statistics = {"n_users": 22178, "n_items": 17803, "group_shares": {"pop33": {}}, "fingerprint": FINGERPRINT}
    return Subject("retailrocket", statistics, FINGERPRINT, run_cards(runs), 0.95, 0.05, "holm", filter_seen=False)


@pytest.fixture
def drawn(comparison) -> list[go.Figure]:
    return [draw(comparison) for draw in (figures.relative_change, figures.group_values, figures.repeat_and_new)]


def test_every_arm_is_in_every_form(comparison, subject, drawn):
    for text in (
        markdown_report(comparison, subject),
        html_report(comparison, subject, drawn),
        comparison_table(comparison),
    ):
        for arm in ("erm", "cb", "gdro-pop33", "cvar", "recency", "popularity"):
            assert arm in text


def test_the_html_is_one_file_with_one_plotly(comparison, subject, drawn):
    page = html_report(comparison, subject, drawn)
    assert page.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert page.count('class="plotly-graph-div"') == 3


def test_names_from_the_data_are_escaped(comparison, subject, drawn):
    hostile = comparison.replace({"group": {"even": "<script>alert(1)</script>"}})
    assert "<script>alert(1)" not in html_report(hostile, subject, drawn)


def test_losing_to_recency_is_said_in_words(comparison):
    words = " ".join(findings(comparison, significance=0.05))
    assert re.search(
        r"gdro-pop33 \(0\.50\d+\), erm \(0\.50\d+\), cb \(0\.4[56]\d+\) are worse overall than recency", words
    )
    assert "In these groups an untrained arm beats every trained one" not in words  # cvar stands above it


def test_one_loser_and_only_losers(arm, compare):
    one = findings(compare([arm("erm", 0.5), arm("recency", 0.6, seed=None)]), significance=0.05)[0]
    assert re.match(r"erm \(0\.\d+\) is worse overall than recency \(0\.\d+\), which was not trained\.", one)
    every = findings(compare([arm("erm", 0.5), arm("cvar", 0.55), arm("recency", 0.6, seed=None)]), significance=0.05)
    assert re.match(r"Every trained arm is worse overall than recency .*: cvar \(.*\), erm", every[0])
    assert every[1] == "In every group of pop33, seq33 and target an untrained arm beats every trained one."


def test_worse_and_better_than_erm_are_said_alike(comparison):
    words = findings(comparison, significance=0.05)
    better = next(sentence for sentence in words if sentence.startswith("Better than erm"))
    worse = next(sentence for sentence in words if sentence.startswith("Worse than erm"))
    assert "cvar (+" in better
    assert "cb (-" in worse
    assert any("Groups served worse than by erm" in sentence and "cb for niche" in sentence for sentence in words)


def test_without_erm_the_report_says_so(arm, compare, subject):
    alone = compare([arm("cvar", 0.5), arm("recency", 0.4, seed=None)])
    assert "There is no erm arm" in markdown_report(alone, subject)
    assert isinstance(figures.relative_change(alone), go.Figure)


def test_untrained_arms_alone(arm, compare, subject):
    alone = compare([arm("recency", 0.4, seed=None)])
    assert "No arm was trained" in markdown_report(alone, subject)
    assert "(recency)" in comparison_table(alone)


def test_best_and_second_are_of_the_trained_arms(comparison):
    cells = {row.arm: row.cells[0] for row in group_table(comparison, ["overall"], significance=0.05).rows}
    assert cells["cvar"].best
    assert cells["gdro-pop33"].second
    assert not cells["recency"].second
    assert {arm for arm, cell in cells.items() if cell.below_untrained} == {"erm", "cb", "gdro-pop33"}
    assert cells["cvar"].marks == "*†"
    assert cells["recency"].marks == ""


def test_markdown_tables_have_one_width(comparison, subject):
    for block in re.findall(r"(?:^\|.*\n)+", markdown_report(comparison, subject), flags=re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_an_arm_that_was_still_improving_is_named(comparison, subject):
    text = markdown_report(comparison, subject)
    assert "Still improving on validation when the budget ended: cvar." in text
    assert "| 30 (12) |" in text


def test_a_group_lost_to_an_untrained_arm_is_named(arm, metrics, compare):
    recency = arm("recency", 0.4, seed=None)
    strong_on_repeats = recency.user_metrics["ndcg_at_20"] + 0.4 * recency.user_metrics["repeat_target"]
    recency = dataclasses.replace(recency, user_metrics=metrics(strong_on_repeats.to_numpy()))
    words = " ".join(findings(compare([arm("erm", 0.6), recency]), significance=0.05))
    assert re.search(
        r"beats every trained one: repeat of target \(recency 0\.\d+, best trained arm erm 0\.\d+\)\.", words
    )


def test_parameters_that_differ_are_columns(comparison, subject):
    text = markdown_report(comparison, subject)
    assert re.search(r"\| arm \| seeds .*\| cvar\.alpha \| gdro\.eta \|", text)
    assert "`model.dim=64`" in text
    assert "22,178" in text


def test_published_is_beside_ours(comparison, subject):
    assert re.search(r"\| cvar \| 0\.5\d+ / 0\.2386 \(\+0\.\d+\)", markdown_report(comparison, subject))


def test_one_colour_per_arm_and_grey_for_the_untrained(comparison):
    colours = figures.arm_colours(comparison)
    assert len(set(colours.values())) == 6
    for arm in ("recency", "popularity"):
        red, green, blue = (colours[arm][place : place + 2] for place in (1, 3, 5))
        assert red == green == blue


def test_figures_show_the_numbers_of_the_comparison(comparison):
    figure = figures.relative_change(comparison)
    bars = {bar.name: bar for bar in figure.data if bar.showlegend}
    assert set(bars) == {"cb", "gdro-pop33", "cvar"}
    rows = comparison[
        (comparison["arm"] == "cb") & (comparison["split"] == "pop33") & (comparison["metric"] == "ndcg_at_20")
    ]
    assert list(bars["cb"].x) == ["niche", "diverse", "popular"]
    assert list(bars["cb"].y) == rows["relative_change"].tolist()


def test_training_history_marks_the_best_epoch():
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "validation_ndcg_at_20": [0.1, 0.3, 0.2]})
    texts = [note.text for note in figures.training_history(history, "cvar").layout.annotations]
    assert "best: 0.3000, epoch 2" in texts


def test_arms_of_different_budgets_are_said_to_be_so(comparison, subject):
    assert "not trained alike" not in markdown_report(comparison, subject)
    longer = [
        {**run, "parameters": {**run["parameters"], "train.epochs": 30 if run["arm"] == "cvar" else 12}}
        for run in subject.runs
    ]
    report = markdown_report(comparison, dataclasses.replace(subject, runs=longer))
    assert "not trained alike" in report
    assert "30: cvar" in report
