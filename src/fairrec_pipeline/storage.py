"""Files that are whole or absent, on this machine and on any file system that fsspec knows.

A file is written under another name in its folder and renamed when it is complete: who reads sees the old file or the
new one, also after kill -9. What a killed process left half written is removed by the next write in that folder. An
object store knows no rename, and needs none: an object is there when its upload is complete, or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import posixpath
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from fairrec_pipeline.errors import OptionError

_PARTIAL = ".partial"
_ABANDONED = 86_400  # seconds after which a half-written file of another machine has no writer any more
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
"""Protocols whose `put_file` is one act: the object is replaced when all of it has arrived."""


@dataclass(frozen=True)
class Place:
    """A file or folder, and what its file system needs to be reached.

    Attributes:
        path: local, or with a protocol such as `s3://`.
        options: of the file system, such as credentials and endpoint; never shown. A pickle has them.
    """

    path: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.path}/{name}", self.options)

    def __str__(self) -> str:
        return self.path

    @property
    def parent(self) -> Place:
        return Place(posixpath.dirname(self.path), self.options)


Where = str | Path | Place


def write_whole(path: Where, write: Callable[[Path], object], *, file_system: Any = None) -> None:
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


def write_text(path: Where, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_whole(path, lambda local: local.write_text(text, encoding="utf-8"))


@contextmanager
def as_local(path: Where, *, file_system: Any = None) -> Iterator[Path]:
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


def require_writable(folder: Place) -> None:
    """Make sure that files can be written below a folder of another file system.

    Raises:
        OptionError: they cannot: it does not exist, does not answer, or does not let us.
    """
    probe = folder / f".reached-by-{socket.gethostname()}-{os.getpid()}"
    try:
        write_text(probe, "")
        fs, target = _located(probe)
        fs.rm_file(target)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise OptionError(
            f"data_root={folder} cannot be written to ({type(error).__name__}: {reason}). Check the address, and what "
            "conf/local/credentials.yml says under data_root: docs/scale.md"
        ) from error


def mirror(folder: Where) -> Path:
    """The folder on this machine: itself, or a copy of all files below it that is brought up to date.

    A copy lies in the user's cache and stays. A file is fetched when its size or time has changed, and removed when it
    is gone from where it came from; what others put into the copy is left alone.
    """
    if "://" not in str(folder):
        return Path(str(folder))
    fs, source = _located(folder)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    copy = cache / "fairrec_pipeline" / hashlib.sha256(str(folder).encode()).hexdigest()[:16] / Path(source).name
    copy.mkdir(parents=True, exist_ok=True)
    listing = copy.with_name("fetched.json")
    with FileLock(copy.with_name(".lock")):
        known: dict[str, list[Any]] = json.loads(read_text(listing)) if listing.exists() else {}
        found = fs.find(source, detail=True)
        wanted = {PurePosixPath(path).relative_to(source).as_posix(): entry for path, entry in found.items()}
        for name, entry in wanted.items():
            state = [entry["size"], _changed(entry)]
            if known.get(name) != state or not (copy / name).exists():
                write_whole(copy / name, partial(_fetch, fs, entry["name"]))
                known[name] = state
        for name in known.keys() - wanted.keys():
            (copy / name).unlink(missing_ok=True)
            del known[name]
        write_text(listing, json.dumps(known))
    return copy


def _fetch(fs: Any, source: str, local: Path) -> None:
    fs.get_file(source, str(local))


def read_text(path: Where) -> str:
    """UTF-8 text of a file.

    Raises:
        FileNotFoundError: there is none.
    """
    with as_local(path) as local:
        return local.read_text(encoding="utf-8")


def exists(path: Where) -> bool:
    """Whether there is a file or folder."""
    fs, target = _located(path)
    return bool(fs.exists(target))


def find(folder: Where, pattern: str) -> list[str]:
    """Paths below a folder that match a glob pattern, ascending; with the protocol, if they have one."""
    fs, target = _located(folder)
    if isinstance(fs, LocalFileSystem):  # pathlib knows what a name with brackets is
        return sorted(str(path) for path in Path(target).glob(pattern))
    return sorted(str(fs.unstrip_protocol(name)) for name in fs.glob(f"{target.rstrip('/')}/{pattern}"))


def sha256(path: Where) -> str:
    """SHA-256 of the content of a file."""
    with as_local(path) as local, local.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _located(path: Where, file_system: Any = None) -> tuple[Any, str]:
    if file_system is not None:
        return file_system, str(path)
    fs, target = url_to_fs(str(path), **(path.options if isinstance(path, Place) else {}))
    fs.invalidate_cache()  # of listings: another process may have written meanwhile
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
        if is_object_store(fs):
            fs.put_file(str(local), target)
            return
        fs.makedirs(folder, exist_ok=True)
        _remove_left_over(fs, target)
        try:
            fs.put_file(str(local), partial)
            fs.mv(partial, target)
        except BaseException:
            with suppress(Exception):
                fs.rm_file(partial)
            raise


def is_object_store(fs: Any) -> bool:
    """Whether a file of a file system is an object that one upload makes or replaces."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return not _OBJECT_STORES.isdisjoint(protocols)


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
                fs.rm(entry["name"], recursive=True)  # Spark writes a folder
                if is_versioned and str(path.parent) != folder:
                    with suppress(OSError):
                        fs.rmdir(str(path.parent))


def _is_being_written(path: PurePosixPath, entry: dict[str, Any]) -> bool:
    host, _, writer = path.name.removesuffix(_PARTIAL).rpartition(".")
    process = writer.partition("-")[0]
    if host.endswith(f".{socket.gethostname()}") and process.isdecimal():
        return is_alive(int(process))
    changed = _changed(entry)
    return changed is None or time.time() - changed < _ABANDONED


def _changed(entry: Mapping[str, Any]) -> float | None:
    """When a file of a listing was last changed, in seconds since 1970; None where its file system does not say."""
    changed: Any = entry.get("mtime", entry.get("LastModified", entry.get("created")))
    seconds = changed.timestamp() if isinstance(changed, datetime) else changed
    return float(seconds) if isinstance(seconds, int | float) else None


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
