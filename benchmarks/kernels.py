"""Where the time of a GPU goes: the kernels that torch's profiler saw, by kind, with launches and a floor."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import torch

KINDS = {
    "attention": r"flash|fmha|attention",
    "adam": r"adam|multi_tensor|foreach",
    "norm": r"layer_norm|GammaBeta",
    "product": r"nvjet|gemm|gemv|cutlass|cublas|splitK|\bmm\b|addmm|baddbmm|bmm",
    "compiled": r"triton",
    "dropout": r"dropout|bernoulli",
    "embedding": r"embedding|EmbeddingBackward",
    "sum": r"reduce|softmax|logsumexp|\bsum\b|amax",
    "sort or scan": r"sort|scan|cumsum|unique|searchsorted|cub::",
    "gather or scatter": r"index|gather|scatter",
    "copy or fill": r"memcpy|memset|copy|fill|cat",
    "element by element": r"elementwise|vectorized|aten::",
}
"""Kinds of kernels by a pattern of their names; the first that matches counts. The names of the CPU's operators, which
stand in at toy size, match as well."""
OTHER = "other"


def kind_of(name: str) -> str:
    """Kind of a kernel by its name."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), OTHER)


def measured_kernels(profiler: torch.profiler.profile, times: int, seconds: float) -> dict[str, Any]:
    """What `times` repetitions launched, per repetition.

    Args:
        profiler: has seen them, and has been stopped.
        times: how many repetitions.
        seconds: that all took, with the profiler at work.

    Returns:
        `ms` and `busy_ms` a repetition, `launches`; by kind and by kernel, largest first, `ms` and `launches`. On the
        CPU operators count instead of kernels.
    """
    events = profiler.key_averages()
    # an annotation, such as that of the optimiser's step, spans kernels that are there themselves
    kernels = [
        event for event in events
        if event.device_type == torch.autograd.DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]  # fmt: skip
    rows = [(event.key, event.self_device_time_total, event.count) for event in kernels] or [
        (event.key, event.self_cpu_time_total, event.count) for event in events if event.key.startswith("aten::")
    ]
    by_kind: dict[str, dict[str, float]] = {}
    table = []
    for name, microseconds, count in sorted(rows, key=lambda row: -row[1]):
        row = {"ms": microseconds / 1e3 / times, "launches": count / times}
        table.append({"name": name, "kind": kind_of(name), **row})
        of_kind = by_kind.setdefault(kind_of(name), {"ms": 0.0, "launches": 0.0})
        for part, value in row.items():
            of_kind[part] += value
    return {
        "ms": seconds * 1e3 / times,
        "busy_ms": sum(row["ms"] for row in table),
        "launches": sum(row["launches"] for row in table),
        "by_kind": dict(sorted(by_kind.items(), key=lambda item: -item[1]["ms"])),
        "kernels": table,
    }


def profiled(run: Callable[[], object], times: int, device: torch.device) -> dict[str, Any]:
    """Kernels of `times` runs; one before them warms up."""
    profiler = make_profiler(device)
    run()
    synchronise(device)
    profiler.start()
    begun = time.perf_counter()
    for _ in range(times):
        run()
    synchronise(device)
    seconds = time.perf_counter() - begun
    profiler.stop()
    return measured_kernels(profiler, times, seconds)


def make_profiler(device: torch.device) -> torch.profiler.profile:
    """Of the CPU's operators, and of CUDA's kernels where they are."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=activities)


def synchronise(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def product_rate(device: torch.device, size: int | None = None) -> float:
    """FLOP/s of a large product in the training's precision, the best of several."""
    on_gpu = device.type == "cuda"
    n = size or (8192 if on_gpu else 256)
    a = torch.ones(n, n, dtype=torch.bfloat16 if on_gpu else torch.float32, device=device)
    best = float("inf")
    for _ in range(10):
        synchronise(device)
        begun = time.perf_counter()
        a @ a
        synchronise(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * n**3 / best


def kernel_lines(name: str, measured: dict[str, Any], most: int = 25) -> list[str]:
    """A table of the largest kernels and of all kinds."""
    lines = [f"{name}: {measured['ms']:.3f} ms, busy {measured['busy_ms']:.3f} ms, {measured['launches']:.0f} launches"]
    if "floor_ms" in measured:
        lines.append(f"  floor of the products: {measured['floor_ms']:.3f} ms")
    rows = [(kind, row) for kind, row in measured["by_kind"].items()]
    rows += [(kernel["name"], kernel) for kernel in measured["kernels"][:most]]
    return lines + [f"  {row['ms']:9.4f} ms {row['launches']:7.1f} x  {title}" for title, row in rows]
