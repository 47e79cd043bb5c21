"""A method as a stranger adds it: one file, one row with its options, one YAML block. 6 lines in 2 files of ours."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Kedro

pytestmark = pytest.mark.e2e

JTT = '''"""Just Train Twice (Liu et al. 2021), in one training: ERM first, then more weight for users that it fails."""

from __future__ import annotations

import torch
from torch import Tensor

from fairrec_pipeline.objectives.base import LossBatch, Objective, Population, State


class Jtt(Objective):
    """The users with the highest losses at the end of the first part weigh `upweight` times as much from then on.

    Args:
        population: gives the number of users.
        first_steps: steps of ERM.
        share: of the users that count as failed.
        upweight: of a failed user.
    """

    decides_on_host = True  # the step decides what is done

    def __init__(self, population: Population, *, first_steps: int, share: float, upweight: float) -> None:
        self.n_users, self.first_steps, self.share, self.upweight = population.n_users, first_steps, share, upweight

    def initial_state(self) -> State:
        return {"losses": torch.zeros(self.n_users), "failed": torch.zeros(self.n_users)}

    def weights(self, batch: LossBatch, state: State) -> tuple[Tensor, State]:
        if batch.step < self.first_steps:
            losses = state["losses"].index_copy(0, batch.users, batch.losses.to(state["losses"]))
            return torch.full_like(batch.losses, 1 / len(batch.losses)), state | {"losses": losses}
        if batch.step == self.first_steps:
            worst = state["losses"].topk(max(1, int(self.share * self.n_users))).indices
            state = state | {"failed": torch.zeros(self.n_users).index_fill_(0, worst, 1.0)}
        weights = 1 + (self.upweight - 1) * state["failed"][batch.users].to(batch.losses)
        return weights / weights.sum(), state

    def history(self, state: State) -> dict[str, float]:
        return {"failed_users": float(state["failed"].sum())}
'''
OPTIONS = """class Jtt(Options):
    first_steps: Count
    share: float = Field(gt=0, lt=1, description="of the users that count as failed")
    upweight: float = Field(ge=1, description="of a failed user")


"""
ROW = '    "jtt": Method("jtt:Jtt", Jtt),\n'
YAML = "jtt: {first_steps: 4, share: 0.2, upweight: 5.0}\n"


def insert(file: Path, before: str, text: str) -> int:
    """Insert a text; returns the number of lines that are new."""
    old = file.read_text()
    assert old.count(before) == 1, f"{before!r} in {file}"
    file.write_text(old.replace(before, text + before))
    lines = difflib.ndiff(old.splitlines(), file.read_text().splitlines())
    return sum(line.startswith("+ ") and line.strip() != "+" for line in lines)


def test_a_method_is_a_file_a_row_and_a_block(project: Path, kedro: Kedro, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDRO_ENV", "test")
    package = project / "src" / "fairrec_pipeline"
    (package / "objectives" / "jtt.py").write_text(JTT)
    methods, values = package / "parameters" / "methods.py", project / "conf/base/parameters_methods.yml"
    edited = insert(methods, "@dataclass(frozen=True)\nclass Method:", OPTIONS)
    edited += insert(methods, '    "causald": Method(', ROW)
    values.write_text(values.read_text() + YAML)
    edited += 1
    assert edited == 6, "docs/adding_a_method.md and the top of this file say so"

    run = kedro(project, "run", "--pipeline=train", "--params", "loss=jtt,jtt.upweight=3")
    assert run.returncode == 0, run.stderr
    (card,) = project.glob("data/07_model_output/synthetic/jtt/seed-0/run_card.json/*/run_card.json")
    assert json.loads(card.read_text())["parameters"]["jtt"] == {"first_steps": 4, "share": 0.2, "upweight": 3.0}
    (history,) = project.glob("data/07_model_output/synthetic/jtt/seed-0/training_history.parquet/*/*.parquet")
    failed = pd.read_parquet(history)["failed_users"].tolist()
    assert failed[0] == 0
    assert failed[1] > 0
    run = kedro(project, "run", "--pipeline=compare")
    assert run.returncode == 0, run.stderr
    assert "jtt" in run.stdout + run.stderr
    run = kedro(project, "run", "--pipeline=train", "--params", "loss=jtt,jtt.share=2")
    assert run.returncode == 2
    assert "jtt.share: Input should be less than 1 (got 2)" in run.stderr
