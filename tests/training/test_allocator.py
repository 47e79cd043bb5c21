"""Memory that is freed and taken again."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from fairrec_pipeline.training.allocator import keep_freed_memory
keep_freed_memory()
def take():
    for _ in range(3):
        pieces = [torch.ones(n) for n in (5_000_000, 3_000_000, 7_000_000)]
        del pieces
for _ in range(6):  # until the heap has found its shape
    take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
take()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_not_taken_from_the_kernel_again() -> None:
    """Three times 15 million numbers are 180 MB; by default at least half of them came anew."""
    anew = int(subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True).stdout)
    assert anew < 2_000_000
