"""`python -m benchmarks`: the tables, a JSON record in benchmarks/results/, and the ratios as `name=value`."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.head import RETAILROCKET, head_lines, measure_head
from benchmarks.quality import ARMS, PUBLISHED_BEST, time_to_quality
from benchmarks.step import measure_scaling, measure_step
from benchmarks.validation import measure_validation
from benchmarks.workloads import with_catalogue, workload

RESULTS = Path("benchmarks/results")
WORKLOADS = ("retailrocket", "movielens-1m")
CATALOGUES = (10_000, 100_000, 1_000_000)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    record: dict[str, Any] = {"date": datetime.date.today().isoformat(), "commit": _commit(), "command": _command()}
    record |= {"device": _device(options.threads), "versions": _versions()}
    lines = _quality(record, options) if options.quality else _speed(record, options)
    if not options.quick or options.output:
        path = options.output or _record_path("quality" if options.quality else None)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"\nrecord: {path}")
    print("\n".join(lines))


def _speed(record: dict[str, Any], options: argparse.Namespace) -> list[str]:
    names = ["toy"] if options.quick else options.workloads
    rounds, threads = (2 if options.quick else options.rounds), options.threads
    main_workload = workload(names[0])
    record["step"] = {}
    for name in names:
        result = measure_step(workload(name), rounds=rounds, threads=threads)
        record["step"][name] = result
        _print_steps(result)
    record["validation"] = measure_validation(main_workload, n_users=10_000, rounds=min(2, rounds), threads=threads)
    _print_validation(record["validation"])
    head_shape = {"positions": 40, "items": 50, "dim": 16} if options.quick else RETAILROCKET
    record["head"] = measure_head(head_shape, rounds=min(rounds, 7), threads=threads)
    print("\n".join(["", *head_lines(record["head"])]))
    sizes = (50, 500) if options.quick else tuple(options.catalogues)
    record["scaling"] = []
    for n_items in sizes:
        result = measure_scaling(with_catalogue(main_workload, n_items), rounds=min(rounds, 3), threads=threads)
        record["scaling"].append(result)
    _print_scaling(record["scaling"])
    steps = record["step"][names[0]]["systems"]
    reference, erm = steps["reference"], steps["erm"]
    return [
        f"step_ratio_to_reference={erm['reference_over_this']:.2f}",
        f"step_ratio_to_flop_floor={erm['this_over_flop_floor']:.3f}",
        f"peak_memory_ratio={reference['peak_memory_bytes'] / erm['peak_memory_bytes']:.2f}",
        f"cvar_step_over_erm_step={steps['cvar']['this_over_erm']:.3f}",
        f"validation_ratio_to_reference={record['validation']['systems']['ours']['reference_over_this']:.2f}",
    ]


def _quality(record: dict[str, Any], options: argparse.Namespace) -> list[str]:
    record["quality"] = [time_to_quality(arm, threads=options.threads, quick=options.quick) for arm in options.arms]
    lines = []
    for arm in record["quality"]:
        print(f"\n{arm['arm']}: epoch, seconds, loss, validation NDCG@20, test NDCG@20 of the chosen weights")
        for row in arm["curve"]:
            print(
                f"{row['epoch']:4d} {row['seconds']:8.1f} {row['loss']:8.4f} "
                f"{row['validation_ndcg_at_20']:.4f} {row['test_ndcg_at_20_of_chosen']:.4f}"
            )
        seconds = arm["seconds_to_published_best"]
        lines.append(f"{arm['arm']}_seconds_to_{PUBLISHED_BEST}={'never' if seconds is None else f'{seconds:.1f}'}")
    return lines


def _print_steps(result: dict[str, Any]) -> None:
    print(
        f"\nTraining step, {result['workload']} ({result['source']}), batch {result['batch_size']}, "
        f"{result['n_items']:,} items, {result['positions_per_step']:.0f} real positions; "
        f"products {result['matmul_gflops']:.0f} GFLOP/s, "
        f"FLOP floor {result['flop_floor_seconds']:.3f} s (at the best rate of the moment "
        f"{result['flop_floor_seconds_at_best_rate']:.3f} s), byte floor {result['byte_floor_seconds']:.3f} s"
    )
    print(
        f"{'':10} {'median s':>9} {'min s':>8} {'max s':>8} {'tokens/s':>9} {'peak GiB':>9} {'vs ref':>7} "
        f"{'/FLOP floor':>11} {'/byte floor':>11}"
    )
    for name, row in result["systems"].items():
        print(
            f"{name:10} {row['median_seconds']:9.4f} {row['min_seconds']:8.4f} {row['max_seconds']:8.4f} "
            f"{row['tokens_per_second']:9.0f} {row['peak_memory_bytes'] / 2**30:9.2f} "
            f"{row['reference_over_this']:7.2f} {row['this_over_flop_floor']:11.2f} "
            f"{row['this_over_byte_floor']:11.1f}"
        )


def _print_validation(result: dict[str, Any]) -> None:
    print(f"\nValidation of {result['n_users']:,} users, {result['workload']}")
    print(f"{'':10} {'median s':>9} {'peak GiB':>9} {'vs ref':>7} {'NDCG@20':>8}")
    for name, row in result["systems"].items():
        print(
            f"{name:10} {row['median_seconds']:9.3f} {row['peak_memory_bytes'] / 2**30:9.2f} "
            f"{row['reference_over_this']:7.2f} {row['ndcg_at_20']:8.5f}"
        )


def _print_scaling(results: list[dict[str, Any]]) -> None:
    print("\nCatalogue size, our ERM step; 'other' is peak memory less weights, gradients and optimiser state")
    print(f"{'items':>10} {'median s':>9} {'us / 1k items':>14} {'peak GiB':>9} {'other GiB':>9}")
    for row in results:
        per_thousand = 1e6 * row["median_seconds"] / (row["n_items"] / 1000)
        print(
            f"{row['n_items']:10,} {row['median_seconds']:9.3f} {per_thousand:14.0f} "
            f"{row['peak_memory_bytes'] / 2**30:9.2f} {row['other_bytes'] / 2**30:9.2f}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="toy size, to see that everything runs; writes no record")
    parser.add_argument("--quality", action="store_true", help="time to the published best NDCG@20 instead; long")
    parser.add_argument("--rounds", type=int, default=12, help="steps of each system (default %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch (default: cores)")
    parser.add_argument("--workloads", nargs="+", default=WORKLOADS, choices=WORKLOADS, help="the first is quoted")
    parser.add_argument("--catalogues", type=int, nargs="*", default=CATALOGUES, help="sizes of the scaling table")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="of --quality")
    parser.add_argument("--output", type=Path, help="file of the record")
    return parser


def _record_path(part: str | None) -> Path:
    kind = f"{platform.machine()}-{len(os.sched_getaffinity(0))}cores"
    name = "-".join(filter(None, [datetime.date.today().isoformat(), kind, "cpu", part]))
    return RESULTS / f"{name}.json"


def _command() -> str:
    return " ".join(["python -m benchmarks", *sys.argv[1:]])


def _commit() -> str | None:
    """Of the repository, `-dirty` if files differ from it; None where there is none."""
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in ("torch", "numpy", "fairrec_pipeline")
    }


def _device(threads: int) -> dict[str, Any]:
    """What kind of machine this is; nothing that names the machine itself."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory_gib": round(memory / 2**30, 1),
    }


if __name__ == "__main__":
    main()
