"""Nodes of the data pipeline: catalog entries and parameters to calls of `interactions`.

The parameter models are imported at run time: Kedro builds and checks them from the type hints.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
from ibis import BaseBackend

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.core_filter import events_of_core, find_core, in_order_of_time
from fairrec_pipeline.interactions.engine import moved
from fairrec_pipeline.interactions.groups import assign_groups as assign_user_groups
from fairrec_pipeline.interactions.leave_one_out import hold_out, hold_out_later, split_roles, training_interactions
from fairrec_pipeline.interactions.preparation import prepared_with
from fairrec_pipeline.interactions.prepared import PreparedHistories
from fairrec_pipeline.interactions.sources import read_source
from fairrec_pipeline.interactions.sources.checks import refuse_unlabelled
from fairrec_pipeline.interactions.sources.raw_files import Step, describe_file
from fairrec_pipeline.interactions.statistics import dataset_statistics, target_statistics
from fairrec_pipeline.parameters.blocks import Groups, Split
from fairrec_pipeline.parameters.datasets import Source

logger = logging.getLogger(__name__)

WORTH_A_WARNING = 0.05
"""Share of the targets that are tied, or in nobody's training."""
FEW = 0.5
"""Share of the users with attributes, or with a target."""


def ingest(
    raw_folder: Path, engine: BaseBackend, source: Source, split: Split
) -> tuple[ir.Table, ir.Table, ir.Table, ir.Table, ir.Table, dict[str, Any]]:
    """What the raw files hold, its core, how many of a user's interactions are held out, and what was read.

    What the later nodes would refuse (nothing left after the filter, histories too short to split) is refused here,
    before the first artifact is written. DuckDB reads the raw files, whatever works out the tables.

    Returns:
        Events, user attributes, users of the core, items of the core, held_out, ingested.
    """
    raw = read_source(raw_folder, source)
    events = moved(raw.events, engine)
    users, items = find_core(events, split.core)
    held_out = _hold_out(events_of_core(events, users, items), split)
    refuse_unlabelled(raw.user_attributes, held_out)
    for step in raw.steps:
        _log_step(step)
    if raw.matched_users is not None:
        say = logger.info if raw.matched_users > FEW else logger.warning
        say("%.1f %% of the users have attributes; the others are in the group unknown", 100 * raw.matched_users)
    ingested = {
        "raw_files": {path.relative_to(raw_folder).as_posix(): describe_file(path) for path in raw.files},
        "split": split.model_dump(mode="json"),
        "steps": [step._asdict() for step in raw.steps],
        "n_repeated": raw.n_repeated,
        "matched_users": raw.matched_users,
    }
    return events, raw.user_attributes, users, items, held_out, ingested


def filter_core(
    events: ir.Table, core_users: ir.Table, core_items: ir.Table, ingested: dict[str, Any], split: Split
) -> ir.Table:
    """Interactions of the core, chronological per user."""
    _refuse_other_split(ingested, split)
    return in_order_of_time(events_of_core(events, core_users, core_items), split.ties, split.seed)


def _refuse_other_split(ingested: dict[str, Any], split: Split) -> None:
    wanted = split.model_dump(mode="json")
    if ingested["split"] != wanted:
        raise DataError(
            f"the log was ingested with split={ingested['split']}, the present parameters are {wanted}. "
            f"Run the data pipeline from its first node, ingest"
        )


def assign_groups(
    core_interactions: ir.Table, held_out: ir.Table, user_attributes: ir.Table, groups: Groups
) -> ir.Table:
    """Groups of the users, from training interactions: nothing held out can leak into a group."""
    training = training_interactions(core_interactions, held_out)
    return assign_user_groups(training, user_attributes, groups.popular_quantile, groups.splits)


def split_leave_one_out(core_interactions: ir.Table, held_out: ir.Table) -> ir.Table:
    """Interactions with their roles."""
    return split_roles(core_interactions, held_out)


def make_arrays(
    interactions: ir.Table,
    user_groups: ir.Table,
    ingested: dict[str, Any],
    dataset: str,
    source: Source,
    split: Split,
    groups: Groups,
) -> tuple[PreparedHistories, dict[str, Any]]:
    """The interactions as arrays, and what there is to say of the prepared data; no frame holds all interactions."""
    _refuse_other_split(ingested, split)
    histories = PreparedHistories.read(interactions)
    targets = target_statistics(interactions, histories)
    _warn_of(targets, split)
    if histories.test.n_users < FEW * histories.train.n_users:
        logger.warning(
            f"only {histories.test.n_users:,} of {histories.train.n_users:,} users have interactions on both sides of "
            f"the temporal cut (split.train_share={split.train_share}), and only they are tested: differences must be "
            f"large to be told from noise"
        )
    n_before = ingested["steps"][-1]["kept"]
    counts = dataset_statistics(interactions, user_groups.to_pandas(), histories.fingerprint)
    what = (
        f"of {counts['n_users']:,} users and {counts['n_items']:,} items with at least {split.core} distinct partners"
    )
    why = "fewer partners than split.core"
    if split.kind == "temporal":
        why += ", later than a target of the test, or of users without anything before the cut"
    core = Step(what, counts["n_interactions"], n_before - counts["n_interactions"], why)
    _log_step(core)
    statistics = {
        "dataset": str(dataset),
        **counts,
        "targets": targets,
        "steps": [*ingested["steps"], core._asdict()],
        "n_repeated": ingested["n_repeated"],
        "matched_users": ingested["matched_users"],
        "prepared_with": {
            **prepared_with(str(dataset), source, split, groups),
            "raw_files": ingested["raw_files"],
        },
    }
    return histories, statistics


def _hold_out(interactions: ir.Table, split: Split) -> ir.Table:
    if split.kind == "temporal":
        return hold_out_later(interactions, split.train_share, split.validation_users, split.seed)
    return hold_out(interactions, split.validation_users, split.seed)


def _log_step(step: Step) -> None:
    dropped = f", {step.dropped:,} dropped ({step.why})" if step.dropped else ""
    logger.info("%s rows: %s%s", f"{step.kept:,}", step.what, dropped)


def _warn_of(targets: dict[str, dict[str, int]], split: Split) -> None:
    for role, count in targets.items():
        tied, unseen = count["tied"] / count["n"], count["unseen"] / count["n"]
        if tied > WORTH_A_WARNING:
            logger.warning(
                f"{tied:.1%} of the {role} targets share their time with another item of the user: split.ties="
                f"{split.ties} decides which of them is the target. Prepare with ties: random and a few values of "
                f"split.seed to see what hangs on it"
            )
        if unseen > WORTH_A_WARNING:
            logger.warning(
                f"{unseen:.1%} of the {role} targets ({count['unseen']:,} of {count['n']:,}) are in nobody's training: "
                f"no trained arm can rank them, and each counts as a miss"
            )
