"""Fingerprints of code: what a training imports, and what of it means something."""

from __future__ import annotations

import ast
import importlib
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import fairrec_pipeline
from fairrec_pipeline.arms import code
from fairrec_pipeline.arms.code import code_fingerprint, evaluation_fingerprint, imported_files
from fairrec_pipeline.parameters.methods import METHODS

PACKAGE = Path(fairrec_pipeline.__file__).parent


def names(*modules: str) -> set[str]:
    return {file.relative_to(PACKAGE).as_posix() for file in imported_files(PACKAGE, *modules)}


def test_what_chooses_the_best_epoch_is_code_of_a_training() -> None:
    found = names("training.fit", "objectives.cvar")
    assert {"metrics/ranking.py", "training/fit.py", "models/sasrec.py", "objectives/cvar.py", "storage.py"} <= found


def test_two_threads_do_not_parse_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kedro's ThreadRunner asks for fingerprints in several threads, and two that parse can fail in Python 3.11."""
    parse, inside, most = ast.parse, [], []

    def slow(*arguments: Any) -> Any:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.001)
        inside.pop()
        return parse(*arguments)

    monkeypatch.setattr(ast, "parse", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: names("objectives.cvar"), range(4)))
    assert max(most) == 1


def test_what_makes_data_reports_and_other_methods_is_not() -> None:
    found = names("training.fit", "objectives.cvar", "training.loss_groups")
    rooms = {name.partition("/")[0] for name in found}
    assert not rooms & {"parameters", "pipelines", "hooks", "catalog", "report", "comparison", "experiments", "serving"}
    assert not {name for name in found if "sources" in name or "rsr" in name or "distillation" in name}


@pytest.mark.parametrize("loss", METHODS)
def test_everything_that_is_imported_at_run_time_is_seen(loss: str) -> None:
    """The oracle is Python itself: modules that come with the trainer and the objective."""
    method = METHODS[loss]
    modules = [method.trainer.partition(":")[0], f"objectives.{method.objective.partition(':')[0]}"]
    before = {name: module for name, module in sys.modules.items() if name.startswith("fairrec_pipeline")}
    for name in before:
        del sys.modules[name]
    try:
        for module in modules:
            importlib.import_module(f"fairrec_pipeline.{module}")
        loaded = {name for name in sys.modules if name.startswith("fairrec_pipeline.")}
    finally:
        for name in [name for name in sys.modules if name.startswith("fairrec_pipeline")]:
            del sys.modules[name]  # else what was not imported before would stay, with classes of its own
        sys.modules.update(before)
    seen = names(*modules)
    missing = {
        name
        for name in loaded
        if not name.startswith("fairrec_pipeline.parameters")
        and not {f"{(path := name.removeprefix('fairrec_pipeline.').replace('.', '/'))}.py", f"{path}/__init__.py"}
        & seen
    }
    assert missing == set()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, of which fingerprints are taken."""
    package = tmp_path / "fairrec_pipeline"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "_PACKAGE", package)
    return package


def fingerprints() -> tuple[str, str, str]:
    code.fingerprint.cache_clear()
    found = (code_fingerprint("cvar"), code_fingerprint("rsr_soft"), evaluation_fingerprint())
    code.fingerprint.cache_clear()
    return found


def appended(file: Path, text: str) -> tuple[bool, bool, bool]:
    """Which of the fingerprints a change changes."""
    before = fingerprints()
    file.write_text(file.read_text() + text)
    return tuple(one != other for one, other in zip(before, fingerprints(), strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("file", "text", "changed"),
    [
        ("metrics/ranking.py", "\nCUTOFFS = (5,)\n", (True, True, True)),
        ("metrics/by_group.py", "\nMETRICS = ()\n", (False, False, True)),
        ("objectives/cvar.py", "\nx = 1\n", (True, False, False)),
        ("interactions/sources/synthetic.py", "\nx = 1\n", (False, False, False)),
        ("parameters/blocks.py", "\nx = 1\n", (False, False, False)),
        ("report/page.py", "\nx = 1\n", (False, False, False)),
        ("training/fit.py", "\n# a comment\n\n\n", (False, False, False)),
        ("training/fit.py", '\n"""A text that stands by itself."""\n', (False, False, False)),
        ("training/__init__.py", "\nx = 1\n", (True, True, True)),
    ],
)
def test_a_change_changes_what_depends_on_it(
    copy: Path, file: str, text: str, changed: tuple[bool, bool, bool]
) -> None:
    assert appended(copy / file, text) == changed


def test_a_docstring_decides_nothing(copy: Path) -> None:
    before = fingerprints()
    file = copy / "training" / "schedule.py"
    lines = file.read_text().splitlines()
    assert lines[0].startswith('"""')
    lines[0] = '"""Another."""' if lines[0].endswith('"""') else '"""Another.'
    file.write_text("\n".join(lines))
    assert fingerprints() == before


def test_a_new_folder_is_seen_when_it_is_imported(copy: Path) -> None:
    before = fingerprints()
    (copy / "models" / "heads").mkdir()
    (copy / "models" / "heads" / "__init__.py").write_text("")
    (copy / "models" / "heads" / "wide.py").write_text("WIDTH = 1\n")
    assert fingerprints() == before
    file = copy / "training" / "step.py"
    file.write_text(file.read_text() + "\nfrom fairrec_pipeline.models.heads import wide\n")
    imported = fingerprints()
    assert imported[0] != before[0]
    (copy / "models" / "heads" / "wide.py").write_text("WIDTH = 2\n")
    assert fingerprints()[0] != imported[0]
