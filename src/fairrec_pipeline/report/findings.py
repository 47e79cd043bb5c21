"""What a comparison says, in sentences made from its numbers; bad news in the same words as good news."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from fairrec_pipeline.comparison.comparison import LEAST_SEEDS, REFERENCE
from fairrec_pipeline.comparison.trainings import GRID, UNTRAINED, budgets
from fairrec_pipeline.interactions.columns import STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import GROUP, N_USERS, OVERALL, REPEAT, SPLIT, TARGET, VALUE
from fairrec_pipeline.report.evidence import TRAINED, Evidence, grouped, records
from fairrec_pipeline.report.tables import number, p_text

_TELLING = 0.55
"""Balanced accuracy below which a tree's rules are not put into words; 0.5 is chance."""


def findings(evidence: Evidence) -> list[str]:
    """Sentences about NDCG@20, the most important first; arms of other systems have a section."""
    if evidence.trained.empty:
        return ["No arm was trained on this dataset yet; these are the untrained ones only."]
    sentences = [*_against_untrained(evidence)]
    if REFERENCE in evidence.trained.index:
        sentences += [*_against_erm(evidence), *_seeds(evidence), *_worst_group_and_gaps(evidence)]
    else:
        sentences.append("There is no erm arm, so no arm has a difference or a test. Train it with loss=erm.")
    return [*sentences, *_targets(evidence)]


def budget_in_words(evidence: Evidence) -> Iterable[str]:
    """What about the budgets of the arms a reader has to know before comparing them."""
    trainings = evidence.trainings
    table = budgets(trainings)
    if len(table["points"].unique()) > 1:
        listed = ", ".join(f"{arm} {points}" for arm, points in table["points"].items())
        yield (
            f"The arms were not tuned alike: trainings that each was chosen from: {listed}. The best of many is higher "
            "than the one of one by chance alone, on validation; compare arms that had as many."
        )
    if warm := [f"{arm} {steps}" for arm, steps in table["warm_start_steps"].items() if steps > 0]:
        yield f"Started as erm, for so many steps: {', '.join(warm)}. The other arms trained by their own rule at once."
    grid = trainings[(trainings["kind"] == GRID) & trainings["option_value"].notna()]
    edges = []
    for (arm, option), points in grouped(grid, "arm", "option"):
        ends = (points["option_value"].min(), points["option_value"].max())
        chosen = points.loc[points["selected"], "option_value"].unique()
        edges += [f"{arm} {option}={value:g}" for value in chosen if value in ends]
    if edges:
        yield f"Chosen at the edge of the grid, so that a better value may lie beyond: {', '.join(edges)}."


def rules_in_words(evidence: Evidence) -> Iterable[str]:
    """Whom each arm trained on most and least, by the tree's rules."""
    for arm, leaves in grouped(evidence.rules, "arm"):
        most, least = leaves.iloc[0], leaves.iloc[-1]
        if most["accuracy"] < _TELLING:
            yield f"No short rule tells whom {arm} weighs above erm (balanced accuracy {most['accuracy']:.2f})."
        else:
            yield (
                f"{arm} trained most on users with {most['rule']} ({most['n_users']:,} users, lift {most['lift']:.2f}"
                f"), least on those with {least['rule']} ({least['n_users']:,} users, lift {least['lift']:.2f})."
            )


def _against_untrained(evidence: Evidence) -> Iterable[str]:
    trained, untrained = evidence.trained, evidence.untrained
    for baseline in records(untrained):
        below = trained[trained[VALUE] < baseline.value]
        losers = ", ".join(f"{row.arm} ({number(row.value)})" for row in records(below))
        than = f"worse overall than {baseline.arm} ({number(baseline.value)}), which was not trained"
        if len(below) == len(trained) > 1:
            yield f"Every trained arm is {than}: {losers}."
        elif losers:
            yield f"{losers} {'is' if len(below) == 1 else 'are'} {than}."
    if trained[VALUE].min() > untrained[VALUE].max():
        best = untrained.iloc[0]
        yield f"Every trained arm is better overall than the best untrained one, {best.name} ({number(best.value)})."

    lost = []
    groups = grouped(evidence.cells(*STANDARD_SPLITS, TARGET), SPLIT, GROUP)
    for (split, group), cells in groups:
        ours, theirs = _best(cells)
        if theirs is not None:
            beaten = f"best trained arm {ours.arm} {number(ours.value)}"
            lost.append(f"{group} of {split} ({theirs.arm} {number(theirs.value)}, {beaten})")
    if lost and len(lost) == len(groups):
        yield "In every group of pop33, seq33 and target an untrained arm beats every trained one."
    elif lost:
        yield f"In these groups an untrained arm beats every trained one: {'; '.join(lost)}."


