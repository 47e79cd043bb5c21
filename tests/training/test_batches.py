"""Vectorised batches against a loop over users, and the stream of users."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairrec_pipeline.training.batches import Batch, Batches, UserStream
from tests.worlds import random_histories

LENGTHS = [3, 1, 12, 7, 4, 2, 5, 30, 6, 1]


def by_user(batch: Batch) -> dict[int, tuple[list[int], list[int], list[int] | None]]:
    """Tokens, positions and targets of each user, cut from the packed tensors by `lengths`."""
    out, start = {}, 0
    for user, length in zip(batch.users.tolist(), batch.lengths.tolist(), strict=True):
        here = slice(start, start + length)
        targets = None if batch.targets is None else batch.targets[here].tolist()
        out[user] = batch.tokens[here].tolist(), batch.positions[here].tolist(), targets
        start += length
    assert start == len(batch.tokens)
    return out


@pytest.mark.parametrize("held_out", [False, True], ids=["training", "evaluation"])
@pytest.mark.parametrize("max_length", [2, 4, 7, 200])
def test_batch_equals_a_loop_over_users(max_length: int, held_out: bool) -> None:
    """Tokens are the start token and the items, all but the last item in training; targets are the items."""
    sequences = random_histories(LENGTHS, held_out=held_out)
    users = [7, 3, 9, 0, 2]
    batch = Batches(sequences, max_length=max_length, device=torch.device("cpu")).batch(torch.tensor(users))
    expected = {}
    for user in users:
        items = sequences.items[sequences.offsets[user] : sequences.offsets[user + 1]].tolist()
        tokens = [sequences.n_items, *items]
        tokens = (tokens if held_out else tokens[:-1])[-max_length:]
        positions = list(range(len(tokens) - 1, -1, -1))
        expected[user] = tokens, positions, None if held_out else items[-max_length:]
    assert by_user(batch) == expected
    assert batch.rows.tolist() == [row for row, length in enumerate(batch.lengths.tolist()) for _ in range(length)]
    assert batch.lengths.tolist() == sorted(batch.lengths.tolist(), reverse=True)
    assert batch.positions[batch.ends].tolist() == [0] * len(users)


def test_an_empty_history_is_evaluated_from_the_start_token() -> None:
    """A user whose history holds nothing the catalogue knows."""
    sequences = random_histories([0, 2], held_out=True)
    batch = Batches(sequences, max_length=5, device=torch.device("cpu")).batch(torch.tensor([0, 1]))
    assert by_user(batch)[0] == ([sequences.n_items], [0], None)


def test_in_order_visits_every_user_once() -> None:
    sequences = random_histories(LENGTHS, held_out=True)
    batches = list(Batches(sequences, max_length=5, device=torch.device("cpu")).in_order(12))
    assert len(batches) > 2
    assert max(len(batch.tokens) for batch in batches) < 12 + 5  # the last user of a batch may go beyond
    assert sorted(user for batch in batches for user in batch.users.tolist()) == list(range(len(LENGTHS)))


def test_every_pass_of_the_stream_is_a_permutation() -> None:
    """11 users in batches of 4: 11 batches are 4 passes, cut at other places than the batches."""
    stream = UserStream(11, 4, seed=5)
    users = torch.cat([stream.users(step) for step in range(11)]).view(4, 11)
    assert all(sorted(row.tolist()) == list(range(11)) for row in users)
    assert len({tuple(row.tolist()) for row in users}) == 4


def test_a_batch_larger_than_the_population_spans_passes() -> None:
    users = UserStream(3, 10, seed=0).users(1)
    assert torch.bincount(users, minlength=3).tolist() in ([3, 3, 4], [3, 4, 3], [4, 3, 3])


def test_stream_is_a_function_of_seed_and_step() -> None:
    stream = UserStream(50, 8, seed=2)
    walked = [stream.users(step) for step in range(20)]
    for step in (19, 0, 6, 7):
        assert torch.equal(UserStream(50, 8, seed=2).users(step), walked[step])
        assert torch.equal(stream.users(step), walked[step])
    assert not torch.equal(UserStream(50, 8, seed=3).users(0), walked[0])


GROUPS = np.array([0] * 9 + [2] * 2 + [1] * 4)  # in groups of 9, 4 and 2 users


@pytest.mark.parametrize("batch_size", [6, 7, 2])
def test_a_balanced_batch_has_an_equal_share_of_every_group(batch_size: int) -> None:
    """To one user: 7 = 3 + 2 + 2, 2 = 1 + 1 + 0. Over 36 users, 12 of each group: every user of the 4 three times,

    every user of the 2 six times, and the 9 once and three of them twice.
    """
    stream = UserStream(15, batch_size, 1, GROUPS)
    batches = [stream.users(step) for step in range(36 // batch_size + 1)]
    for users in batches:
        counts = np.bincount(GROUPS[users], minlength=3)
        assert np.ptp(counts) <= 1
        assert counts.sum() == batch_size
    drawn = torch.bincount(torch.cat(batches)[:36], minlength=15)
    assert drawn[GROUPS == 1].tolist() == [3] * 4
    assert drawn[GROUPS == 2].tolist() == [6] * 2
    assert sorted(drawn[GROUPS == 0].tolist()) == [1] * 6 + [2] * 3


def test_a_balanced_stream_is_a_function_of_seed_and_step() -> None:
    stream = UserStream(15, 4, 2, GROUPS)
    walked = [stream.users(step) for step in range(20)]
    for step in (19, 0, 6, 7):
        assert torch.equal(UserStream(15, 4, 2, GROUPS).users(step), walked[step])
        assert torch.equal(stream.users(step), walked[step])
    assert not torch.equal(UserStream(15, 4, 3, GROUPS).users(0), walked[0])


def test_one_group_is_balanced_anyway() -> None:
    one, plain = UserStream(11, 4, 5, np.zeros(11, dtype=np.int64)), UserStream(11, 4, 5)
    assert all(torch.equal(one.users(step), plain.users(step)) for step in range(8))


def test_histories_may_all_be_empty() -> None:
    """New users of whom nothing is known: each has the start token alone."""
    histories = random_histories([0, 0], held_out=True)
    (batch,) = Batches(histories, max_length=12, device=torch.device("cpu")).in_order(100)
    assert batch.tokens.tolist() == [histories.n_items] * 2
