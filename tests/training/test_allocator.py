"""Memory that is freed and taken again."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from fairrec_pipeline.training.allocator import keep_freed_memory
if {keep}:
    keep_freed_memory()
def take():
    for _ in range(3):  # freed in another order than taken, all pieces below 32 MiB
        pieces = [torch.ones(n) for n in (5_000_000, 3_000_000, 7_000_000)]
        del pieces
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_pages_are_not_taken_anew() -> None:
    """45 million numbers are 180 MB in pieces, 44,000 pages of 4 KiB."""
    by_default, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], check=True, capture_output=True).stdout)
        for keep in (False, True)
    )
    pages = 180_000_000 // resource.getpagesize()
    assert by_default > pages / 4
    assert kept < pages / 100
