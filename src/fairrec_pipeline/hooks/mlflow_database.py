"""The SQLite database of MLflow: made whole or not at all, checked before it is used, and moved with its project."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fairrec_pipeline.errors import FairrecError

_PATIENCE = 120  # seconds; who holds the lock makes the database, which takes some ten
_PLACES = (  # where MLflow keeps absolute paths of artifacts
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


@contextmanager
def prepared_database(path: Path, experiment: str, artifacts: Path) -> Iterator[None]:
    """Have a sound database; within the context no other process of this project prepares it.

    A process that is killed while MLflow makes its tables would leave a database that no later one can open, and of two
    that make them at once one fails. So it is made under another name, and gets its own when it is complete.

    Args:
        path: of the database.
        experiment: name of the project's experiment.
        artifacts: folder of the experiment's artifacts. A copied or moved project has that of the original in its
            database; it is set right here.

    Raises:
        FairrecError: there is something that is no database, or it cannot be read or written.
    """
    try:
        held = FileLock(path.with_name(f".{path.name}.lock"), timeout=_PATIENCE).acquire()
    except (OSError, Timeout) as error:
        raise FairrecError(_message(path, str(error))) from error
    with held:
        if not path.exists():
            _make(path)
        _check_and_move(path, experiment, artifacts)
        yield


def _make(path: Path) -> None:
    from mlflow import MlflowClient

    for left in path.parent.glob(f".{path.name}.*.partial*"):  # of processes that were killed: the lock is ours
        left.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    MlflowClient(f"sqlite:///{partial}").search_experiments(max_results=1)
    partial.replace(path)


def _check_and_move(path: Path, experiment: str, artifacts: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=30)) as database:
            problem = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise FairrecError(_message(path, problem))
            found = database.execute(
                "SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)
            ).fetchone()
            new = artifacts.as_uri()
            if found is not None and found[0] and found[0] != new and found[0].startswith("file:"):
                _move(database, found[0], new)
            database.execute("CREATE TEMP TABLE written (x)")
            database.execute("PRAGMA user_version = 0")  # fails where the file may not be written
    except sqlite3.Error as error:
        raise FairrecError(_message(path, str(error))) from error


def _move(database: sqlite3.Connection, old: str, new: str) -> None:
    for table, column in _PLACES:
        with suppress(sqlite3.OperationalError):  # not every version of MLflow has every table
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {column} LIKE ?",  # noqa: S608
                (new, len(old) + 1, old, f"{old}/%"),
            )
    database.commit()


def _message(path: Path, reason: str) -> str:
    return (
        f"{path} cannot be opened as the database of MLflow: {reason}. Results are in data/, the database is the table "
        "of the MLflow UI alone: make the file readable and writable, or move it away and a new one is made. Another "
        "place: server.mlflow_tracking_uri in conf/local/mlflow.yml"
    )
