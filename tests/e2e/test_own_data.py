"""docs/own_data.md as a new user walks it: every command of the page, from the log to an answer over HTTP."""

from __future__ import annotations

import json
import re
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, Kedro
from tests.e2e.servers import asked, server

pytestmark = pytest.mark.e2e


def masked(text: str) -> str:
    """Without what another machine may compute otherwise, or lay out otherwise."""
    return " ".join(re.sub(r"[-+]?\d[\d.,]*|\b(?:erm|cvar)\b", "#", re.sub(r"[*†‡↓]", "", text)).split())


def cpu_seconds() -> float:
    """Of the processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_page_is_walked_to_an_answer_over_http(project: Path, kedro: Kedro) -> None:
    blocks = re.findall(r"```(\w*)\n(.*?)```", (ROOT / "docs/own_data.md").read_text(), flags=re.DOTALL)
    said, walked = "", []
    for language, block in blocks:
        first = block.split()[0]
        if language == "python":
            subprocess.run([sys.executable, "-c", block], cwd=project, check=True)
        elif language == "yaml":
            (project / "conf/local/parameters_shop.yml").write_text(block)
        elif language == "text":
            for line in block.splitlines():
                # a result, and which group is worst by it, hang on the number of threads
                assert re.search(r"\d\.\d", line) or masked(line) in masked(said), line
        elif first == "kedro":
            said = ""
            for command in block.splitlines():
                begun, used = time.monotonic(), cpu_seconds()
                run = kedro(project, *shlex.split(command)[1:])
                took, cpu = time.monotonic() - begun, cpu_seconds() - used
                sys.stdout.write(f"{took:.1f} s, {cpu:.1f} s of CPU: {command}\n")  # pytest -s shows it
                assert run.returncode == 0, run.stdout + run.stderr
                said += run.stdout + run.stderr
                walked.append(command)
        elif first == "python":
            served = [sys.executable, *shlex.split(block)[1:], "--port"]
        elif first == "curl":
            body = json.loads(shlex.split(block)[-1])
            with server(project, served, "health") as address:
                answer = asked(f"{address}/recommend", body)
        elif language == "json":
            shown = json.loads(block)
            walked.append("answered")
            assert [list(each) for each in answer["predictions"]] == [list(each) for each in shown["predictions"]]
            for got, printed in zip(answer["predictions"], shown["predictions"], strict=True):
                counts = ("known_items", "unknown_items", "cold_start")
                assert [got[name] for name in counts] == [printed[name] for name in counts]
                assert len(got["items"]) == len(printed["items"])
    assert len(walked) == 9
    assert walked[-1] == "answered"
