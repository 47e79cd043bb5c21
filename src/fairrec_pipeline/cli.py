"""The command line: `kedro run`, whose mistakes are one message, and whose bugs say how to report them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from kedro.config import MissingConfigException
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import KedroCliError
from kedro.io import DatasetError
from kedro.validation.exceptions import ParameterValidationError

from fairrec_pipeline.errors import FairrecError

_BUG = """
This is not a mistake of yours but a bug. Please report it in the repository of this project, with the command, the
traceback above and what `kedro info` prints. What was complete before is saved: the same command goes on from there."""


class Mistake(click.ClickException):
    """What a user can mend; ends the command with code 2."""

    exit_code = 2


@contextmanager
def mistakes_as_messages() -> Iterator[None]:
    """Have errors that a user can mend end in one message, and others in their traceback and a hint.

    The traceback of a mistake is shown with `kedro -v`.

    Raises:
        Mistake: the user can mend it.
        SystemExit: with code 1, for a bug.
    """
    try:
        yield
    except Exception as error:
        message = mistake_in(error)
        if message is None and isinstance(error, click.ClickException):  # of a command's own options
            raise
        if message is None:
            traceback.print_exc()
            click.echo(_BUG, err=True)
            raise SystemExit(1) from error
        if KedroCliError.VERBOSE_ERROR:
            traceback.print_exc()
        raise Mistake(message) from error


def mistake_in(error: BaseException) -> str | None:
    """What an error says to a user who can mend it; None if it is a bug."""
    if isinstance(error, FairrecError | ParameterValidationError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return f"{error}. The environments of --env are the folders in conf/: name one of them"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.filename or 'a file'} cannot be read or written: {error.strerror}. {_advice(error)}"
    if isinstance(error, DatasetError):
        around_another = "Failed while" in str(error).partition("\n")[0] and error.__cause__ is not None
        return mistake_in(error.__cause__) if around_another else str(error)  # type: ignore[arg-type]
    if isinstance(error, ValueError) and str(error).startswith(("Failed to find the pipeline", "Pipeline contains no")):
        return str(error)
    return None


def _advice(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "Give this user the right to, or choose another folder"
    return "Nothing half written is left; mend it, and the same command goes on"


@click.group(name="fairrec_pipeline")
def cli() -> None:
    """Commands that replace those of Kedro."""


def _run(**options: Any) -> Any:
    with mistakes_as_messages():
        return kedro_run.callback(**options)  # type: ignore[misc]


run = click.Command("run", callback=_run, params=kedro_run.params, help=kedro_run.help, short_help=kedro_run.short_help)
cli.add_command(run)
