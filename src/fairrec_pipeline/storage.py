"""Files that are whole or absent, on this machine and on any file system that fsspec knows.

A file is written under another name (or elsewhere) and gets its place when it is complete: who reads sees the old file
or the new one, also after kill -9. What a killed process left half written is removed by the next write beside it.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

_PARTIAL = ".partial"


def write_whole(path: str | Path, write: Callable[[Path], None]) -> None:
    """Have a file at `path`, whole or not at all; folders are made.

    Args:
        path: local, or with a protocol such as `s3://`.
        write: writes a new local file.
    """
    fs, target = _located(path)
    if not isinstance(fs, LocalFileSystem):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, target.rpartition("/")[2])
            write(local)
            fs.makedirs(fs._parent(target), exist_ok=True)
            fs.pipe_file(target, local.read_bytes())  # one upload: there when it is complete
        return
    final = Path(target)
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(final)
    partial = final.with_name(f".{final.name}.{socket.gethostname()}.{os.getpid()}{_PARTIAL}")
    try:
        write(partial)
        _sync(partial)
        partial.replace(final)
        _sync(final.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        with suppress(OSError):  # other files may lie there
            final.parent.rmdir()
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_whole(path, lambda local: _write_text(local, text))


@contextmanager
def as_local(path: str | Path) -> Iterator[Path]:
    """The file on this machine: itself, or a copy for as long as the context lasts.

    Raises:
        FileNotFoundError: there is none.
    """
    fs, source = _located(path)
    if isinstance(fs, LocalFileSystem):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, source.rpartition("/")[2])
        local.write_bytes(fs.cat_file(source))
        yield local


def read_text(path: str | Path) -> str:
    """UTF-8 text of a file.

    Raises:
        FileNotFoundError: there is none.
    """
    with as_local(path) as local:
        return local.read_text(encoding="utf-8")


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder."""
    fs, place = _located(path)
    return bool(fs.exists(place))


def find(folder: str | Path, pattern: str) -> list[str]:
    """Paths below a folder that match a glob pattern, ascending; with the protocol, if they have one."""
    fs, place = _located(folder)
    return sorted(str(fs.unstrip_protocol(name)) if _has_protocol(folder) else name for name in _glob(fs, place, pattern))


def sha256(path: str | Path) -> str:
    """SHA-256 of the content of a file."""
    with as_local(path) as local, local.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _located(path: str | Path) -> tuple[Any, str]:
    fs, place = url_to_fs(str(path))
    return fs, place


def _has_protocol(path: str | Path) -> bool:
    return "://" in str(path)


def _glob(fs: Any, folder: str, pattern: str) -> list[str]:
    if isinstance(fs, LocalFileSystem):  # pathlib knows what a name with brackets is
        return [str(path) for path in Path(folder).glob(pattern)]
    found: list[str] = fs.glob(f"{folder.rstrip('/')}/{pattern}")
    return found


def _remove_left_over(final: Path) -> None:
    """Remove what processes of this machine that have ended left of a file of that name, here or in another version."""
    host = socket.gethostname()
    name = f".{final.name}.{host}."
    for left in [*final.parent.iterdir(), *final.parent.parent.glob(f"*/.*{_PARTIAL}")]:
        if not (left.name.startswith(name) and left.name.endswith(_PARTIAL)):
            continue
        owner = left.name.removeprefix(name).removesuffix(_PARTIAL)
        if owner.isdecimal() and not _alive(int(owner)):
            left.unlink(missing_ok=True)
            if left.parent != final.parent:
                with suppress(OSError):
                    left.parent.rmdir()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    """Have a file or the entries of a folder on disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
