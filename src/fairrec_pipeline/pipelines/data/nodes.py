"""Nodes of the data pipeline: catalog entries and parameters to calls of `interactions`.

The parameter models are imported at run time: Kedro builds and checks them from the type hints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ibis.expr.types as ir

from fairrec_pipeline.interactions.sources.readers import read_source
from fairrec_pipeline.interactions.core_filter import core_filter
from fairrec_pipeline.interactions.groups import assign_groups as assign_user_groups
from fairrec_pipeline.interactions.leave_one_out import split_roles
from fairrec_pipeline.interactions.statistics import dataset_statistics, prepared_with
from fairrec_pipeline.parameters.blocks import Groups, Source, Split


def ingest(raw_folder: Path, source: Source, split: Split) -> tuple[ir.Table, ir.Table]:
    """Events and user attributes of the raw files.

    What the later nodes would refuse (nothing left after the filter, histories too short to split) is refused here,
    before the first artifact is written.
    """
    events, user_attributes = read_source(raw_folder, source)
    split_roles(core_filter(events, split.core), split.validation_users, split.seed)
    return events, user_attributes


def filter_core(events: ir.Table, split: Split) -> ir.Table:
    """Interactions of the core, chronological per user."""
    return core_filter(events, split.core)


def assign_groups(core_interactions: ir.Table, user_attributes: ir.Table, split: Split, groups: Groups) -> ir.Table:
    """Groups of the users, from what will be their training interactions: nothing held out can leak into a group."""
    interactions = split_roles(core_interactions, split.validation_users, split.seed)
    return assign_user_groups(interactions, user_attributes, groups.popular_quantile, groups.splits)


def split_leave_one_out(
    core_interactions: ir.Table, user_groups: ir.Table, dataset: str, source: Source, split: Split, groups: Groups
) -> tuple[ir.Table, dict[str, Any]]:
    """Interactions with their roles, and what there is to say of the prepared data."""
    interactions = split_roles(core_interactions, split.validation_users, split.seed)
    statistics = dataset_statistics(interactions.to_pandas(), user_groups.to_pandas())
    return interactions, {
        "dataset": dataset,
        **statistics,
        "prepared_with": prepared_with(dataset, source, split, groups),
    }
