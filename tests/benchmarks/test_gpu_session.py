"""The session on a GPU: at toy size on the CPU from start to end, and what happens when a step goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_session
from benchmarks.gpu_session import Record, Step, main, run_step, steps
from benchmarks.jobs import toy_job, write_job

ROOT = Path(__file__).parents[2]
WITHOUT_THE_PROJECTS_LIBRARIES = """
import sys
for name in ("duckdb", "ibis", "pydantic", "kedro", "mlflow", "pandera", "pyarrow", "sklearn", "pytest", "yaml"):
    sys.modules[name] = None  # importing it fails
"""


def session(folder: Path, *options: str) -> str:
    """The script, as a shell runs it; importing what the machine with the GPU lacks fails there."""
    (folder / "sitecustomize.py").write_text(WITHOUT_THE_PROJECTS_LIBRARIES)
    write_job(toy_job(), folder / "retailrocket.npz")
    script = ROOT / "benchmarks" / "gpu_session.sh"
    command = [script, "--toy", "--jobs", str(folder), "--scratch", str(folder), *options]
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(folder), "OUT": str(folder / "out")}
    env |= {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600, env=env).stdout


def test_from_start_to_end(tmp_path: Path) -> None:
    """Everything is there; and a second time nothing is done again, though a machine took away what it handed back."""
    session(tmp_path)
    path = tmp_path / "out" / "gpu-session-toy.json"
    record = json.loads(path.read_text())
    assert {name: step["state"] for name, step in record["steps"].items()} == dict.fromkeys(
        [step.name for step in steps(tmp_path, tmp_path, toy=True)], "complete"
    )
    (run,) = record["runs"]
    assert {"date", "command", "device", "versions", "commit", "files", "jobs"} == run.keys()
    results = {name: step["result"] for name, step in record["steps"].items()}
    assert results["checks"]["failed"] == 0
    assert results["checks"]["passed"] > 5
    assert [arm["epochs"] for arm in results["retailrocket"]["arms"]] == [2, 2]
    assert [arm["state"] for arm in results["retailrocket-cvar-0"]["arms"]] == ["complete"]
    assert results["trials"]["trials"][0]["trials"] == 2
    assert results["trials"]["trials"][0]["kind"] == "turns"
    assert results["compiled-retailrocket-profile"]["profiles"]["erm"]["step"]["launches"] > 0
    assert results["retailrocket-profile"]["profiles"]["erm"]["step"]["launches"] > 0
    assert set(results["head"]["systems"]) == {"all", "three_tenths"}
    path.unlink()
    printed = session(tmp_path)
    assert printed.startswith("record: ")
    assert json.loads(path.read_text())["steps"] == record["steps"]


def test_a_step_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is tried again the next time, while what it measured before stays."""
    says, fails = ("benchmarks.gpu_session", "--help"), ("benchmarks.gpu_session", "--no-such-option")
    monkeypatch.setattr(
        gpu_session, "steps", lambda *_, **__: [Step("first", fails, 60, False), Step("second", says, 60, False)]
    )
    common = ["--toy", "--scratch", str(tmp_path), "--output", str(tmp_path / "record.json"), "--commit", "abc"]
    main(common)
    content = json.loads((tmp_path / "record.json").read_text())
    first, second = content["steps"]["first"], content["steps"]["second"]
    assert first["state"] == "failed with exit code 2"
    assert "unrecognized arguments: --no-such-option" in first["printed"]
    assert (second["state"], content["runs"][0]["commit"]) == ("complete", "abc")
    main([*common, "--only", "second"])
    assert json.loads((tmp_path / "record.json").read_text())["steps"]["first"]["run"] == 1
    main([*common, "--seconds", "1"])  # there is no time for it
    assert json.loads((tmp_path / "record.json").read_text())["steps"]["first"]["run"] == 1
    main(common)
    content = json.loads((tmp_path / "record.json").read_text())
    assert (content["steps"]["first"]["run"], content["steps"]["second"]["run"], len(content["runs"])) == (4, 1, 4)


def test_a_failure_keeps_what_was_measured_before(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    Record(path, {}).add("a", {"state": "paused", "result": {"arms": []}})
    again = Record(path, {})
    again.add("a", {"state": "failed with exit code 1"})
    kept = {"state": "failed with exit code 1", "result": {"arms": []}, "result_is_of_run": 1, "run": 2}
    assert json.loads(path.read_text())["steps"]["a"] == kept
    assert not again.is_complete("a")


def test_a_step_has_a_time_limit_and_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither itself nor a child."""
    (tmp_path / "sleeps.py").write_text(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "print('begun', flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = run_step(Step("sleeps", ("sleeps",), 6, output=False), 100, tmp_path)
    assert outcome["state"] == "killed after 6 s"
    assert outcome["printed"] == "begun\n"
    time.sleep(0.5)
    for pid in (tmp_path / "pids").read_text().split():
        status = Path(f"/proc/{pid}/status")
        assert not status.exists() or "(zombie)" in status.read_text()


def test_a_training_that_was_paused_is_gone_on_with(tmp_path: Path) -> None:
    def arm(**changes: Any) -> dict[str, Any]:
        return {"state": "paused; the same command goes on from epoch 3", "epochs": 2, **changes}

    def state(arms: list[dict[str, Any]], *options: str) -> str:
        program = "import json, sys; json.dump({'arms': json.loads(sys.argv[1])}, open(sys.argv[-1], 'w'))"
        (tmp_path / "writes.py").write_text(program)
        step = Step("writes", ("writes", json.dumps(arms), *options), 60, goes_on=True)
        return str(run_step(step, 60, tmp_path)["state"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        assert state([arm(), arm()], "--epochs", "2") == "complete"
        assert state([arm(), arm(epochs=1)], "--epochs", "2") == "paused"
        assert state([arm()]) == "paused"
        assert state([arm(state="complete")]) == "complete"
        assert state([{"state": "not begun"}]) == "paused"


def test_the_jobs_that_are_there_are_taken(tmp_path: Path) -> None:
    """Else generated ones; most valuable first, and the first of all are short."""
    (tmp_path / "retailrocket.npz").touch()
    found = {step.name: step for step in steps(tmp_path, tmp_path, toy=False)}
    assert "--job" in found["retailrocket"].command
    assert found["movielens"].command[1:4] == ("--dataset", "movielens-1m", "--generated")
    names = list(found)
    assert names[0] == "checks"
    assert sum(found[name].limit for name in names[: names.index("movielens-profile")]) <= 540
    # one process a loss and seed, whose checkpoint the short measurement has begun
    assert found["retailrocket-cvar-0"].command[-4:] == ("--loss", "cvar", "--seed", "0")
