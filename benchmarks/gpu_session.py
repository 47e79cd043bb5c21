"""`benchmarks/gpu_session.sh`: a quarter of an hour on a GPU, most valuable first, in one record.

Checks, then short measurements, then whole trainings with the rest of the time. Each is a process with a time limit;
one that fails does not stop the others. The same command goes on where it stopped: what is complete is not done
again, and trainings continue from their checkpoints. torch, numpy, pandas, scipy, safetensors and tqdm are enough.

The jobs are files that `--prepare` writes where the project is installed and has the raw files; they travel with the
repository (8 MB). Without them histories of the datasets' size and lengths are generated, which say how long a
training takes and nothing about how well it ends. `--toy` runs everything at toy size on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_job import RESULTS, device_described, versions
from benchmarks.gpu_job import main as gpu_job
from fairrec_pipeline.training.fit import resolve_device

SCRATCH = Path("benchmarks/scratch/gpu_session")
JOBS = ("retailrocket", "movielens-1m")
MARGIN = 20
"""Seconds that a training needs after its pause, for the checkpoint and its test users."""
LEAST = 25
"""A step is not begun with fewer seconds than this."""
FOLDER_VARIABLE = "OUT"
"""Names a folder for a copy of the record, where a machine hands one back. It may be empty at every call."""


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        name: in the record.
        command: module and arguments; `{seconds}` becomes what the step has, less `MARGIN`.
        limit: seconds after which it is killed.
        output: whether it writes a record to `--output`; else the last line it prints is one, if it is JSON.
        goes_on: whether the same command continues a training that was paused.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    output: bool = True
    goes_on: bool = False


def steps(folder: Path, jobs: Path, *, toy: bool, seeds: int = 4) -> list[Step]:
    """All steps, most valuable first.

    Args:
        folder: of the checkpoints.
        jobs: folder of the prepared files.
        toy: at toy size on the CPU.
        seeds: of the whole trainings.
    """

    def job(dataset: str, *arguments: str, epochs: int | None = None) -> tuple[str, ...]:
        file = jobs / f"{dataset}.npz"
        data = ["--quick"] if toy else []
        data += ["--job", str(file)] if file.exists() else [] if toy else ["--dataset", dataset, "--generated"]
        if epochs is not None:
            data += ["--epochs", str(2 if toy else epochs)]
        return ("benchmarks.gpu_job", *data, "--checkpoints", str(folder), "--seconds", "{seconds}", *arguments)

    def compiled(dataset: str, *arguments: str, epochs: int | None = None) -> tuple[str, ...]:
        command = job(dataset, "--compile", *arguments, epochs=epochs)
        return tuple(str(folder / "compiled") if part == str(folder) else part for part in command)

    device = "cpu" if toy else "cuda"
    head = ["--rounds", "1", "--threads", "1", "--positions", "40", "--items", "90", "--dim", "8"] if toy else []
    trials = "2" if toy else "4"
    found = [
        Step("checks", ("benchmarks.gpu_checks", "--device", device, *(["--few"] if toy else [])), 90, output=False),
        # from a checkpoint that the whole trainings below go on with
        Step("retailrocket", job("retailrocket", "--loss", "erm", "cvar", epochs=40), 55, goes_on=True),
        # the first of them compiles; what it makes serves the others
        Step("compiled-retailrocket", compiled("retailrocket", "--loss", "erm", "cvar", epochs=40), 110, goes_on=True),
        Step("retailrocket-profile", job("retailrocket", "--profile", "--loss", "erm"), 40),
        Step("compiled-retailrocket-profile", compiled("retailrocket", "--profile", "--loss", "erm"), 45),
        Step("trials", job("retailrocket", "--trials", trials, epochs=10), 70),
        Step("movielens", job("movielens-1m", "--loss", "erm", "cvar", epochs=12), 60, goes_on=True),
        Step("compiled-movielens", compiled("movielens-1m", "--loss", "erm", epochs=12), 70, goes_on=True),
        Step("movielens-profile", job("movielens-1m", "--profile"), 40),
        Step("compiled-trials", compiled("retailrocket", "--trials", trials, epochs=10), 70),
        Step("head", ("benchmarks.head", "--device", device, *head), 45, output=False),
    ]
    for seed in range(1 if toy else seeds):  # what evidence wants: the published budget, more seeds
        for loss in ("erm", "cvar", "erm_positions"):
            arguments = ("--loss", loss, "--seed", str(seed))
            found.append(Step(f"retailrocket-{loss}-{seed}", job("retailrocket", *arguments), 400, goes_on=True))
    found += [
        Step(f"movielens-{loss}-0", job("movielens-1m", "--loss", loss), 400, goes_on=True) for loss in ("erm", "cvar")
    ]
    # at toy size both datasets are the same one
    return [step for step in found if not (toy and "movielens" in step.name)]


class Record:
    """The one file of a session; whole after every step.

    Args:
        path: of the file; what is there is gone on with.
        description: date, device, versions and so on of this run.
        copies: folder that gets a copy; None for none.
    """

    def __init__(self, path: Path, description: dict[str, Any], copies: Path | None = None) -> None:
        self.path, self._copies = path, copies
        before = json.loads(path.read_text()) if path.exists() else {}
        self.content: dict[str, Any] = {
            "runs": [*before.get("runs", []), description],
            "steps": before.get("steps", {}),
        }

    def is_complete(self, name: str) -> bool:
        """Whether a step is done; one that failed is tried again."""
        return bool(self.content["steps"].get(name, {}).get("state") == "complete")

    def add(self, name: str, outcome: dict[str, Any]) -> None:
        """Keep what a step left; a failure does not take away what an earlier run measured."""
        before = self.content["steps"].get(name, {})
        if "result" in before and "result" not in outcome:
            outcome |= {"result": before["result"], "result_is_of_run": before.get("result_is_of_run", before["run"])}
        self.content["steps"][name] = outcome | {"run": len(self.content["runs"])}
        self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n")
        part.replace(self.path)
        if self._copies is not None:
            self._copies.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.path, self._copies)


def run_step(step: Step, seconds: float, folder: Path) -> dict[str, Any]:
    """Run a step for at most so many seconds; what is recorded of it."""
    given = min(step.limit, seconds)
    output = folder / f"{step.name}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    command = [part.replace("{seconds}", f"{max(given - MARGIN, 1):.0f}") for part in step.command]
    if step.output:
        command += ["--output", str(output)]
    begun = time.monotonic()
    with _killed_at_the_end(
        subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str((folder / "inductor").resolve())},
        )
    ) as process:
        try:
            printed, _ = process.communicate(timeout=given)
            state = "complete" if process.returncode == 0 else f"failed with exit code {process.returncode}"
        except subprocess.TimeoutExpired as error:
            said = error.stdout or b""
            printed = said.decode(errors="replace") if isinstance(said, bytes) else said
            state = f"killed after {given:.0f} s"
    outcome: dict[str, Any] = {"command": " ".join(["python -m", *command]), "seconds": time.monotonic() - begun}
    with contextlib.suppress(OSError, ValueError, IndexError):
        outcome["result"] = json.loads(output.read_text() if step.output else printed.strip().splitlines()[-1])
    arms = outcome.get("result", {}).get("arms", []) if step.output else []
    wanted = _option(step.command, "--epochs")
    if state == "complete" and step.goes_on and not all(_is_trained(arm, wanted) for arm in arms):
        state = "paused"
    if state not in ("complete", "paused"):
        outcome["printed"] = re.sub(r"[^\n]*\r", "", printed)[-4000:]  # without what progress bars overwrite
    return {"state": state, **outcome}


def _option(command: tuple[str, ...], name: str) -> int | None:
    return int(command[command.index(name) + 1]) if name in command else None


def _is_trained(arm: dict[str, Any], epochs: int | None) -> bool:
    """Whether it has the epochs that were wanted; None for the whole budget."""
    return bool(arm["state"] == "complete" or (epochs is not None and arm.get("epochs", 0) >= epochs))


@contextlib.contextmanager
def _killed_at_the_end(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """With all its children: processes of trials would keep the device."""
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.prepare:
        for dataset in JOBS:
            raw = ["--raw", str(options.raw / dataset)] if options.raw else []
            gpu_job(["--dataset", dataset, *raw, "--prepare", str(options.jobs / f"{dataset}.npz")])
        return
    begun = time.monotonic()
    device = resolve_device("cpu" if options.toy else "cuda")
    handed_back = None if options.output else os.environ.get(FOLDER_VARIABLE)
    name = "gpu-session-toy.json" if options.toy else "gpu-session.json"
    record = Record(
        options.output or (options.scratch if options.toy or handed_back else RESULTS) / name,
        {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": " ".join(["benchmarks/gpu_session.sh", *(sys.argv[1:] if arguments is None else arguments)]),
            "device": device_described(device),
            "versions": versions(),
            "commit": options.commit or _commit(),
            "files": _fingerprint_of_files(),
            "jobs": {dataset: _sha256(options.jobs / f"{dataset}.npz") for dataset in JOBS},
        },
        Path(handed_back) if handed_back else None,
    )
    record.write()
    for step in steps(options.scratch, options.jobs, toy=options.toy, seeds=options.seeds):
        left = options.seconds - (time.monotonic() - begun)
        wanted = not options.only or any(step.name.startswith(name) for name in options.only)
        if not wanted or record.is_complete(step.name):
            continue
        if left < LEAST:
            print(f"{step.name}: no time left; the same command goes on from here", flush=True)
            break
        outcome = run_step(step, left, options.scratch)
        record.add(step.name, outcome)
        print(f"{step.name}: {outcome['state']}, {outcome['seconds']:.0f} s", flush=True)
        print("\n".join(_figures(outcome)), flush=True)
    print(f"record: {record.path}")


def _figures(outcome: dict[str, Any]) -> list[str]:
    """The figures that one looks at first."""
    result = outcome.get("result", {})
    lines = [
        f"  {arm['arm']}: {arm['epochs']} epochs, {arm['steps_per_second']:.0f} steps/s, "
        f"{arm['seconds_of_validation'] / arm['epochs'] * 1e3:.1f} ms a validation, whole budget "
        f"{arm['seconds_of_the_whole_budget']:.0f} s, test NDCG@20 {arm['test_ndcg_at_20']['overall']:.4f}"
        for arm in result.get("arms", [])
        if arm["curve"]
    ]
    lines += [
        f"  {trial['loss']}: {trial['per_hour_alone']:.1f} trainings an hour alone, "
        f"{trial['per_hour_together']:.1f} as {trial['trials']} at once"
        for trial in result.get("trials", [])
    ]
    lines += [
        f"  {arm} {part}: {row['ms']:.3f} ms, busy {row['busy_ms']:.3f} ms, {row['launches']:.0f} launches"
        for arm, parts in result.get("profiles", {}).items()
        for part, row in parts.items()
    ]
    if "failures" in result:
        lines.append(f"  {result['passed']} passed, {result['failed']} failed: {', '.join(result['failures'])}")
    if "printed" in outcome:
        lines.append("  " + outcome["printed"].strip()[-600:].replace("\n", "\n  "))
    return lines


def _commit() -> str | None:
    """None where the tree is a copy without its history; then `files` says what ran."""
    command = ["git", "rev-parse", "HEAD"]
    with contextlib.suppress(OSError):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return answer.stdout.strip() or None
    return None


def _fingerprint_of_files() -> str:
    """SHA-256 over the code of package and benchmarks."""
    digest = hashlib.sha256()
    for file in sorted([*Path("src").rglob("*.py"), *Path("benchmarks").glob("*.py")]):
        digest.update(f"{file.as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu_session.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=540, help="in all (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="steps whose names begin so")
    parser.add_argument("--seeds", type=int, default=4, help="of the whole trainings (default: %(default)s)")
    parser.add_argument("--toy", action="store_true", help="everything at toy size on the CPU")
    parser.add_argument("--prepare", action="store_true", help="write the jobs' files, and stop")
    parser.add_argument("--raw", type=Path, help="folder with the datasets' folders of raw files, for --prepare")
    parser.add_argument("--jobs", type=Path, default=Path("benchmarks/scratch/gpu_jobs"), help="(default: %(default)s)")
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="of checkpoints (default: %(default)s)")
    parser.add_argument("--commit", help="for the record, where there is no git")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"the record (default: in {RESULTS}; in --scratch and copied to ${FOLDER_VARIABLE} if that is set)",
    )
    return parser


if __name__ == "__main__":
    main()
