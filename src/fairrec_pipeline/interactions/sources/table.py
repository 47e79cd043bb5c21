"""The log of a user of this project: a file of interactions, and one of user attributes."""

from __future__ import annotations

from pathlib import Path

from fairrec_pipeline.interactions.sources.checks import checked_attributes, checked_events, no_attributes
from fairrec_pipeline.interactions.sources.raw_files import RawData, read_table, require_columns
from fairrec_pipeline.parameters.datasets import Table


def read_own_table(folder: Path, source: Table) -> RawData:
    path = folder / source.interactions
    log = read_table(path)
    hint = f"Set user, item and timestamp of datasets.{folder.name} to columns of the file"
    require_columns(log, (source.user, source.item, source.timestamp), path, hint)
    events = checked_events(log, source.user, source.item, source.timestamp, path)
    if source.users is None:
        return RawData(events, no_attributes(events), (path,))
    users_path = folder / source.users
    users = read_table(users_path)
    hint = f"Set user and user_attributes of datasets.{folder.name} to columns of the file"
    require_columns(users, (source.user, *source.user_attributes), users_path, hint)
    attributes = checked_attributes(users, source.user, source.user_attributes, events, users_path)
    return RawData(events, attributes, (path, users_path))