def _against_erm(evidence: Evidence) -> Iterable[str]:
    level, tested = evidence.significance, evidence.cells(OVERALL, *STANDARD_SPLITS)
    tested = tested[(tested["origin"] == TRAINED) & tested["p_value"].notna()]
    overall = tested[tested[SPLIT] == OVERALL]
    corrected, starred, higher = overall["significant"], overall["p_value"] < level, overall["delta_vs_erm"] > 0
    kinds = {
        "Better than erm overall, over users and also after the correction": corrected & higher,
        "Worse than erm overall, over users and also after the correction": corrected & ~higher,
        "Different from erm overall, over users, only without the correction": ~corrected & starred,
        "Not distinguishable from erm overall, over users": ~starred,
    }
    for kind, chosen in kinds.items():
        if rows := records(overall[chosen]):
            listed = ", ".join(f"{row.arm} ({row.delta_vs_erm:+.4f}, {row.relative_change:+.1f} %)" for row in rows)
            yield f"{kind}: {listed}."
    if rows := records(overall[starred != (overall["p_wilcoxon"] < level)]):
        listed = ", ".join(f"{row.arm} (t {p_text(row.p_value)}, Wilcoxon {p_text(row.p_wilcoxon)})" for row in rows)
        yield f"The t-test and Wilcoxon's signed ranks disagree overall, so that the shape decides: {listed}."
    harmed = tested[(tested[SPLIT] != OVERALL) & tested["significant"] & (tested["delta_vs_erm"] < 0)]
    if not harmed.empty:
        listed = "; ".join(
            f"{arm} for " + ", ".join(f"{row.group} ({row.delta_vs_erm:+.4f})" for row in records(cells))
            for arm, cells in grouped(harmed, "arm")
        )
        yield f"Groups served worse than by erm, over users and after the correction: {listed}."


def _worst_group_and_gaps(evidence: Evidence) -> Iterable[str]:
    extremes = evidence.extremes
    others = [arm for arm, origin in evidence.origins.items() if origin == TRAINED and arm != REFERENCE]
    if not extremes or not others:
        return
    erm = extremes[REFERENCE]
    raised, lowered = _up_and_down({arm: extremes[arm].worst - erm.worst for arm in others})
    yield (
        f"Worst group of pop33 and seq33: erm {erm.worst_group} {number(erm.worst)}; raised by {_listed(raised)}; "
        f"lowered by {_listed(lowered)}."
    )
    for split, gap in erm.gaps.items():
        widened, narrowed = _up_and_down({arm: extremes[arm].gaps[split] - gap for arm in others})
        tops = evidence.cells(split).groupby("arm")[VALUE].max()
        levelled = [arm for arm in narrowed if tops[arm] < tops[REFERENCE]]
        yield (
            f"Gap between the groups of {split}: erm {number(gap)}; narrowed by {_listed(narrowed)}; "
            f"widened by {_listed(widened)}."
            + (f" With {', '.join(levelled)} the best-served group lost as well." if levelled else "")
        )


def _targets(evidence: Evidence) -> Iterable[str]:
    target = evidence.cells(TARGET)
    if target.empty:
        return
    parts = []
    for group, cells in grouped(target, GROUP):
        ours, theirs = _best(cells)
        leader = f", untrained {theirs.arm} {number(theirs.value)}" if theirs is not None else ""
        parts.append(f"{group} targets: best trained arm {ours.arm} {number(ours.value)}{leader}")
    users = target.drop_duplicates(GROUP).set_index(GROUP)[N_USERS]
    share = 100 * users.get(REPEAT, 0) / users.sum()
    yield f"{share:.1f} % of the test targets are already in the user's history. {'; '.join(parts).capitalize()}."


def _seeds(evidence: Evidence) -> Iterable[str]:
    trained = evidence.cells(OVERALL)
    trained = trained[trained["origin"] == TRAINED]
    if few := trained.loc[trained["n_seeds"] < LEAST_SEEDS, "arm"].tolist():
        yield (
            f"Trained with fewer than {LEAST_SEEDS} seeds, so that the run-to-run variance of training is not in the "
            f"tests: {', '.join(few)}. The paper's own repeats of one arm differ by a standard deviation of "
            ".001 to .002."
        )
    if trained["p_value_seeds"].notna().any():
        surviving = trained.index[trained["p_users_seeds_adjusted"] < evidence.significance]
        yield (
            "Different from erm overall for another training too, over users and seeds and after the correction: "
            f"{_listed(surviving)}."
        )


def _best(cells: pd.DataFrame) -> tuple[Any, Any]:
    """Of one group, the best trained arm's row, and that of the best untrained arm if it is better, else None."""
    ours, theirs = (cells[cells["origin"] == origin].nlargest(1, VALUE) for origin in (TRAINED, UNTRAINED))
    beaten = theirs[VALUE].max() > ours[VALUE].max()
    return ours.iloc[0], theirs.iloc[0] if beaten else None


def _up_and_down(changes: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Names of the positive changes and of the negative ones."""
    up, down = ([name for name, change in changes.items() if sign * change > 0] for sign in (1, -1))
    return up, down


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
