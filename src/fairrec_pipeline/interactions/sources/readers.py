"""Raw files to events: one function a format, one way to check and normalise what they read.

DuckDB reads the files. Text files are read as text and typed here, because a type guessed from the first rows turns a
bad value further down into an error that names neither the file nor the column.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir

from fairrec_pipeline.interactions.columns import ITEM, TIMESTAMP, USER
from fairrec_pipeline.interactions.sources.download import MOVIELENS_1M, download
from fairrec_pipeline.interactions.errors import DataError
from fairrec_pipeline.interactions.groups import UNKNOWN_LABEL
from fairrec_pipeline.interactions.sources.synthetic import generate
from fairrec_pipeline.parameters.blocks import MovieLens, RetailRocket, Source, Synthetic, Table

_AGE_GROUPS = ((18, "under 18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (50, "45-49"), (56, "50-55"))
_OLDEST = "56+"
_MILLIONTHS = 1_000_000


def read_source(folder: Path, source: Source) -> tuple[ir.Table, ir.Table]:
    """Read the raw files of a dataset.

    Args:
        folder: `data/01_raw/<dataset>`; a synthetic dataset does not need it.
        source: the dataset's block of parameters_datasets.yml.

    Returns:
        events: columns user_id, item_id, timestamp, rows in no particular order. Ids are int64 where every id is a
            whole number, else strings. The timestamp is int64: a date becomes microseconds since 1970 (UTC where it
            names no zone), a whole number keeps its own unit, numbers with fractions are counted in millionths of
            their unit. Only its order is used.
        user_attributes: user_id (typed as in the events), and one string column per attribute with "unknown" where
            the source has no value. One row per user of the events.

    Raises:
        DataError: a file or a column is missing, a file cannot be read, the log is empty, an id or a timestamp is
            null, a timestamp is neither a number nor a date, or a user has two rows of attributes.
    """
    block = source.root
    match block:
        case RetailRocket():
            return _retailrocket(folder)
        case MovieLens():
            return _movielens_1m(folder) if block.adapter == "movielens-1m" else _movielens_100k(folder)
        case Table():
            return _table(folder, block)
        case Synthetic():
            events, users = generate(block.n_users, block.n_items, block.seed)
            return ibis.memtable(events).cache(), ibis.memtable(users).cache()


def _retailrocket(folder: Path) -> tuple[ir.Table, ir.Table]:
    member = "events.csv"
    archives = [path for path in sorted(folder.glob("*.zip")) if _member(path, member)]
    candidates = [path for path in (folder / member, folder / f"{member}.gz") if path.exists()] + archives
    if not candidates:
        message = (
            f"no RetailRocket log: looked for {member}, {member}.gz and a .zip that holds {member} in {folder}. "
            f"Download the archive from https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset and put it there"
        )
        raise DataError(message)
    path = candidates[0]
    if path.suffix == ".zip":
        log = _read_member(path, member, delim=",", header=True)
    else:
        log = _read_text(path, delim=",", header=True)
    _require(log, ("timestamp", "visitorid", "event", "itemid"), path, "Take the file as RetailRocket publishes it")
    views = log.filter(log["event"] == "view")
    if _count(views) == 0 and _count(log) > 0:
        found = sorted(str(value) for value in log.select("event").distinct().to_pandas()["event"])
        message = f"{path} has no event 'view' among its {_count(log)} rows, only {found[:5]}; only views are used"
        raise DataError(message)
    events = _events(views, "visitorid", "itemid", "timestamp", path)
    return events, _no_attributes(events)


def _movielens_1m(folder: Path) -> tuple[ir.Table, ir.Table]:
    path = folder / MOVIELENS_1M.name
    if not path.exists():
        download(MOVIELENS_1M, path)
    dialect: dict[str, Any] = {"delim": "::", "header": False, "quote": ""}
    ratings = _read_member(path, "ratings.dat", names=["user", "item", "rating", "timestamp"], **dialect)
    users = _read_member(path, "users.dat", names=["user", "gender", "age", "occupation", "zip"], **dialect)
    return _movielens(path, ratings, users)


def _movielens_100k(folder: Path) -> tuple[ir.Table, ir.Table]:
    path = folder / "ml-100k.zip"
    if not path.exists():
        message = (
            f"{path} does not exist. Download https://files.grouplens.org/datasets/movielens/ml-100k.zip and put it "
            f"there"
        )
        raise DataError(message)
    dialect: dict[str, Any] = {"header": False, "quote": ""}
    ratings = _read_member(path, "u.data", delim="\t", names=["user", "item", "rating", "timestamp"], **dialect)
    users = _read_member(path, "u.user", delim="|", names=["user", "age", "gender", "occupation", "zip"], **dialect)
    return _movielens(path, ratings, users)


def _movielens(path: Path, ratings: ir.Table, users: ir.Table) -> tuple[ir.Table, ir.Table]:
    """Every rating is an interaction; MovieLens-1M codes an age group by its lower bound, so one binning fits both."""
    events = _events(ratings, "user", "item", "timestamp", path)
    years = users["age"].try_cast("int64")
    age = ibis.cases(
        (years.isnull(), UNKNOWN_LABEL), *((years < bound, label) for bound, label in _AGE_GROUPS), else_=_OLDEST
    )
    gender = users["gender"].cases(("F", "female"), ("M", "male"), else_=users["gender"])
    return events, _attributes(users.mutate(age=age, gender=gender), "user", ("age", "gender"), events, path)


def _table(folder: Path, source: Table) -> tuple[ir.Table, ir.Table]:
    path = folder / source.interactions
    log = _read_table(path)
    hint = f"Set user, item and timestamp of datasets.{folder.name} to columns of the file"
    _require(log, (source.user, source.item, source.timestamp), path, hint)
    events = _events(log, source.user, source.item, source.timestamp, path)
    if source.users is None:
        return events, _no_attributes(events)
    users_path = folder / source.users
    users = _read_table(users_path)
    hint = f"Set user and user_attributes of datasets.{folder.name} to columns of the file"
    _require(users, (source.user, *source.user_attributes), users_path, hint)
    return events, _attributes(users, source.user, source.user_attributes, events, users_path)


def _read_table(path: Path) -> ir.Table:
    """A Parquet file with its types, or a text file as text."""
    suffixes = {suffix.lower() for suffix in path.suffixes[-2:]}
    if suffixes & {".parquet", ".pq"}:
        _require_file(path)
        with _readable(path):
            return ibis.read_parquet(path).cache()
    if suffixes & {".csv", ".tsv"}:
        return _read_text(path, header=True)
    message = f"{path} has a suffix that says nothing of its format. Allowed: .parquet, .csv, .csv.gz, .tsv, .tsv.gz"
    raise DataError(message)


def _read_text(path: Path, origin: Path | None = None, **dialect: Any) -> ir.Table:
    """A text file as text; errors name its origin."""
    _require_file(path)
    with _readable(path if origin is None else origin):
        if path.stat().st_size == 0:  # DuckDB would make up a column
            message = f"{path if origin is None else origin} is empty. Put a whole copy there"
            raise DataError(message)
        return ibis.read_csv(path, all_varchar=True, **dialect).cache()


def _read_member(archive: Path, member: str, **dialect: Any) -> ir.Table:
    """A text file of a zip archive; DuckDB cannot look into one, so the member is unpacked for the time of reading."""
    _require_file(archive)
    name = _member(archive, member)
    if name is None:
        message = f"{archive} holds no {member}. Take the archive as it is published"
        raise DataError(message)
    with tempfile.TemporaryDirectory() as folder:
        with _readable(archive), zipfile.ZipFile(archive) as files:
            path = Path(files.extract(name, folder))
        return _read_text(path, archive / name, **dialect)


def _member(archive: Path, name: str) -> str | None:
    """Full name of a file of the archive, in whatever folder of it."""
    with _readable(archive), zipfile.ZipFile(archive) as files:
        return next((member for member in sorted(files.namelist()) if member.rpartition("/")[2] == name), None)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, zipfile.BadZipFile, EOFError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"{path} cannot be read: {reason}. The file is damaged or of another format; put a whole copy there"
        raise DataError(message) from error


def _require_file(path: Path) -> None:
    if not path.is_file():
        message = f"{path} does not exist. Put the file there, or change its name in parameters_datasets.yml"
        raise DataError(message)


def _require(table: ir.Table, columns: Sequence[str], path: Path, hint: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        message = f"{path} has no column {', '.join(missing)}; its columns are {', '.join(table.columns)}. {hint}"
        raise DataError(message)


def _count(table: ir.Table) -> int:
    return int(table.count().execute())


def _events(log: ir.Table, user: str, item: str, timestamp: str, path: Path) -> ir.Table:
    """Checked and normalised events; see `read_source`."""
    events = log.select(**{USER: _blank_to_null(log[user]), ITEM: _blank_to_null(log[item]), TIMESTAMP: log[timestamp]})
    names = {USER: user, ITEM: item, TIMESTAMP: timestamp}
    nulls = {column: events[column].isnull().sum() for column in names}
    found = events.agg(n_rows=events.count(), **nulls).to_pandas().iloc[0]
    if found.n_rows == 0:
        message = f"{path} is empty: it has columns but no rows. Put a log with interactions there"
        raise DataError(message)
    bad = [f"{name} ({found[column]:.0f})" for column, name in names.items() if found[column]]
    if bad:
        message = (
            f"{path} has null or blank values in {', '.join(bad)} among its {found.n_rows:.0f} rows. Every row needs a "
            f"user, an item and a time: remove those rows from the file"
        )
        raise DataError(message)
    with _readable(path):
        instants = _instants(events[TIMESTAMP], timestamp, path)
        return events.select(**{USER: _ids(events[USER]), ITEM: _ids(events[ITEM]), TIMESTAMP: instants}).cache()


def _blank_to_null(column: ir.Column) -> ir.Column:
    return column.strip().nullif("") if column.type().is_string() else column


def _ids(column: ir.Column) -> ir.Column:
    """int64 where that loses nothing ("007" and "7" stay two ids), else string."""
    if column.type().is_integer():
        return column.cast("int64")
    number = column.try_cast("int64")
    same = number.cast(column.type()) == column
    return number if same.fill_null(False).all().execute() else column.cast("string")


def _instants(column: ir.Column, name: str, path: Path) -> ir.Column:
    """int64 timestamps, of a column without nulls; units as in `read_source`."""
    dtype = column.type()
    if dtype.is_integer():
        return column.cast("int64")
    if dtype.is_timestamp() or dtype.is_date():
        return _microseconds(column)
    number = column.try_cast("float64")
    number = ibis.ifelse(number.isnan() | number.isinf(), ibis.null("float64"), number)
    # Naive dates are taken as UTC: with a type that has a zone, DuckDB honours the offsets that some rows may carry.
    date = column.cast("string").try_cast("timestamp('UTC')")
    readings = column.as_table().select(value=column.cast("string"), number=number, date=date)
    _ = ibis._
    found = readings.agg(
        n=_.count(), n_numbers=_.number.count(), n_dates=_.date.count(), whole=(_.number == _.number.round()).all()
    )
    n, n_numbers, n_dates, whole = found.to_pandas().iloc[0]
    if n_numbers == n:
        # Not through float64 where it can be helped: it has too few digits for nanoseconds since 1970.
        return column.try_cast("int64") if whole else (number * _MILLIONTHS).round().cast("int64")
    if n_dates == n:
        return _microseconds(date)
    bad = readings.filter((_.number if n_numbers else _.date).isnull()).select("value")
    examples = ", ".join(repr(value) for value in bad.distinct().order_by("value").limit(3).to_pandas()["value"])
    message = (
        f"{path} has {_count(bad)} of {n} values in {name} that cannot be read as a time: {examples}. "
        f"Allowed: all numbers, or all ISO dates such as 2015-06-01 12:30:00"
    )
    raise DataError(message)


def _microseconds(column: ir.Column) -> ir.Column:
    return column.cast("timestamp").delta(ibis.timestamp("1970-01-01"), unit="microsecond")


def _no_attributes(events: ir.Table) -> ir.Table:
    return events.select(USER).distinct().order_by(USER).cache()


def _attributes(users: ir.Table, user: str, attributes: Sequence[str], events: ir.Table, path: Path) -> ir.Table:
    ids = _blank_to_null(users[user]).cast("string").try_cast(events[USER].type())
    labels = {name: _blank_to_null(users[name].cast("string")) for name in attributes}
    table = users.select(**{USER: ids}, **labels).filter(ibis._[USER].notnull()).cache()
    twice = table.group_by(USER).agg(n=ibis._.count()).filter(ibis._.n > 1).order_by(USER)
    n_twice = _count(twice)
    if n_twice:
        examples = ", ".join(str(value) for value in twice.limit(3).to_pandas()[USER])
        message = f"{path} has more than one row for {n_twice} users: {examples}. Keep one row per user"
        raise DataError(message)
    users_of_log = _no_attributes(events)
    joined = users_of_log.left_join(table, USER).order_by(users_of_log[USER])
    return joined.select(
        users_of_log[USER], **{name: table[name].fill_null(UNKNOWN_LABEL) for name in attributes}
    ).cache()
