"""The edge: a mistake is one message and code 2, a bug says that it is one."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from kedro.config import MissingConfigException
from kedro.framework.cli.utils import KedroCliError
from kedro.io import DatasetError

from fairrec_pipeline import cli
from fairrec_pipeline.arms.store import DamagedArmError
from fairrec_pipeline.cli import Mistake, mistake_in, mistakes_as_messages
from fairrec_pipeline.comparison.selection import IncomparableArmsError
from fairrec_pipeline.errors import DataError
from fairrec_pipeline.parameters.loader import ParameterError
from fairrec_pipeline.training.checkpoint import CheckpointError, UnwrittenCheckpointError
from fairrec_pipeline.training.divergence import DivergenceError

OURS = [DamagedArmError, DataError, DivergenceError, IncomparableArmsError, ParameterError, CheckpointError,
        UnwrittenCheckpointError]  # fmt: skip


def wrapped(error: Exception) -> DatasetError:
    """As Kedro raises what goes wrong in a dataset."""
    outer = DatasetError(f"Failed while saving data to dataset X.\n{error}")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("around", [lambda error: error, wrapped])
def test_every_error_of_ours_is_a_message(kind: type[Exception], around: Callable[[Exception], Exception]) -> None:
    with pytest.raises(Mistake) as caught, mistakes_as_messages():
        raise around(kind("what, got, allowed, next step"))
    assert (caught.value.message, caught.value.exit_code) == ("what, got, allowed, next step", 2)


def test_what_a_dataset_says_itself_is_a_message() -> None:
    assert mistake_in(DatasetError("a.parquet does not exist. Run ...")) == "a.parquet does not exist. Run ..."


def test_an_environment_that_there_is_not_is_a_mistake() -> None:
    message = mistake_in(MissingConfigException("conf/nowhere is not a valid directory"))
    assert (
        message
        == "conf/nowhere is not a valid directory. The environments of --env are the folders in conf/: name one of them"
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EISDIR])
def test_a_file_system_that_refuses_is_a_message(number: int) -> None:
    message = mistake_in(wrapped(OSError(number, "no", "/data/a.parquet")))
    assert message is not None
    assert message.startswith("/data/a.parquet cannot be read or written: no.")


def test_a_bug_shows_its_traceback_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, mistakes_as_messages():
        raise wrapped(TypeError("of ours"))
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "TypeError: of ours" in said
    assert "not a mistake of yours but a bug. Please report it" in said


def test_a_mistake_shows_its_traceback_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KedroCliError, "VERBOSE_ERROR", True)
    with pytest.raises(Mistake), mistakes_as_messages():
        raise DataError("wrong")
    assert "Traceback" in capsys.readouterr().err


def test_the_command_is_kedros_own() -> None:
    from kedro.framework.cli.project import run

    assert [parameter.name for parameter in cli.run.params] == [parameter.name for parameter in run.params]
    assert cli.cli.commands["run"] is cli.run
