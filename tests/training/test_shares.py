"""A batch on several processes: shares of equal work, and the weights of one process."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.workers import SUPPORTED, differences
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.parameters.methods import METHODS
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.shares import owners, share_of
from fairrec_pipeline.training.team import Team
from tests.worlds import HISTORY_LENGTHS, random_histories

PROCESSES = 4


@pytest.fixture(scope="module")
def parted() -> dict[str, list[float]]:
    """With dropout: every sequence has the masks that it has in one process."""
    return differences([PROCESSES], dropout=0.2)


def test_every_method_but_that_with_a_trainer_of_its_own_is_supported() -> None:
    assert set(METHODS) - set(SUPPORTED) == {"causald"}


@pytest.mark.parametrize("case", [*SUPPORTED, "gdro, balanced", "cvar, one user", "cvar, tied"])
def test_weights_are_those_of_one_process(parted: dict[str, list[float]], case: str) -> None:
    """After ten steps in double precision, two of them of the warm start; rounding makes some difference."""
    assert 0 < parted[case][0] < 1e-9


@pytest.mark.parametrize("n", [1, 2, 3, 5, 14])
def test_shares_have_equal_work(n: int) -> None:
    lengths = sorted(np.random.default_rng(n).geometric(0.1, 40).tolist(), reverse=True)
    found = owners(lengths, n)
    loads = np.bincount(found, lengths, n)
    assert loads.max() - loads.min() <= lengths[0]
    assert loads.min() > 0


def test_one_long_history_has_a_process_to_itself() -> None:
    assert owners([200, 9, 9, 8, 7], 2) == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("size", [2, 3])
def test_shares_are_the_batch_and_have_its_masks(size: int) -> None:
    """Also the masks of attention, whose rectangles are as wide as the longest of a share."""
    batches = Batches(random_histories(HISTORY_LENGTHS), max_length=12, device=torch.device("cpu"))
    users = torch.tensor([0, 13, 5, 7, 1, 2, 9, 9])
    whole = batches.batch(users)
    shares = [share_of(batches, users, Team(rank, size)) for rank in range(size)]
    places = torch.cat([share.places for share in shares])
    assert sorted(places.tolist()) == list(range(len(users)))
    assert all(torch.equal(share.all_users, whole.users) for share in shares)
    assert torch.equal(torch.cat([share.users for share in shares]), whole.users[places])
    sums = sorted(int(share.lengths.sum()) for share in shares)
    assert sums[-1] - sums[0] <= 12

    def drawn(source: MaskSource, layout: list[tuple[int, int]], n: int) -> list[torch.Tensor]:
        shapes = [(n, 3), *((count, 2, length, length) for count, length in layout), (n, 4)]
        return [source.factors(shape, 0.4, torch.float64) for shape in shapes * 2]  # of two blocks

    of_whole = drawn(MaskSource(1), [(b.sequences, b.length) for b in whole.layout], len(whole.tokens))
    for share in shares:
        source = MaskSource(1)
        of_share = drawn(share.masks(source), [(b.sequences, b.length) for b in share.layout], len(share.tokens))
        rows = torch.isin(whole.rows, share.places)
        assert torch.equal(of_share[0], of_whole[0][rows])
        assert torch.equal(of_share[-1], of_whole[-1][rows])
        assert by_sequence(of_share, share.lengths) == [
            masks for place, masks in enumerate(by_sequence(of_whole, whole.lengths)) if place in share.places
        ]
        # what follows is that of the whole batch again
        after = MaskSource(1)
        drawn(after, [(b.sequences, b.length) for b in whole.layout], len(whole.tokens))
        assert torch.equal(source.factors((5, 5), 0.4, torch.float64), after.factors((5, 5), 0.4, torch.float64))


def by_sequence(masks: list[torch.Tensor], lengths: torch.Tensor) -> list[list[float]]:
    """The masks of attention of the first block for each sequence, where it has positions."""
    first_block = [mask for mask in masks[: len(masks) // 2] if mask.dim() == 4]
    sequences = [sequence for mask in first_block for sequence in mask]
    return [
        sequence[:, :length, :length].flatten().tolist()
        for sequence, length in zip(sequences, lengths.tolist(), strict=True)
    ]
