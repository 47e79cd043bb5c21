"""The benchmarks run, at toy size, and end with the lines that others read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.floors import step_bytes, step_flops
from benchmarks.head import SYSTEMS, Head, head_lines

ROOT = Path(__file__).parents[2]
BACKBONE = {"dim": 2, "feed_forward": 3, "blocks": 1, "max_length": 5}


def run_benchmarks(*options: str) -> list[str]:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--threads", "1", *options]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def test_speed(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    lines = run_benchmarks("--output", str(record))
    names = [line.split("=")[0] for line in lines[-5:]]
    assert names == [
        "step_ratio_to_reference",
        "step_ratio_to_flop_floor",
        "peak_memory_ratio",
        "cvar_step_over_erm_step",
        "validation_ratio_to_reference",
    ]
    assert all(float(line.split("=")[1]) > 0 for line in lines[-5:])
    written = json.loads(record.read_text())
    assert {"device", "versions", "command", "step", "validation", "scaling", "head"} <= written.keys()
    assert set(written["step"]["toy"]["systems"]) == {"reference", "erm", "cvar", "gdro", "cb"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_all_heads_find_the_same(system: str) -> None:
    """Losses and gradients of torch's function are ours, to single precision."""
    shape = {"positions": 30, "items": 70, "dim": 8}
    head, ours = Head(system, shape, "cpu", 1), Head("ours", shape, "cpu", 1)
    coefficients = head.coefficients * (head.draws < 0.5)
    expected = ours.losses_and_gradients(coefficients)
    torch.testing.assert_close(head.losses_and_gradients(coefficients), expected, rtol=1e-4, atol=1e-6)
    assert head.run(0.3) > 0


def test_head_lines() -> None:
    row = {"median_seconds": 0.5, "min_seconds": 0.4, "max_seconds": 1.0, "memory_bytes": 2**21, "this_over_ours": 1.5}
    result = {"shape": {"items": 17_803}, "device": "cpu", "systems": {"all": {"torch": row}}}
    assert head_lines(result)[2].split() == ["torch", "all", "0.5000", "0.4000", "2", "1.50"]


def test_time_to_quality() -> None:
    assert [line.split("=")[0] for line in run_benchmarks("--quality", "--arms", "erm", "cvar_copying")[-2:]] == [
        "erm_seconds_to_0.2386",
        "cvar_copying_seconds_to_0.2386",
    ]


def test_flops_by_hand() -> None:
    """Lengths 2 and 1, three positions; dim 2, feed-forward 3, one block, 7 items.

    Linear layers and head, products a position: qkv 2 x 6, out 2 x 2, feed-forward 2 x (2 x 3), head 2 x 7: 42.
    Attention, products a sequence of length l: l (l + 1) / 2 pairs, twice (scores and sum), 2 each: 2 l (l + 1), so
    2 x 6 + 2 x 2 = 16. Two FLOPs a product, three passes: 6 (3 x 42 + 16) = 852.
    """
    assert step_flops([2, 1], 7, BACKBONE) == 852


def test_bytes_by_hand() -> None:
    """Weights: 2 x 7 x 2 embeddings, 28 in the block, 10 positions: 66, 8 passes of 4 bytes; 2 more of the output."""
    assert step_bytes([2, 1], 7, BACKBONE) == pytest.approx(4 * (8 * 66 + 2 * 14))
