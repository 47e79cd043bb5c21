"""MovieLens-1M and MovieLens-100K of GroupLens."""

from __future__ import annotations

from pathlib import Path

import ibis

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import UNKNOWN_LABEL
from fairrec_pipeline.interactions.sources.checks import LogColumns, checked_attributes, checked_events, count_rows
from fairrec_pipeline.interactions.sources.raw_files import RawData, Step, read_member

_URL = "https://files.grouplens.org/datasets/movielens"
_AGE_GROUPS = ((18, "under 18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (50, "45-49"), (56, "50-55"))
_OLDEST = "56+"


def read_movielens_1m(folder: Path) -> RawData:
    path = folder / "ml-1m.zip"
    if not path.exists():
        download(f"{_URL}/{path.name}", "c4d9eecfca2ab87c1945afe126590906", path)
    return _movielens(path, ("ratings.dat", "::"), ("users.dat", "::"), ["user", "gender", "age", "occupation", "zip"])


def read_movielens_100k(folder: Path) -> RawData:
    path = folder / "ml-100k.zip"
    if not path.exists():
        message = f"{path} does not exist. Download {_URL}/{path.name} and put it there"
        raise DataError(message)
    return _movielens(path, ("u.data", "\t"), ("u.user", "|"), ["user", "age", "gender", "occupation", "zip"])


def _movielens(
    path: Path, ratings_file: tuple[str, str], users_file: tuple[str, str], user_columns: list[str]
) -> RawData:
    """Every rating is an interaction; each file comes with its separator.

    MovieLens-1M codes an age group by its lower bound, so one binning fits both.
    """
    ratings, users = (
        read_member(path, name, delim=separator, names=columns, header=False, quote="")
        for (name, separator), columns in (
            (ratings_file, ["user", "item", "rating", "timestamp"]),
            (users_file, user_columns),
        )
    )
    raw = checked_events(ratings, LogColumns("user", "item", "timestamp"), path)
    years = users["age"].try_cast("int64")
    age = ibis.cases(
        (years.isnull(), UNKNOWN_LABEL), *((years < bound, label) for bound, label in _AGE_GROUPS), else_=_OLDEST
    )
    gender = users["gender"].cases(("F", "female"), ("M", "male"), else_=users["gender"])
    users = users.mutate(age=age, gender=gender)
    attributes, matched = checked_attributes(users, "user", ("age", "gender"), raw.user_attributes, path)
    steps = (Step("all ratings", count_rows(ratings)), *raw.steps)
    return raw._replace(user_attributes=attributes, steps=steps, matched_users=matched)


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
        message = (
            f"{path} does not exist and could not be downloaded from {url}: {reason}. Without a connection, download "
            f"{url.rpartition('/')[2]} elsewhere and put it at {path}"
        )
        raise DataError(message) from error
