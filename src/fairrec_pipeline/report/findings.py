"""What a comparison says, in sentences made from its numbers; bad news in the same words as good news."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from fairrec_pipeline.arms.record import FOREIGN
from fairrec_pipeline.comparison.comparison import LEAST_SEEDS, REFERENCE
from fairrec_pipeline.comparison.trainings import GRID, budgets
from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import (
    GROUP,
    HEADLINE_METRIC,
    METRIC,
    N_USERS,
    OVERALL,
    REPEAT,
    SPLIT,
    TARGET,
    VALUE,
)
from fairrec_pipeline.report.tables import arms, extremes_of_arms, number, p_text, records

_TELLING = 0.55
"""Balanced accuracy below which a tree's rules are not put into words; 0.5 is chance."""


def findings(comparison: pd.DataFrame, *, significance: float) -> list[str]:
    """Sentences about NDCG@20, the most important first.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: level of the uncorrected test; the column `significant` is corrected.
    """
    comparison = comparison[comparison["loss"] != FOREIGN]  # which have a section
    rows = comparison[comparison[METRIC] == HEADLINE_METRIC]
    trained = rows[rows["n_seeds"] > 0]
    if trained.empty:
        return ["No arm was trained on this dataset yet; these are the untrained ones only."]
    sentences = [*_against_untrained(rows)]
    if REFERENCE in set(trained["arm"]):
        sentences += [
            *_against_erm(trained, significance),
            *_seeds(trained, significance),
            *_worst_group_and_gaps(comparison),
        ]
    else:
        sentences.append("There is no erm arm, so no arm has a difference or a test. Train it with loss=erm.")
    return [*sentences, *_targets(rows)]


def budget_in_words(trainings: pd.DataFrame) -> list[str]:
    """What about the budgets of the arms a reader has to know before comparing them.

    Args:
        trainings: from `trainings.trainings`.
    """
    table = budgets(trainings)
    sentences = []
    if len(table["points"].unique()) > 1:
        listed = ", ".join(f"{arm} {points}" for arm, points in table["points"].items())
        sentences.append(
            f"The arms were not tuned alike: trainings that each was chosen from: {listed}. The best of many is higher "
            "than the one of one by chance alone, on validation; compare arms that had as many."
        )
    warm = table[table["warm_start_steps"] > 0]
    if not warm.empty:
        listed = ", ".join(f"{arm} {steps}" for arm, steps in warm["warm_start_steps"].items())
        sentences.append(
            f"Started as erm, for so many steps: {listed}. The other arms trained by their own rule at once."
        )
    grid = trainings[(trainings["kind"] == GRID) & trainings["option_value"].notna()]
    edges = []
    for (arm, option), points in grid.groupby(["arm", "option"], sort=False):
        ends = (points["option_value"].min(), points["option_value"].max())
        chosen = points.loc[points["selected"], "option_value"].unique()
        edges += [f"{arm} {option}={value:g}" for value in chosen if value in ends]
    if edges:
        sentences.append(f"Chosen at the edge of the grid, so that a better value may lie beyond: {', '.join(edges)}.")
    return sentences


def rules_in_words(rules: pd.DataFrame) -> list[str]:
    """Whom each arm trained on most and least, by the tree's rules.

    Args:
        rules: from `user_weights.weight_rules`.
    """
    sentences = []
    for arm, leaves in rules.groupby("arm", sort=False):
        most, least = leaves.iloc[0], leaves.iloc[-1]
        if most["accuracy"] < _TELLING:
            sentences.append(
                f"No short rule tells whom {arm} weighs above erm (balanced accuracy {most['accuracy']:.2f})."
            )
            continue
        sentences.append(
            f"{arm} trained most on users with {most['rule']} ({most['n_users']:,} users, lift {most['lift']:.2f}), "
            f"least on those with {least['rule']} ({least['n_users']:,} users, lift {least['lift']:.2f})."
        )
    return sentences


def _against_untrained(rows: pd.DataFrame) -> Iterable[str]:
    overall = rows[rows[SPLIT] == OVERALL]
    trained = overall[overall["n_seeds"] > 0].sort_values(VALUE, ascending=False)
    untrained = overall[overall["n_seeds"] == 0].sort_values(VALUE, ascending=False)
    for baseline in records(untrained):
        below = trained[trained[VALUE] < baseline.value]
        if not below.empty:
            everyone = "Every trained arm" if len(below) == len(trained) and len(below) > 1 else _named(below)
            detail = f": {_named(below)}" if everyone.startswith("Every") else ""
            verb = "is" if everyone.startswith("Every") or len(below) == 1 else "are"
            yield (
                f"{everyone} {verb} worse overall than {baseline.arm} ({number(baseline.value)}), "
                f"which was not trained{detail}."
            )
    if not untrained.empty and not trained.empty and trained[VALUE].min() > untrained[VALUE].max():
        best = untrained.iloc[0]
        yield f"Every trained arm is better overall than the best untrained one, {best['arm']} ({number(best[VALUE])})."

    lost = []
    groups = rows[rows[SPLIT].isin([*STANDARD_SPLITS, TARGET])].groupby([SPLIT, GROUP], sort=False)
    for (split, group), cell in groups:
        values = cell.set_index("arm")[VALUE]
        is_trained = cell.set_index("arm")["n_seeds"] > 0
        if is_trained.all() or values[~is_trained].max() <= values[is_trained].max():
            continue
        lost.append(
            f"{group} of {split} ({values[~is_trained].idxmax()} {number(values[~is_trained].max())}, best trained arm "
            f"{values[is_trained].idxmax()} {number(values[is_trained].max())})"
        )
    if lost and len(lost) == groups.ngroups:
        yield "In every group of pop33, seq33 and target an untrained arm beats every trained one."
    elif lost:
        yield f"In these groups an untrained arm beats every trained one: {'; '.join(lost)}."


