"""Packed rows to padded rectangles and back."""

from __future__ import annotations

import pytest
import torch

from fairrec_pipeline.models.packing import Bucket, buckets_of, pad, unpad

LENGTHS = torch.tensor([40, 33, 17, 16, 16, 9, 8, 8, 3, 1, 1])


def test_buckets_cover_all_rows_and_pad_less_than_half() -> None:
    """Lengths within a bucket lie within a factor of 2 (above 8 positions), so a rectangle is at least half full."""
    buckets = buckets_of(LENGTHS, torch.device("cpu"))
    assert [(b.sequences, b.length) for b in buckets] == [(2, 40), (1, 17), (3, 16), (5, 8)]
    assert sum(b.rows for b in buckets) == LENGTHS.sum()


def test_a_bucket_of_equal_lengths_needs_no_cells() -> None:
    (bucket,) = buckets_of(torch.tensor([4, 4, 4]), torch.device("cpu"))
    assert bucket.cells is None
    rows = torch.randn(12, 2)
    assert pad(rows, bucket).data_ptr() == rows.data_ptr()


def test_pad_and_unpad_by_hand() -> None:
    """Histories (a, b, c) and (d): the rectangle is [[a, b, c], [d, 0, 0]]."""
    (bucket,) = buckets_of(torch.tensor([3, 1]), torch.device("cpu"))
    rows = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    rectangle = pad(rows, bucket)
    torch.testing.assert_close(rectangle[..., 0], torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]))
    torch.testing.assert_close(unpad(rectangle, bucket), rows)


@pytest.mark.parametrize("bucket", buckets_of(LENGTHS, torch.device("cpu")), ids=lambda b: f"length {b.length}")
def test_gradients(bucket: Bucket) -> None:
    rows = torch.randn(bucket.rows, 2, dtype=torch.float64, requires_grad=True)
    rectangle = torch.randn(bucket.sequences, bucket.length, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pad(x, bucket), rows)
    assert torch.autograd.gradcheck(lambda x: unpad(x, bucket), rectangle)
