"""The size of things: a module is read at one sitting."""

from __future__ import annotations

from pathlib import Path

import fairrec_pipeline

LONGEST = 350


def test_no_module_is_long() -> None:
    package = Path(fairrec_pipeline.__file__).parent
    lengths = {file: len(file.read_text().splitlines()) for file in package.rglob("*.py")}
    assert len(lengths) > 100
    assert {str(file.relative_to(package)): n for file, n in lengths.items() if n > LONGEST} == {}
