"""A file is whole or not there, whatever happens to who writes it."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fairrec_pipeline import storage


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "a") if request.param == "local" else "memory://bucket/a"


def test_round_trip(folder: str) -> None:
    path = f"{folder}/b/text.md"
    assert not storage.exists(path)
    with pytest.raises(FileNotFoundError):
        storage.read_text(path)
    storage.write_text(path, "é")
    storage.write_text(path, "ü\n")
    assert storage.exists(path)
    assert storage.read_text(path) == "ü\n"
    assert storage.sha256(path) == hashlib.sha256("ü\n".encode()).hexdigest()
    with storage.as_local(path) as local:
        assert local.read_bytes() == "ü\n".encode()
    storage.write_text(f"{folder}/c.md", "")
    found = storage.find(folder, "**/*.md")
    assert sorted(name.rpartition("/")[2] for name in found) == ["c.md", "text.md"]
    assert all(storage.read_text(name) in ("", "ü\n") for name in found)


def test_two_threads_write_the_same_file(folder: str) -> None:
    """Each whole, one after the other: neither works on the half-written file of the other."""
    both_write = threading.Barrier(2, timeout=10)

    def write(text: str) -> None:
        def slowly(path: Path) -> None:
            path.write_text(text)
            both_write.wait()

        storage.write_whole(f"{folder}/a.md", slowly)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, ["one", "two"])) == [None, None]
    assert storage.read_text(f"{folder}/a.md") in ("one", "two")
    assert len(storage.find(folder, "*")) == 1


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(folder: str, error: BaseException) -> None:
    storage.write_text(f"{folder}/a.md", "old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise error

    for name in ("a.md", "b/c.md"):
        with pytest.raises(type(error)):
            storage.write_whole(f"{folder}/{name}", fail)
    assert storage.read_text(f"{folder}/a.md") == "old"
    assert len([name for name in storage.find(folder, "**/*") if "." in name.rpartition("/")[2]]) == 1


class Failing(MemoryFileSystem):
    """Breaks in the middle of an upload, as a network does."""

    protocol = "failing"
    cachable = False

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        super().put_file(lpath, rpath, **options)
        self.store[rpath].truncate(2)
        message = "connection reset"
        raise OSError(message)


def test_an_upload_that_breaks_leaves_the_old_file() -> None:
    storage.write_text("memory://bucket/a.md", "old")
    broken = Failing()
    with pytest.raises(OSError, match="connection reset"):
        storage.write_whole("/bucket/a.md", lambda path: path.write_text("new") and None, file_system=broken)
    assert storage.read_text("memory://bucket/a.md") == "old"
    assert list(broken.store) == ["/bucket/a.md"]


WRITER = """
import sys, time
from fairrec_pipeline.storage import write_whole
def slowly(path):
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
write_whole(sys.argv[1], slowly)
"""


def kill_while_writing(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)


def test_what_a_killed_writer_leaves_is_removed_by_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    storage.write_text(path, "old")
    kill_while_writing(path)
    assert path.read_text() == "old"
    assert [name.endswith(".partial") for name in files(tmp_path)] == [True, False]
    storage.write_text(path, "new")
    assert files(tmp_path) == ["a.json"]
    assert path.read_text() == "new"


def test_a_half_folder_of_a_killed_writer_is_removed_by_the_next_write(tmp_path: Path) -> None:
    """A table of Spark is a folder of parts."""
    half = tmp_path / f".a.parquet.{socket.gethostname()}.999999999-1.partial"
    half.mkdir()
    (half / "part-0.parquet").write_text("half")
    storage.write_text(tmp_path / "a.parquet", "new")
    assert files(tmp_path) == ["a.parquet"]


def test_a_half_version_of_a_killed_writer_is_removed_by_the_next_version(tmp_path: Path) -> None:
    kill_while_writing(tmp_path / "a.json" / "2026-01-01" / "a.json")
    (tmp_path / "b.json" / "2026-01-01").mkdir(parents=True)
    storage.write_text(tmp_path / "a.json" / "2026-01-02" / "a.json", "new")
    assert sorted(path.name for path in (tmp_path / "a.json").iterdir()) == ["2026-01-02"]
    assert (tmp_path / "b.json" / "2026-01-01").exists()


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_a_file_that_is_being_written_is_left_alone(protocol: str, tmp_path: Path) -> None:
    fs = fsspec.filesystem(protocol)
    folder = f"{tmp_path}/x"
    fs.makedirs(folder, exist_ok=True)
    alive, elsewhere, other = (
        f"{folder}/.a.md.{socket.gethostname()}.{os.getppid()}.partial",
        f"{folder}/.a.md.another-machine.1.partial",
        f"{folder}/.b.md.{socket.gethostname()}.999999999.partial",
    )
    dead = f"{folder}/.a.md.{socket.gethostname()}.999999999.partial"
    for name in (alive, elsewhere, other, dead):
        fs.pipe_file(name, b"half")
    storage.write_whole(f"{folder}/a.md", lambda path: path.write_text("") and None, file_system=fs)
    assert sorted(fs.ls(folder, detail=False)) == sorted([alive, elsewhere, other, f"{folder}/a.md"])


def test_a_half_file_of_another_machine_is_removed_after_a_day(tmp_path: Path) -> None:
    left = tmp_path / ".a.md.another-machine.1.partial"
    left.write_text("half")
    yesterday = time.time() - 90_000
    os.utime(left, (yesterday, yesterday))
    storage.write_text(tmp_path / "a.md", "")
    assert files(tmp_path) == ["a.md"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        ValueError("IO Error: Could not write: No space left on device"),
    ],
)
def test_a_full_disk_names_the_file(error: Exception, tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        path.write_text("half")
        raise error

    path = tmp_path / "new" / "a.parquet"
    with pytest.raises(OSError, match=rf"no space left .* nothing was written.*{path}"):
        storage.write_whole(path, fill)
    assert list(tmp_path.iterdir()) == []
