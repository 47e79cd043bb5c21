"""The size of things, and who may import whom: what a linter does not look at."""

from __future__ import annotations

import re
from pathlib import Path

import fairrec_pipeline

LONGEST = 350


def test_no_module_is_long() -> None:
    package = Path(fairrec_pipeline.__file__).parent
    lengths = {file: len(file.read_text().splitlines()) for file in package.rglob("*.py")}
    assert len(lengths) > 100
    assert {str(file.relative_to(package)): n for file, n in lengths.items() if n > LONGEST} == {}


def test_no_test_module_is_imported_by_another() -> None:
    """What several need lies in worlds.py, projects.py or a conftest.py."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    assert len(files) > 100
    imports = re.compile(r"^\s*(?:from|import) tests\.(?:\w+\.)*test_\w+", re.MULTILINE)
    assert [str(file) for file in files if imports.search(file.read_text())] == []
