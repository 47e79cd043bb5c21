"""How far a training is, for whoever follows it from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Follower = Callable[[str, int, int], object]
"""Is told the label of a training, its epoch and the epochs of its budget."""

_followers: list[Follower] = []


def report(label: str, epoch: int, epochs: int) -> None:
    """Tell who follows that an epoch is complete."""
    for follower in _followers:
        follower(label, epoch, epochs)


@contextmanager
def followed_by(follower: Follower) -> Iterator[None]:
    """Have the trainings of this process report to a follower."""
    _followers.append(follower)
    try:
        yield
    finally:
        _followers.remove(follower)
