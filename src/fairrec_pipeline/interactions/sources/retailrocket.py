"""RetailRocket: item views of a shop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.sources.checks import LogColumns, checked_events, count_rows
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
    dialect: dict[str, Any] = {"delim": ",", "header": True}
    log = read_member(path, member, **dialect) if path.suffix == ".zip" else read_text(path, **dialect)
    hint = "Take the file as RetailRocket publishes it"
    require_columns(log.columns, ("timestamp", "visitorid", "event", "itemid"), path, hint)
    views = log.filter(log["event"] == "view")
    n_rows, n_views = count_rows(log), count_rows(views)
    if n_views == 0 and n_rows > 0:
        found = sorted(log.select("event").distinct().to_pandas()["event"].astype(str))
        message = f"{path} has no event 'view' among its {n_rows} rows, only {found[:5]}; only views are used"
        raise DataError(message)
    raw = checked_events(views, LogColumns("visitorid", "itemid", "timestamp"), path)
    read = [Step(f"read {path.name}", n_rows), Step("where event is view", n_views, n_rows - n_views, "other events")]
    return raw._replace(steps=(*read, *raw.steps))
