"""The guard under which every command of the tests runs: what it refuses, and what it lets through."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import guard

OURS = "exec(compile({!r}, 'x', 'exec'), {{'__name__': 'fairrec_pipeline.x'}})"


def run(code: str, folder: Path) -> tuple[int, str]:
    refused = folder / "refused"
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, env=guard(refused), check=False)
    return ended.returncode, refused.read_text() if refused.exists() else ""


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import pickle; pickle.load(open('a.pickle', 'rb'))", "pickle.load"),
        ("import pandas; pandas.read_pickle('a.pickle')", "pickle.load"),
        ("import torch; torch.load('a.pickle')", "torch.serialization.load"),
        ("import joblib; joblib.load('a.pickle')", "joblib.numpy_pickle.load"),
        ("import yaml; yaml.unsafe_load('a: 1')", "yaml.unsafe_load"),
        ("import os; os.system('true')", "os.system"),
        (OURS.format("import pickle; pickle.loads(pickle.dumps(1))"), "pickle.loads"),
        (OURS.format("eval('1')"), "eval"),
    ],
)
def test_what_runs_the_code_of_a_file_is_refused(code: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(1))
    code_of_process, refused = run(code, tmp_path)
    assert code_of_process != 0
    assert refused.startswith(f"{name} called by ")


def test_what_others_do_without_files_is_not(tmp_path: Path) -> None:
    code = (
        "import collections, io, pickle\n"
        "def f():\n    x = 3\n    return eval('x + y')\n"
        "y = 4\n"
        "assert f() == 7 and eval('z', {'z': 1}) == 1\n"
        "collections.namedtuple('A', 'b')(1)\n"
        "assert pickle.load(io.BytesIO(pickle.dumps(5))) == 5\n"
    )
    assert run(code, tmp_path) == (0, "")
