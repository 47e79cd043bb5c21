"""What a process of a Ray cluster tells the driver; no Ray is needed here (see tests/scale)."""

from __future__ import annotations

import traceback
from unittest.mock import Mock

import pytest

from fairrec_pipeline import cluster
from fairrec_pipeline.cluster import cause_of, connected
from fairrec_pipeline.errors import FairrecError, OptionError


class TaskError(Exception):
    """As Ray's: its text is the traceback of the task."""

    def __init__(self, cause: Exception | None) -> None:
        super().__init__("ray::keep()\n  File shop.py, line 4, in keep")
        self.cause = cause


def test_a_bug_in_a_task_is_told_with_its_place_and_a_mistake_in_its_own_words() -> None:
    bug, mistake = KeyError("deep"), FairrecError("there are no such groups")
    assert cause_of(TaskError(bug)) is bug
    assert "File shop.py, line 4, in keep" in "".join(traceback.format_exception(bug))
    assert str(cause_of(TaskError(mistake))) == "there are no such groups"


def test_a_task_that_died_has_no_cause() -> None:
    died = TaskError(None)
    assert cause_of(died) is died


def test_a_cluster_of_other_versions_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    mismatch = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.12.1")
    ray = Mock(is_initialized=Mock(return_value=False), init=Mock(side_effect=mismatch))
    monkeypatch.setattr(cluster, "import_ray", lambda: ray)
    with (
        pytest.raises(OptionError, match=r"at auto cannot be joined: Version mismatch: .* Ray: 2\.9\.0 Python"),
        connected("auto"),
    ):
        pass
