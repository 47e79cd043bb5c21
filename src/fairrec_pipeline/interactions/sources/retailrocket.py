"""RetailRocket: item views of a shop."""

from __future__ import annotations

from pathlib import Path

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.sources.checks import LogColumns, checked_events, count_rows, no_attributes
from fairrec_pipeline.interactions.sources.raw_files import (
    RawData,
    Step,
    find_member,
    read_member,
    read_text,
    require_columns,
)


def read_retailrocket(folder: Path) -> RawData:
    member = "events.csv"
    archives = [path for path in sorted(folder.glob("*.zip")) if find_member(path, member)]
    candidates = [path for path in (folder / member, folder / f"{member}.gz") if path.exists()] + archives
    if not candidates:
        message = (
            f"no RetailRocket log: looked for {member}, {member}.gz and a .zip that holds {member} in {folder}. "
            f"Download the archive from https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset and put it there"
        )
        raise DataError(message)
    path = candidates[0]
    if path.suffix == ".zip":
        log = read_member(path, member, delim=",", header=True)
    else:
        log = read_text(path, delim=",", header=True)
    hint = "Take the file as RetailRocket publishes it"
    require_columns(log.columns, ("timestamp", "visitorid", "event", "itemid"), path, hint)
    views = log.filter(log["event"] == "view")
    if count_rows(views) == 0 and count_rows(log) > 0:
        found = sorted(str(value) for value in log.select("event").distinct().to_pandas()["event"])
        message = f"{path} has no event 'view' among its {count_rows(log)} rows, only {found[:5]}; only views are used"
        raise DataError(message)
    n_rows, n_views = count_rows(log), count_rows(views)
    events, steps, n_repeated = checked_events(views, LogColumns("visitorid", "itemid", "timestamp"), path)
    read = [Step(f"read {path.name}", n_rows), Step("where event is view", n_views, n_rows - n_views, "other events")]
    return RawData(events, no_attributes(events), (path,), (*read, *steps), n_repeated)