def _against_erm(trained: pd.DataFrame, significance: float) -> Iterable[str]:
    tested = trained[trained["p_value"].notna()]
    overall = tested[tested[SPLIT] == OVERALL]
    kinds = {
        "Better than erm overall, over users and also after the correction": overall["significant"]
        & (overall["delta_vs_erm"] > 0),
        "Worse than erm overall, over users and also after the correction": overall["significant"]
        & (overall["delta_vs_erm"] < 0),
        "Different from erm overall, over users, only without the correction": ~overall["significant"]
        & (overall["p_value"] < significance),
        "Not distinguishable from erm overall, over users": overall["p_value"] >= significance,
    }
    for kind, chosen in kinds.items():
        if chosen.any():
            listed = ", ".join(
                f"{row.arm} ({row.delta_vs_erm:+.4f}, {row.relative_change:+.1f} %)" for row in records(overall[chosen])
            )
            yield f"{kind}: {listed}."
    doubtful = overall[(overall["p_value"] < significance) != (overall["p_wilcoxon"] < significance)]
    if not doubtful.empty:
        listed = ", ".join(
            f"{row.arm} (t {p_text(row.p_value)}, Wilcoxon {p_text(row.p_wilcoxon)})" for row in records(doubtful)
        )
        yield f"The t-test and Wilcoxon's signed ranks disagree overall, so that the shape decides: {listed}."
    harmed = tested[tested[SPLIT].isin(STANDARD_SPLITS) & tested["significant"] & (tested["delta_vs_erm"] < 0)]
    if not harmed.empty:
        listed = "; ".join(
            f"{arm} for " + ", ".join(f"{r.group} ({r.delta_vs_erm:+.4f})" for r in records(cells))
            for arm, cells in harmed.groupby("arm", sort=False)
        )
        yield f"Groups served worse than by erm, over users and after the correction: {listed}."


def _worst_group_and_gaps(comparison: pd.DataFrame) -> Iterable[str]:
    extremes = extremes_of_arms(comparison)
    others = [arm for arm, is_trained in arms(comparison) if is_trained and arm != REFERENCE]
    if not extremes or not others:
        return
    erm = extremes[REFERENCE]
    worst = {arm: extremes[arm].worst - erm.worst for arm in others}
    yield (
        f"Worst group of pop33 and seq33: erm {erm.worst_group} {number(erm.worst)}; raised by "
        f"{_listed([arm for arm in others if worst[arm] > 0])}; lowered by "
        f"{_listed([arm for arm in others if worst[arm] < 0])}."
    )
    for split, gap in erm.gaps.items():
        gaps = {arm: extremes[arm].gaps[split] for arm in others}
        narrowed = [arm for arm, of_arm in gaps.items() if of_arm < gap]
        cells = comparison[(comparison[SPLIT] == split) & (comparison[METRIC] == HEADLINE_METRIC)]
        tops = cells.groupby("arm")[VALUE].max()
        levelled = [arm for arm in narrowed if tops[arm] < tops[REFERENCE]]
        yield (
            f"Gap between the groups of {split}: erm {number(gap)}; narrowed by {_listed(narrowed)}; "
            f"widened by {_listed([arm for arm, of_arm in gaps.items() if of_arm > gap])}."
            + (f" With {', '.join(levelled)} the best-served group lost as well." if levelled else "")
        )


def _targets(rows: pd.DataFrame) -> Iterable[str]:
    target = rows[rows[SPLIT] == TARGET]
    if target.empty:
        return
    users = target.drop_duplicates(GROUP).set_index(GROUP)[N_USERS]
    parts = []
    for group, cells in target.groupby(GROUP, sort=False):
        top = cells.sort_values(VALUE, ascending=False).iloc[0]
        best = cells[cells["n_seeds"] > 0].sort_values(VALUE, ascending=False).iloc[0]
        leader = "" if top["arm"] == best["arm"] else f", untrained {top['arm']} {number(top[VALUE])}"
        parts.append(f"{group} targets: best trained arm {best['arm']} {number(best[VALUE])}{leader}")
    share = 100 * users.get(REPEAT, 0) / users.sum()
    yield f"{share:.1f} % of the test targets are already in the user's history. {'; '.join(parts).capitalize()}."


def _seeds(trained: pd.DataFrame, significance: float) -> Iterable[str]:
    overall = trained[trained[SPLIT] == OVERALL]
    few = overall[overall["n_seeds"] < LEAST_SEEDS]
    if not few.empty:
        yield (
            f"Trained with fewer than {LEAST_SEEDS} seeds, so that the run-to-run variance of training is not in the "
            f"tests: {', '.join(few['arm'])}. The paper's own repeats of one arm differ by a standard deviation of "
            ".001 to .002."
        )
    over_seeds = overall[overall["p_value_seeds"].notna()]
    if not over_seeds.empty:
        surviving = over_seeds.loc[over_seeds["p_users_seeds_adjusted"] < significance, "arm"]
        yield (
            "Different from erm overall for another training too, over users and seeds and after the correction: "
            f"{', '.join(surviving) or 'none'}."
        )


def _named(rows: pd.DataFrame) -> str:
    return ", ".join(f"{row.arm} ({number(row.value)})" for row in records(rows))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
