"""MovieLens-1M and MovieLens-100K of GroupLens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import UNKNOWN_LABEL
from fairrec_pipeline.interactions.sources.checks import LogColumns, checked_attributes, checked_events, count_rows
from fairrec_pipeline.interactions.sources.download import MOVIELENS_1M, download
from fairrec_pipeline.interactions.sources.raw_files import RawData, Step, read_member

_AGE_GROUPS = ((18, "under 18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (50, "45-49"), (56, "50-55"))
_OLDEST = "56+"


def read_movielens_1m(folder: Path) -> RawData:
    path = folder / MOVIELENS_1M.name
    if not path.exists():
        download(MOVIELENS_1M, path)
    dialect: dict[str, Any] = {"delim": "::", "header": False, "quote": ""}
    ratings = read_member(path, "ratings.dat", names=["user", "item", "rating", "timestamp"], **dialect)
    users = read_member(path, "users.dat", names=["user", "gender", "age", "occupation", "zip"], **dialect)
    return _movielens(path, ratings, users)


def read_movielens_100k(folder: Path) -> RawData:
    path = folder / "ml-100k.zip"
    if not path.exists():
        message = (
            f"{path} does not exist. Download https://files.grouplens.org/datasets/movielens/ml-100k.zip and put it "
            f"there"
        )
        raise DataError(message)
    dialect: dict[str, Any] = {"header": False, "quote": ""}
    ratings = read_member(path, "u.data", delim="\t", names=["user", "item", "rating", "timestamp"], **dialect)
    users = read_member(path, "u.user", delim="|", names=["user", "age", "gender", "occupation", "zip"], **dialect)
    return _movielens(path, ratings, users)


def _movielens(path: Path, ratings: ir.Table, users: ir.Table) -> RawData:
    """Every rating is an interaction; MovieLens-1M codes an age group by its lower bound, so one binning fits both."""
    events, steps, n_repeated = checked_events(ratings, LogColumns("user", "item", "timestamp"), path)
    years = users["age"].try_cast("int64")
    age = ibis.cases(
        (years.isnull(), UNKNOWN_LABEL), *((years < bound, label) for bound, label in _AGE_GROUPS), else_=_OLDEST
    )
    gender = users["gender"].cases(("F", "female"), ("M", "male"), else_=users["gender"])
    users = users.mutate(age=age, gender=gender)
    attributes, matched = checked_attributes(users, "user", ("age", "gender"), events, path)
    read = Step("all ratings", count_rows(ratings))
    return RawData(events, attributes, (path,), (read, *steps), n_repeated, matched)
