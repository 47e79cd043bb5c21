"""Fixtures of the tests of training: one thread, and a small world."""

from __future__ import annotations

import dataclasses

import pytest

from fairrec_pipeline.training.fit import TrainingData
from tests.worlds import random_histories

LENGTHS = [2, 3, 9, 4, 5, 1, 7, 6, 3, 2, 8, 4]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


@pytest.fixture
def world() -> TrainingData:
    """Training and validation histories of the same twelve users over 15 items, without groups."""
    train, held_out = random_histories(LENGTHS, n_items=15), random_histories(LENGTHS, n_items=15, held_out=True)
    return TrainingData(train, dataclasses.replace(train, targets=held_out.targets, repeats=held_out.repeats), None)
