"""Files that are whole or absent, on this machine and on any file system that fsspec knows.

A file is written under another name in its folder and renamed when it is complete: who reads sees the old file or the
new one, also after kill -9. What a killed process left half written is removed by the next write in that folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

_PARTIAL = ".partial"
_ABANDONED = 86_400  # seconds after which a half-written file of another machine has no writer any more


def write_whole(path: str | Path, write: Callable[[Path], object], *, file_system: Any = None) -> None:
    """Have a file at `path`, whole or not at all; folders are made.

    Args:
        path: local, or with a protocol such as `s3://`; of `file_system`, if one is given.
        write: writes a new local file.
        file_system: of fsspec, with its credentials.

    Raises:
        OSError: the disk is full; names the file.
    """
    fs, target = _located(path, file_system)
    with _named(target):
        if isinstance(fs, LocalFileSystem):
            _write_local(Path(target), write)
        else:
            _write_remote(fs, target, write)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_whole(path, lambda local: local.write_text(text, encoding="utf-8"))


@contextmanager
def as_local(path: str | Path, *, file_system: Any = None) -> Iterator[Path]:
    """The file on this machine: itself, or a copy for as long as the context lasts.

    Raises:
        FileNotFoundError: there is none.
    """
    fs, source = _located(path, file_system)
    if isinstance(fs, LocalFileSystem):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, PurePosixPath(source).name)
        fs.get_file(source, str(local))
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
    fs, target = _located(path)
    return bool(fs.exists(target))


def find(folder: str | Path, pattern: str) -> list[str]:
    """Paths below a folder that match a glob pattern, ascending; with the protocol, if they have one."""
    fs, target = _located(folder)
    if isinstance(fs, LocalFileSystem):  # pathlib knows what a name with brackets is
        return sorted(str(path) for path in Path(target).glob(pattern))
    return sorted(str(fs.unstrip_protocol(name)) for name in fs.glob(f"{target.rstrip('/')}/{pattern}"))


def sha256(path: str | Path) -> str:
    """SHA-256 of the content of a file."""
    with as_local(path) as local, local.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _located(path: str | Path, file_system: Any = None) -> tuple[Any, str]:
    if file_system is not None:
        return file_system, str(path)
    fs, target = url_to_fs(str(path))
    return fs, target


def _write_local(final: Path, write: Callable[[Path], object]) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(LocalFileSystem(), str(final))
    partial = final.with_name(_partial_name(final.name))
    try:
        write(partial)
        _sync(partial)
        partial.replace(final)
        _sync(final.parent)
    except BaseException:
        if partial.is_dir():  # of parts, as Spark writes
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
        with suppress(OSError):  # other files may lie there
            final.parent.rmdir()
        raise


def _write_remote(fs: Any, target: str, write: Callable[[Path], object]) -> None:
    folder = fs._parent(target)
    partial = f"{folder}/{_partial_name(PurePosixPath(target).name)}"
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch, PurePosixPath(target).name)
        write(local)
        fs.makedirs(folder, exist_ok=True)
        _remove_left_over(fs, target)
        try:
            fs.put_file(str(local), partial)
            fs.mv(partial, target)
        except BaseException:
            with suppress(Exception):
                fs.rm_file(partial)
            raise


def _partial_name(name: str) -> str:
    # of a thread: two of one process may write the same file, as two nodes that share a training do
    return f".{name}.{socket.gethostname()}.{os.getpid()}-{threading.get_ident()}{_PARTIAL}"


def _remove_left_over(fs: Any, target: str) -> None:
    """Remove what processes that have ended left of a file of that name, here or in another version of it."""
    folder, name = fs._parent(target), PurePosixPath(target).name
    is_versioned = PurePosixPath(fs._parent(folder)).name == name
    folders = [folder]
    with suppress(OSError):  # another process may remove a folder meanwhile
        if is_versioned:
            folders += [path for path in fs.ls(fs._parent(folder), detail=False) if path.rstrip("/") != folder]
        for entry in [entry for other in folders for entry in fs.ls(other, detail=True)]:
            path = PurePosixPath(entry["name"])
            is_partial = path.name.startswith(f".{name}.") and path.name.endswith(_PARTIAL)
            if is_partial and not _is_being_written(path, entry):
                fs.rm_file(entry["name"])
                if is_versioned and str(path.parent) != folder:
                    with suppress(OSError):
                        fs.rmdir(str(path.parent))


def _is_being_written(path: PurePosixPath, entry: dict[str, Any]) -> bool:
    host, _, writer = path.name.removesuffix(_PARTIAL).rpartition(".")
    process = writer.partition("-")[0]
    if host.endswith(f".{socket.gethostname()}") and process.isdecimal():
        return is_alive(int(process))
    changed: Any = entry.get("mtime", entry.get("LastModified", entry.get("created")))
    seconds = changed.timestamp() if isinstance(changed, datetime) else changed
    return not isinstance(seconds, int | float) or time.time() - seconds < _ABANDONED


def is_alive(process: int) -> bool:
    """Whether this machine runs a process with that id."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


@contextmanager
def _named(target: str) -> Iterator[None]:
    """Say which file a full disk kept from being written; DuckDB and Arrow have errors of their own for that."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            message = "no space left on the device, so nothing was written. Free some and run the same command again"
            raise OSError(errno.ENOSPC, message, target) from error
        raise


def _sync(path: Path) -> None:
    """Have a file or the entries of a folder on disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
