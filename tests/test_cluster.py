"""What a process of a Ray cluster tells the driver; no Ray is needed here (see tests/scale)."""

from __future__ import annotations

import traceback

from fairrec_pipeline.cluster import cause_of
from fairrec_pipeline.errors import FairrecError


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
