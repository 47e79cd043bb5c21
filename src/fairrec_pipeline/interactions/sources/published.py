"""Published data sets: the item views of RetailRocket, the ratings of GroupLens' MovieLens-1M and MovieLens-100K."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import UNKNOWN_LABEL
from fairrec_pipeline.interactions.engine import engine, literal_path
from fairrec_pipeline.interactions.sources.checks import checked_events, count_rows, with_attributes
from fairrec_pipeline.interactions.sources.raw_files import (
    RawData,
    Step,
    numbered,
    readable,
    require_columns,
    require_whole,
)
from fairrec_pipeline.parameters.datasets import MovieLens, Table

_RETAILROCKET = Table(
    adapter="table", interactions="events.csv", user="visitorid", item="itemid", timestamp="timestamp"
)
# its files have other names in every version
_MOVIELENS = Table(
    adapter="table", interactions="ratings", user="user", item="item", timestamp="timestamp", users="users",
    user_attributes=MovieLens.attributes,
)  # fmt: skip
_RATING = ["user", "item", "rating", "timestamp"]
_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_AGE_GROUPS = ((18, "under 18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (50, "45-49"), (56, "50-55"))
_OLDEST = "56+"


def read_retailrocket(folder: Path) -> RawData:
    """The views among the events of a shop."""
    member = _RETAILROCKET.interactions
    archives = [path for path in sorted(folder.glob("*.zip")) if _find_member(path, member)]
    candidates = [path for path in (folder / member, folder / f"{member}.gz") if path.exists()] + archives
    if not candidates:
        raise DataError(
            f"no RetailRocket log: looked for {member}, {member}.gz and a .zip that holds {member} in {folder}. "
            f"Download the archive from https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset and put it there"
        )
    path = candidates[0]
    log = _read(path, member, delim=",", header=True)
    hint = "Take the file as RetailRocket publishes it"
    require_columns(log.columns, ("timestamp", "visitorid", "event", "itemid"), path, hint)
    views = log.filter(log["event"] == "view")
    n_rows, n_views = count_rows(log), count_rows(views)
    if n_views == 0 and n_rows > 0:
        found = sorted(log.select("event").distinct().to_pandas()["event"].astype(str))
        raise DataError(f"{path} has no event 'view' among its {n_rows} rows, only {found[:5]}; only views are used")
    steps = [Step(f"read {path.name}", n_rows), Step("where event is view", n_views, n_rows - n_views, "other events")]
    return checked_events(views, _RETAILROCKET, path, steps)


def read_movielens_1m(folder: Path) -> RawData:
    path = folder / "ml-1m.zip"
    if not path.exists():
        download(f"{_GROUPLENS}/{path.name}", "c4d9eecfca2ab87c1945afe126590906", path)
    user = ["user", "gender", "age", "occupation", "zip"]
    return _movielens(path, {"ratings.dat": (_RATING, "::"), "users.dat": (user, "::")})


def read_movielens_100k(folder: Path) -> RawData:
    path = folder / "ml-100k.zip"
    if not path.exists():
        raise DataError(f"{path} does not exist. Download {_GROUPLENS}/{path.name} and put it there")
    user = ["user", "age", "gender", "occupation", "zip"]
    return _movielens(path, {"u.data": (_RATING, "\t"), "u.user": (user, "|")})


def _movielens(archive: Path, files: dict[str, tuple[list[str], str]]) -> RawData:
    """Every rating is an interaction.

    MovieLens-1M codes an age group by its lower bound, so one binning fits both.

    Args:
        files: names of the file of the ratings and of that of the users, with the columns and the separator of each.
    """
    ratings, users = (
        _read(archive, name, names=columns, delim=separator, header=False, quote="")
        for name, (columns, separator) in files.items()
    )
    raw = checked_events(ratings, _MOVIELENS, archive, [Step("all ratings", count_rows(ratings))])
    years = users["age"].try_cast("int64")
    age = ibis.cases(
        (years.isnull(), UNKNOWN_LABEL), *((years < bound, label) for bound, label in _AGE_GROUPS), else_=_OLDEST
    )
    gender = users["gender"].cases(("F", "female"), ("M", "male"), else_=users["gender"])
    return with_attributes(raw, users.mutate(age=age, gender=gender), _MOVIELENS, archive)


def download(url: str, md5: str, path: Path) -> None:
    """Fetch an archive, with a progress bar; `path` appears only when it is complete and its MD5 sum is right.

    Raises:
        DataError: no connection, the file that came has another sum, or it cannot be written.
    """
    # Imported here: only a machine without the file needs them.
    import pooch
    import requests

    bar = pooch.HTTPDownloader(progressbar=True)
    try:
        pooch.retrieve(url, f"md5:{md5}", path.name, path.parent, downloader=bar)
    except (requests.RequestException, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{path} does not exist and could not be downloaded from {url}: {reason}. Without a connection, download "
            f"{url.rpartition('/')[2]} elsewhere and put it at {path}"
        ) from error


def _read(path: Path, member: str, **dialect: Any) -> ir.Table:
    """A text file, or such a member of a zip archive, as text with row numbers; errors name its origin.

    DuckDB cannot look into an archive, so the member is unpacked for the time of reading.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = origin = path
        if path.suffix == ".zip":
            name = _find_member(path, member)
            if name is None:
                raise DataError(f"{path} holds no {member}. Take the archive as it is published")
            with readable(path), zipfile.ZipFile(path) as archive:
                file, origin = Path(archive.extract(name, scratch)), path / name
        with readable(origin):
            with file.open("rb") as content:
                if not content.read(1):  # DuckDB would make up a column
                    raise DataError(f"{origin} is empty. Put a whole copy there")
            require_whole(file)
            return numbered(engine().read_csv(literal_path(file), all_varchar=True, **dialect))


def _find_member(archive: Path, name: str) -> str | None:
    """Full name of a file of the archive, in whatever folder of it."""
    with readable(archive), zipfile.ZipFile(archive) as files:
        return next((member for member in sorted(files.namelist()) if member.rpartition("/")[2] == name), None)
