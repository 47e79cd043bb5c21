"""What stands behind a comparison: budgets, parameters, and whom the arms trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import pandas as pd

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.trainings import budgets
from fairrec_pipeline.metrics.by_group import GROUP, SPLIT, VALUE
from fairrec_pipeline.report.evidence import Evidence, records
from fairrec_pipeline.report.tables import Row, Table, number


def run_cards(compared: Iterable[ArmRecord]) -> list[dict[str, Any]]:
    """What stands behind each row of a comparison, ready for JSON; untrained arms are left out.

    Returns:
        Per training: arm, seed, seconds, device, finished, epochs, best_epoch (null where the card lacks them), and
        parameters by dotted name.
    """
    names = ("arm", "seed", "seconds", "device", "finished", "epochs", "best_epoch")
    return [
        {**{name: record.card.get(name) for name in names}, "parameters": record.parameters}
        for record in compared
        if record.seed is not None
    ]


def budget_table(evidence: Evidence) -> Table:
    """What every arm cost, how far it was tuned, and what came out."""
    values = evidence.overall[VALUE].map(number)
    costs = {
        row.arm: (
            *(_seconds(row.seconds), str(row.runs), str(row.points)),
            *(_seconds(row.total_seconds), str(row.warm_start_steps), row.device),
        )
        for row in records(budgets(evidence.trainings).rename_axis("arm").reset_index())
    }
    return Table(
        header=["NDCG@20", "seconds per run", "runs", "tuning points", "seconds in all", "warm-start steps", "device"],
        rows=[
            Row.of(arm, values[arm], *costs.get(arm, "------"), origin=origin)
            for arm, origin in evidence.origins.items()
        ],
    )


def shares_table(evidence: Evidence) -> Table:
    """Share of draws, share of weight and lift of every group over the whole training, per arm."""
    rows = evidence.shares[evidence.shares["window"].isna()]
    names = list(dict.fromkeys(rows["arm"]))
    texts = {
        (row.arm, row.split, row.group): f"{_percent(row.weight_share)} ({_lift(row.lift)})" for row in records(rows)
    }
    return Table(
        header=["group", "users", "share of draws", *(f"{name}: share of weight (lift)" for name in names)],
        rows=[
            Row.of(
                *(row.split, row.group, f"{row.n_users:,}", _percent(row.draw_share)),
                *(texts.get((name, row.split, row.group), "-") for name in names),
            )
            for row in records(rows.drop_duplicates([SPLIT, GROUP]))
        ],
        corner="split",
    )


def rules_table(evidence: Evidence) -> Table:
    """The users whom each arm weighs above erm, as rules."""
    return Table(
        header=["users with", "users", "of them above erm", "of all above erm", "draws", "weight", "lift", "accuracy"],
        rows=[
            Row.of(
                *(row.arm, row.rule, f"{row.n_users:,}"),
                *map(_percent, (row.above_erm, row.above_erm_overall, row.draw_share, row.weight_share)),
                *(f"{row.lift:.2f}", f"{row.accuracy:.2f}"),
            )
            for row in records(evidence.rules)
        ],
    )


def parameters_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """One row per arm: its seeds and the parameters that are not the same for every arm.

    Args:
        runs: from `run_cards`.
    """
    same = same_parameters(runs)
    # The name of the arm says these two.
    differing = sorted({name for run in runs for name in run["parameters"]} - same.keys() - {"loss", "loss_groups"})
    by_arm = {arm: list(seeds) for arm, seeds in groupby(runs, key=itemgetter("arm"))}
    return Table(
        header=["seeds", "last finished", "epochs (best)", *differing],
        rows=[
            Row.of(
                arm,
                ", ".join(str(run["seed"]) for run in seeds),
                max(str(run["finished"] or "-") for run in seeds)[:19],
                ", ".join(f"{run['epochs'] or '-'} ({run['best_epoch'] or '-'})" for run in seeds),
                *(str(seeds[0]["parameters"].get(name, "-")) for name in differing),
            )
            for arm, seeds in by_arm.items()
        ],
    )


def same_parameters(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Parameters that every training has, with one value; for the argument see `parameters_table`."""
    first, *others = [run["parameters"] for run in runs] or [{}]
    return {
        name: value
        for name, value in sorted(first.items())
        if all(name in other and other[name] == value for other in others)
    }


def unequal_in_words(runs: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """A warning for every parameter of backbone and budget that is not the same in all trained arms."""
    values: dict[str, dict[str, set[str]]] = {}
    for run in runs:
        for name, value in run["parameters"].items():
            if name.startswith(("model.", "train.")) and name != "train.warm_start_steps":  # has another sentence
                values.setdefault(name, {}).setdefault(str(value), set()).add(run["arm"])
    for name, arms_of in values.items():
        if len(arms_of) > 1:
            listed = "; ".join(f"{value}: {', '.join(sorted(named))}" for value, named in arms_of.items())
            yield f"The arms were not trained alike, so a difference need not be the method's: {name} is {listed}."


def unfinished_in_words(runs: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Arms whose budget ended too early for a comparison of methods rather than of speeds."""
    rising = [run["arm"] for run in runs if run["epochs"] and run["best_epoch"] == run["epochs"]]
    if rising:
        yield (
            f"Still improving on validation when the budget ended: {', '.join(dict.fromkeys(rising))}. Such a table "
            "compares speeds of convergence; give train.epochs room until every arm stops by itself."
        )


def _seconds(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:,.0f}"


def _lift(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.2f}"  # of a group that was never drawn there is none


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
