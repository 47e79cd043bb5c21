"""Runs that are killed, that begin at once, and that share a project: `make soak`, or `python -m tests.soak --help`.

Every kill is SIGKILL at a random moment, after which the same command has to end well. In the end the artifacts of the
project are compared with those of one that nothing disturbed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file

from fairrec_pipeline.arms.store import ArmStore
from tests.conftest import copy_project
from tests.worlds import saved_snapshot

LONGER = "train.epochs=15,train.patience=null,train.checkpoint_seconds=0"
COMMANDS = {
    "data": ("--pipeline=data",),
    "train": ("--pipeline=train", "--params", f"loss=cvar,{LONGER}"),
    "tune": ("--pipeline=tune", "--params", f"loss=gdro,{LONGER}"),
    "experiment": ("--pipeline=experiment", "--params", f"experiment=soak,trials_at_once=2,{LONGER}"),
    "compare": ("--pipeline=compare",),
    "recommend": ("--pipeline=recommend", "--params", "loss=cvar"),
}
"""In the order in which a project runs them; the experiment ends with a comparison, too."""
KILLS = 4
"""Of a command, before it is run to its end."""
EQUAL, BUT_FOR_DATES, DIFFERENT = "equal", "equal but for dates and seconds", "different"


@dataclass
class Outcome:
    """What happened: kills by command, commands that did not end well, artifacts by how they compare."""

    kills: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    artifacts: Counter[str] = field(default_factory=Counter)
    different: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.kills += other.kills
        self.artifacts += other.artifacts
        self.failed += other.failed
        self.different += other.different


def fresh(folder: Path) -> Path:
    """A fresh project, with a short experiment."""
    project = copy_project(folder)
    experiment = "experiments: {soak: {arms: [erm, cvar], seeds: 2, tune: true}}\n"
    (project / "conf/test/parameters_soak.yml").write_text(experiment)
    return project


def start(project: Path, command: Sequence[str]) -> subprocess.Popen[str]:
    """A command of a user in a project."""
    variables = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "KEDRO_ENV": "test", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [Path(sys.executable).with_name("kedro"), "run", *command],
        cwd=project,
        env={**os.environ, **variables, "TQDM_DISABLE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(project: Path, command: Sequence[str], outcome: Outcome) -> float:
    """Run a command to its end; returns the seconds."""
    begun = time.monotonic()
    process = start(project, command)
    said, _ = process.communicate()
    if process.returncode != 0:
        outcome.failed.append(f"{' '.join(command)}: code {process.returncode}\n{said[-3000:]}")
    return time.monotonic() - begun


def kill(project: Path, command: Sequence[str], after: float) -> bool:
    """Kill a command after so many seconds; whether it was still running."""
    process = start(project, command)
    try:
        process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    return False


def disturb(
    project: Path, names: Iterable[str], times: int, seconds: Mapping[str, float], chance: random.Random
) -> Outcome:
    """Kill each of these commands so many times, then run it to its end.

    Args:
        seconds: of each command where nothing disturbs it.
    """
    outcome = Outcome()
    for name in names:
        for _ in range(times):
            # what is done already leaves less to do
            if kill(project, COMMANDS[name], chance.uniform(0.2, 0.9 * seconds[name])):
                outcome.kills[name] += 1
        finish(project, COMMANDS[name], outcome)
    return outcome


# --- what is compared


def artifacts(project: Path) -> dict[str, Path]:
    """Every file below data/, by its path without the version; of a versioned file the newest."""
    found = {}
    for path in sorted(project.glob("data/**/*.*")):
        if path.is_file() and not path.name.startswith("."):
            parts = path.relative_to(project).parts
            versioned = (len(parts) > 2 and parts[-3] == parts[-1]) or re.match(r"\d{4}-\d\d-\d\dT", parts[-2])
            found["/".join((*parts[:-2], parts[-1]) if versioned else parts)] = path
    return found


def compared(project: Path, undisturbed: Path) -> Outcome:
    """How the artifacts of two projects compare."""
    ours, theirs = artifacts(project), artifacts(undisturbed)
    outcome = Outcome()
    for name in sorted(ours.keys() | theirs.keys()):
        kind = _kind(ours[name], theirs[name]) if name in ours and name in theirs else DIFFERENT
        outcome.artifacts[kind] += 1
        if kind == DIFFERENT:
            outcome.different.append(f"{name} ({project})")
    return outcome


def _kind(path: Path, other: Path) -> str:
    if path.read_bytes() == other.read_bytes():
        return EQUAL
    first, second = (_without_dates(each) for each in (path, other))
    same = first.equals(second) if isinstance(first, pd.DataFrame) else first == second
    return BUT_FOR_DATES if same else DIFFERENT


_DATES = re.compile(r"\d{4}-\d\d-\d\d[T ][\d:.]+(Z|\+[\d:]+)?|\d{4}-\d\d-\d\d")


def _without_dates(path: Path) -> Any:
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
        return frame.drop(columns=[name for name in frame.columns if _is_of_time(name)])
    if path.suffix == ".json":
        return _dateless(json.loads(path.read_text()))
    if path.suffix == ".safetensors":
        snapshot = saved_snapshot(path) if "trials" in path.parts else None
        tensors = load_file(path) if snapshot is None else snapshot.tensors
        described = None if snapshot is None else _dateless(snapshot.description)
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, described
    if path.suffix in (".html", ".md"):  # seconds of a training stand in cells, minutes and rates in sentences
        return _DATES.sub("<date>", re.sub(r"[\d.,]+ ?(s|min|h|seconds|minutes)\b", "<seconds>", path.read_text()))
    return path.read_bytes()


def _dateless(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _dateless(value) for key, value in content.items() if not _is_of_time(key)}
    return [_dateless(each) for each in content] if isinstance(content, list) else content


def _is_of_time(name: str) -> bool:
    return "seconds" in name or name in {"started", "finished", "version", "mtime_ns", "sha256"}


# --- what is tried


def undisturbed(folder: Path, names: Iterable[str]) -> tuple[Path, dict[str, float], Outcome]:
    """A project in which these commands ran, and how long each took."""
    project, outcome = fresh(folder), Outcome()
    return project, {name: finish(project, COMMANDS[name], outcome) for name in names}, outcome


def first_run(folder: Path, reference: Path, seconds: float, chance: random.Random) -> Outcome:
    """A fresh project whose first command, `data`, is killed twice."""
    project = fresh(folder)
    outcome = disturb(project, ["data"], 2, {"data": seconds}, chance)
    outcome.kills["first run"] += outcome.kills.pop("data", 0)
    outcome.add(compared(project, reference))
    return outcome


def series(folder: Path, reference: Path, seconds: Mapping[str, float], chance: random.Random, times: int) -> Outcome:
    """A project in which every command is killed."""
    project = fresh(folder)
    outcome = disturb(project, COMMANDS, times, seconds, chance)
    outcome.add(compared(project, reference))
    return outcome


def pair(folder: Path, reference: Path) -> Outcome:
    """A fresh project with two first runs at once."""
    project, outcome = fresh(folder), Outcome()
    processes = [start(project, COMMANDS["data"]) for _ in range(2)]
    for process in processes:
        said, _ = process.communicate()
        if process.returncode != 0:
            outcome.failed.append(f"a first run of two: code {process.returncode}\n{said[-3000:]}")
    outcome.add(compared(project, reference))
    return outcome


def crowd(folder: Path, seconds: float) -> tuple[Counter[str], Outcome]:
    """Four processes of four pipelines on one project: other data, trainings, grids, experiments.

    Returns:
        Commands that ended well, by pipeline; and what failed. Every record has to be whole, of the data of its
        parameters, and the same as in a project of its own; of these the first two of every arm are looked at.
    """
    project, done, outcome = fresh(folder), Counter[str](), Outcome()
    commands: dict[str, Callable[[int], tuple[str, ...]]] = {
        "data": lambda number: ("--pipeline=data", "--params", f"split.validation_users={20 + number % 2}"),
        "train": lambda number: ("--pipeline=train", "--params", f"loss=cvar,seed={number}"),
        "tune": lambda number: ("--pipeline=tune", "--params", f"loss=gdro,seed={number}"),
        "experiment": lambda number: (
            "--pipeline=experiment",
            "--params",
            f"experiment=soak,seed={1000 + 2 * number},evaluate.other_data=skip",
        ),
    }
    ends = time.monotonic() + seconds

    def repeat(name: str) -> Iterator[bool]:
        for number in itertools.count():
            if time.monotonic() > ends:
                return
            before = len(outcome.failed)
            finish(project, commands[name](number), outcome)
            yield len(outcome.failed) == before

    with ThreadPoolExecutor(len(commands)) as threads:
        ended = dict(zip(commands, threads.map(lambda name: sum(repeat(name)), commands), strict=True))
    done.update(ended)
    alone = fresh(folder / "alone")
    for name in ("train", "tune", "experiment"):
        for number in range(min(2, ended[name])):
            finish(alone, commands[name](number), outcome)
    ours, theirs = ({(r.arm, r.seed): r for r in _store(each).records()} for each in (project, alone))
    for label, record in ours.items():
        _store(project).check(record)
        if record.card["data_fingerprint"] != next(iter(theirs.values())).card["data_fingerprint"]:
            outcome.different.append(f"{label} is of other data")
    missing = [("cvar", n) for n in range(ended["train"])] + [("gdro-pop33", n) for n in range(ended["tune"])]
    missing += [("erm", 1000 + n) for n in range(2 * ended["experiment"])]
    outcome.different += [f"{label} is lost" for label in missing if label not in ours]
    for label, record in theirs.items():
        same = label in ours and record.user_metrics.equals(ours[label].user_metrics)
        outcome.artifacts[EQUAL if same else DIFFERENT] += 1
        if not same:
            outcome.different.append(f"{label} is not what it is alone")
    return done, outcome


def _store(project: Path) -> ArmStore:
    models, outputs = (str(project / f"data/{name}/synthetic") for name in ("06_models", "07_model_output"))
    return ArmStore(models, outputs, f"{models}/trials")


def soak(folder: Path, *, first: int, kills: int, pairs: int, together: float, seed: int, workers: int) -> Outcome:
    """Do all that is asked for, and print a table."""
    total = Outcome()
    reference, seconds, undisturbed_outcome = undisturbed(folder / "undisturbed", COMMANDS)
    prepared, _, again = undisturbed(folder / "prepared", ["data"])
    total.add(undisturbed_outcome)
    total.add(again)
    print("seconds where nothing disturbs:", {name: round(each, 1) for name, each in seconds.items()}, flush=True)
    jobs: list[Callable[[], Outcome]] = []
    for number in range(-(-first // 2)):
        chance = random.Random(f"{seed} first {number}")
        jobs.append(lambda n=number, c=chance: first_run(folder / f"first-{n}", prepared, seconds["data"], c))
    for number in range(-(-kills // (KILLS * len(COMMANDS)))):
        chance = random.Random(f"{seed} series {number}")
        jobs.append(lambda n=number, c=chance: series(folder / f"series-{n}", reference, seconds, c, KILLS))
    by_pair = [lambda n=number: pair(folder / f"pair-{n}", prepared) for number in range(pairs)]
    with ThreadPoolExecutor(workers) as threads:
        for outcome in threads.map(lambda job: job(), [*jobs, *by_pair]):
            total.add(outcome)
            print(f"{total.kills.total()} kills, {len(total.failed)} failed, {dict(total.artifacts)}", flush=True)
    print("\n| killed | times |\n|---|---:|")
    for name, times in total.kills.items():
        print(f"| {name} | {times} |")
    print(f"| **all** | {total.kills.total()} |\n")
    print("| | |\n|---|---:|")
    print(f"| commands that failed after a kill, or in one of {pairs} pairs of first runs | {len(total.failed)} |")
    for kind in (EQUAL, BUT_FOR_DATES, DIFFERENT):
        print(f"| artifacts {kind} | {total.artifacts[kind]} |")
    if together:
        done, outcome = crowd(folder / "crowd", together)
        print(
            f"\nfour processes on one project for {together:g} s, ended well: {dict(done)}; {dict(outcome.artifacts)}"
        )
        total.add(outcome)
    for line in (*total.failed, *total.different):
        print("-", line)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=20, help="kills of a first run, two a project")
    parser.add_argument("--kills", type=int, default=48, help="kills over all pipelines, at least")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of first runs at once")
    parser.add_argument("--together", type=float, default=180, help="seconds of four processes on one project")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="projects at once")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        outcome = soak(Path(folder), **vars(chosen))
    return int(bool(outcome.failed or outcome.different))


if __name__ == "__main__":
    sys.exit(main())
