"""What stands behind a comparison: budgets, parameters, and whom the arms trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.trainings import budgets
from fairrec_pipeline.metrics.by_group import GROUP, HEADLINE_METRIC, METRIC, OVERALL, SPLIT, VALUE
from fairrec_pipeline.report.tables import Row, Table, arms, number, origins_of, records


def run_cards(compared: Iterable[ArmRecord]) -> list[dict[str, Any]]:
    """What stands behind each row of a comparison, ready for JSON.

    Args:
        compared: records of a comparison; untrained arms are left out.

    Returns:
        Per training: arm, seed, seconds, device, finished, epochs, best_epoch (null where the card lacks them), and
        parameters by dotted name.
    """
    return [
        {"arm": record.arm, "seed": record.seed}
        | {name: record.card.get(name) for name in ("seconds", "device", "finished", "epochs", "best_epoch")}
        | {"parameters": record.parameters}
        for record in compared
        if record.seed is not None
    ]


def budget_table(trainings: pd.DataFrame, comparison: pd.DataFrame) -> Table:
    """What every arm cost, how far it was tuned, and what came out.

    Args:
        trainings: from `trainings.trainings`.
        comparison: from `comparison.compare_arms`.
    """
    rows = comparison[(comparison[SPLIT] == OVERALL) & (comparison[METRIC] == HEADLINE_METRIC)]
    origins = origins_of(comparison)
    values = rows.set_index("arm")[VALUE].map(number).to_dict()
    return Table(
        header=["NDCG@20", "seconds per run", "runs", "tuning points", "seconds in all", "warm-start steps", "device"],
        rows=[
            *(
                Row.of(
                    *(row.arm, values[row.arm], _seconds(row.seconds), str(row.runs), str(row.points)),
                    *(_seconds(row.total_seconds), str(row.warm_start_steps), row.device),
                )
                for row in records(budgets(trainings).rename_axis("arm").reset_index())
            ),
            *(
                Row.of(arm, values[arm], *"------", trained=False, origin=origins[arm])
                for arm, trained in arms(comparison)
                if not trained
            ),
        ],
    )


def shares_table(shares: pd.DataFrame) -> Table:
    """Share of draws, share of weight and lift of every group over the whole training, per arm.

    Args:
        shares: from `user_weights.weight_shares`.
    """
    rows = shares[shares["window"].isna()]
    names = list(dict.fromkeys(rows["arm"]))
    texts = {
        (row.arm, row.split, row.group): f"{100 * row.weight_share:.1f} % ({row.lift:.2f})" for row in records(rows)
    }
    return Table(
        header=["group", "users", "share of draws", *(f"{name}: share of weight (lift)" for name in names)],
        rows=[
            Row.of(
                *(row.split, row.group, f"{row.n_users:,}", f"{100 * row.draw_share:.1f} %"),
                *(texts.get((name, row.split, row.group), "-") for name in names),
            )
            for row in records(rows.drop_duplicates([SPLIT, GROUP]))
        ],
        corner="split",
    )


def rules_table(rules: pd.DataFrame) -> Table:
    """The users whom each arm weighs above erm, as rules.

    Args:
        rules: from `user_weights.weight_rules`.
    """
    shares = ["above_erm", "above_erm_overall", "draw_share", "weight_share"]
    percent = rules.assign(**{name: (100 * rules[name]).map("{:.1f} %".format) for name in shares})
    return Table(
        header=["users with", "users", "of them above erm", "of all above erm", "draws", "weight", "lift", "accuracy"],
        rows=[
            Row.of(
                *(row.arm, row.rule, f"{row.n_users:,}", row.above_erm, row.above_erm_overall),
                *(row.draw_share, row.weight_share, f"{row.lift:.2f}", f"{row.accuracy:.2f}"),
            )
            for row in records(percent)
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
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_arm.setdefault(run["arm"], []).append(run)
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
    if not runs:
        return {}
    absent = object()
    return {
        name: value
        for name, value in sorted(runs[0]["parameters"].items())
        if all(run["parameters"].get(name, absent) == value for run in runs)
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
