"""Fingerprints of the code behind a result: what a module imports of this package, without comments and docstrings."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

COMMIT = "FAIRREC_COMMIT"
_PACKAGE = Path(__file__).parents[1]
_PARSING = threading.Lock()
"""Python 3.11 takes the depth of two threads that parse for that of one, and may fail: python/cpython#106905."""


def code_fingerprint(loss: str) -> str:
    """SHA-256 of the code that a training of a loss of `METHODS` runs: a checkpoint of other code is not continued."""
    from fairrec_pipeline.parameters.methods import METHODS  # needs pydantic

    method = METHODS[loss]
    objective, trainer = (path.partition(":")[0] for path in (method.objective, method.trainer))
    return fingerprint(f"objectives.{objective}", trainer, "training.loss_groups")


def evaluation_fingerprint() -> str:
    """SHA-256 of the code that turns a model into metrics: metrics of other code are made again."""
    return fingerprint("metrics.ranking", "metrics.by_group", "metrics.item_side", "training.scoring")


@cache
def commit() -> str:
    """Commit of the repository around this package, with `-dirty` if files differ; empty outside of a repository.

    Where the package is a copy, the environment variable FAIRREC_COMMIT says of what.
    """
    if COMMIT in os.environ:
        return os.environ[COMMIT]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(command, cwd=_PACKAGE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


@cache
def fingerprint(*modules: str) -> str:
    """SHA-256 of the code of some modules of this package, such as `training.fit`, and of all that they import."""
    digest = hashlib.sha256()
    for file in imported_files(_PACKAGE, *modules):
        digest.update(f"{file.relative_to(_PACKAGE).as_posix()}\0{_meaning(file)}\0".encode())
    return digest.hexdigest()


def imported_files(package: Path, *modules: str) -> list[Path]:
    """Files of a package that some of its modules import, directly or not, themselves included; ascending.

    The `parameters` are left out: names and bounds decide nothing, and the values are part of every identity.
    """
    found: set[Path] = set()
    waiting = list(modules)
    while waiting:
        for file in _files_of(package, waiting.pop()):
            if file not in found:
                found.add(file)
                waiting += _imports(file, package.name)
    return sorted(found)


def _files_of(package: Path, module: str) -> list[Path]:
    """The file of a module and those of the packages around it; none for a name that is no module."""
    parts = module.split(".")
    if parts[0] == "parameters":
        return []
    files = [package.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    files.append(package.joinpath(*parts).with_suffix(".py"))
    return [file for file in files if file.is_file()]


def _imports(file: Path, package: str) -> Iterator[str]:
    """Names within the package that a file imports, wherever in it but for types only; some are of functions."""
    tree = _parsed(file)
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}."))


def _parsed(file: Path) -> ast.Module:
    with _PARSING:
        return ast.parse(file.read_bytes())


def _meaning(file: Path) -> str:
    """The code of a file without comments, layout and docstrings."""
    return ast.dump(_WithoutTexts().visit(_parsed(file)))


class _WithoutTexts(ast.NodeTransformer):
    """Takes out strings that stand by themselves: docstrings, and the comments on constants."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node
