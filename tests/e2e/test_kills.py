"""A first run that is killed, again and again; the long version is `make soak`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.soak import compared, disturb, fresh, undisturbed

pytestmark = pytest.mark.e2e


def test_a_first_run_that_is_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """It makes the database, prepares data and trains, and is killed at four random moments of these."""
    reference, seconds, outcome = undisturbed(tmp_path / "undisturbed", ["train"])
    project = fresh(tmp_path / "killed")
    outcome.add(disturb(project, ["train"], 4, seconds, random.Random(0)))
    assert outcome.kills.total() >= 2
    assert outcome.failed == []
    assert compared(project, reference).different == []
