"""Object storage: what is whole, what is seen, who may know the credentials; on a server on loopback."""

from __future__ import annotations

import dataclasses
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import pytest
from kedro.io import DatasetError, Version

from fairrec_pipeline import storage
from fairrec_pipeline.arms.store import ArmStore, DamagedArmError
from fairrec_pipeline.catalog.files import Folder, IbisParquet
from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.interactions.engine import engine
from fairrec_pipeline.storage import Place
from fairrec_pipeline.training.checkpoint import Checkpoint, Snapshot
from tests.catalog.cases import CASES, Case, newer, plain
from tests.projects import assert_same, run_pipeline, store
from tests.scale.conftest import SECRET, Bucket
from tests.worlds import saved_record as record

spawn = multiprocessing.get_context("spawn")


def dataset(case: Case, bucket: Bucket, save: str | None = None, load: str | None = None) -> Any:
    version = Version(load, save) if save or load else None
    return case[0](filepath=f"{bucket.root}/{case[1]}", credentials=bucket.credentials, version=version)


@pytest.mark.parametrize("case", CASES)
def test_every_dataset_and_its_versions(case: Case, bucket: Bucket, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert not dataset(case, bucket).exists()
    dataset(case, bucket, save="2026-01-01").save(case[2])
    dataset(case, bucket, save="2026-01-02").save(newer(case[2]))
    assert plain(dataset(case, bucket, save="2026-01-03").load()) == plain(newer(case[2]))
    assert plain(dataset(case, bucket, load="2026-01-01").load()) == plain(case[2])
    with pytest.raises(DatasetError, match="must not exist if versioning is enabled"):
        dataset(case, bucket, save="2026-01-01").save(newer(case[2]))
    assert bucket.objects() == [f"{case[1]}/2026-01-0{n}/{case[1]}" for n in (1, 2)]
    assert list(tmp_path.iterdir()) == []
    assert SECRET not in str(dataset(case, bucket)) + repr(dataset(case, bucket))


@pytest.mark.parametrize("case", CASES)
def test_a_failing_save_leaves_no_version(case: Case, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset(case, bucket, save="2026-01-01").save(case[2])

    def fail(self: Any, data: Any, path: Path) -> None:
        path.write_bytes(b"half")
        message = "no"
        raise RuntimeError(message)

    monkeypatch.setattr(case[0], "_write", fail)
    with pytest.raises(DatasetError):
        dataset(case, bucket, save="2026-01-02").save(case[2])
    assert bucket.objects() == [f"{case[1]}/2026-01-01/{case[1]}"]


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_file_is_named(case: Case, bucket: Bucket) -> None:
    dataset(case, bucket).save(case[2])
    storage.write_whole(bucket.place(case[1]), lambda path: path.write_bytes(b"\xff nonsense") and None)
    with pytest.raises(DatasetError, match=rf"{case[1]} cannot be read \(.*Delete .*{case[1]} and run the pipeline"):
        dataset(case, bucket).load()


def test_tables_are_read_in_their_order_without_an_extension_of_duckdb(bucket: Bucket) -> None:
    many = pd.DataFrame({"user_id": range(300_000, 0, -1)})
    table = IbisParquet(filepath=f"{bucket.root}/a.parquet", credentials=bucket.credentials)
    table.save(many)
    assert table.load().to_pandas().equals(many)
    other = ibis.memtable(pd.DataFrame({"user_id": [1, 2, 10**9]}))
    assert len(table.load().join(other, "user_id").to_pandas()) == 2
    extensions = engine().con.execute(
        "SELECT loaded, installed FROM duckdb_extensions() WHERE extension_name = 'httpfs'"
    )
    assert extensions.fetchall() in ([], [(False, False)])


def test_other_credentials_take_the_place_of_the_former(make_bucket: Callable[[], Bucket]) -> None:
    """A notebook that is told new credentials; a role that gets new ones every hour."""
    for n in range(3):
        fresh = make_bucket()
        renewed = dataclasses.replace(fresh, credentials={**fresh.credentials, "key": f"key-{n}"})
        table = IbisParquet(filepath=f"{renewed.root}/a.parquet", credentials=renewed.credentials)
        table.save(pd.DataFrame({"n": [n]}))
        assert table.load().to_pandas()["n"].tolist() == [n]


def _save_version(bucket: Bucket, version: str, level: float) -> None:
    store = dataclasses.replace(bucket.store(), version=version)
    store.save(record(level=level))
    dataset(CASES[3], bucket, save=version).save({"n": level})


def test_what_another_process_has_written_is_seen(bucket: Bucket) -> None:
    """Although s3fs remembers listings."""
    _save_version(bucket, "2026-01-01", 0.1)
    reader = dataset(CASES[3], bucket, save="2026-01-09")
    assert reader.load() == {"n": 0.1}
    assert [each.card["version"] for each in bucket.store().records()] == ["2026-01-01"]
    other = spawn.Process(target=_save_version, args=(bucket, "2026-01-02", 0.2))
    other.start()
    other.join()
    assert other.exitcode == 0
    assert [each.card["version"] for each in bucket.store().records()] == ["2026-01-02"]
    reader.release()
    assert reader.load() == {"n": 0.2}


def _write_often(bucket: Bucket, letter: str) -> None:
    for _ in range(15):
        storage.write_text(bucket.place("shared.txt"), letter * 200_000)


def test_two_writers_of_one_file_leave_one_of_both_whole(bucket: Bucket) -> None:
    storage.write_text(bucket.place("shared.txt"), "c" * 200_000)
    writers = [spawn.Process(target=_write_often, args=(bucket, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        text = storage.read_text(bucket.place("shared.txt"))
        assert len(text) == 200_000
        assert len(set(text)) == 1
        seen.add(text[0])
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert storage.read_text(bucket.place("shared.txt"))[0] in "ab"
    assert bucket.objects() == ["shared.txt"]


def _upload(bucket: Bucket, size: int) -> None:
    storage.write_whole(bucket.place("a.bin"), lambda path: path.write_bytes(b"n" * size) and None)


def test_a_writer_that_is_killed_in_an_upload_leaves_the_old_file(bucket: Bucket) -> None:
    """Several parts: the upload is begun and never completed."""
    import s3fs

    fs = s3fs.S3FileSystem(**bucket.credentials)

    def open_uploads() -> int:
        return len(fs.call_s3("list_multipart_uploads", Bucket=bucket.name).get("Uploads", []))

    storage.write_text(bucket.place("a.bin"), "old")
    writer = spawn.Process(target=_upload, args=(bucket, 160 * 2**20))
    writer.start()
    deadline = time.monotonic() + 600
    while not open_uploads() and writer.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    writer.kill()
    writer.join()
    assert writer.exitcode == -9
    assert open_uploads() == 1, "it was complete before it could be killed"
    assert bucket.objects() == ["a.bin"]
    assert storage.read_text(bucket.place("a.bin")) == "old"
    storage.write_text(bucket.place("a.bin"), "new")
    assert storage.read_text(bucket.place("a.bin")) == "new"


# --- arms


def test_a_record_is_whole_or_not_there(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever object was the last that came through: the card is the last of all."""
    _save_version(bucket, "2026-01-01", 0.1)
    store = dataclasses.replace(bucket.store(), version="2026-01-02")
    written: list[str] = []
    write = storage.write_whole

    def until(allowed: int) -> Callable[..., None]:
        def write_some(path: Place, *arguments: Any, **options: Any) -> None:
            if len(written) == allowed:
                message = "killed"
                raise RuntimeError(message)
            write(path, *arguments, **options)
            written.append(str(path))

        return write_some

    for allowed in range(10):
        written.clear()
        monkeypatch.setattr(storage, "write_whole", until(allowed))
        try:
            store.save(record(level=0.2))
        except RuntimeError:
            (found,) = bucket.store().records()
            assert found.card["version"] == "2026-01-01"
            bucket.store().check(found)
        else:
            break
    assert written[-1].endswith("run_card.json/2026-01-02/run_card.json")
    assert len(written) == 5
    (found,) = bucket.store().records()
    assert found.card["version"] == "2026-01-02"
    bucket.store().check(found)
    with bucket.store().model_folder(found) as folder:
        assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}


def test_a_changed_and_a_missing_part_are_named(bucket: Bucket) -> None:
    _save_version(bucket, "2026-01-01", 0.1)
    (found,) = bucket.store().records()
    path = "07_model_output/synthetic/cvar/seed-0/user_metrics.parquet/2026-01-01/user_metrics.parquet"
    storage.write_text(bucket.place(path), "other")
    with pytest.raises(DamagedArmError, match=f"{bucket.root}/{path} was changed after it was written"):
        _ = found.user_metrics
    import s3fs

    s3fs.S3FileSystem(**bucket.credentials).rm_file(f"{bucket.root}/{path}")
    with pytest.raises(DamagedArmError, match=f"{bucket.root}/{path} is missing"):
        bucket.store().check(bucket.store().records()[0])


def test_the_store_and_its_places_do_not_show_credentials(bucket: Bucket) -> None:
    store: ArmStore = bucket.store()
    assert SECRET not in f"{store} {store!r} {store.checkpoint('a')!r} {Checkpoint(store.checkpoint('a'))!r}"
    assert store.checkpoint("a").options["secret"] == SECRET


def test_a_checkpoint_comes_back(bucket: Bucket) -> None:
    import torch

    checkpoint = Checkpoint(bucket.place("trials/a.safetensors"), {"seed": 1})
    assert checkpoint.load() is None
    checkpoint.save(Snapshot({"x": torch.arange(3.0)}, {"epoch": 2}))
    found = checkpoint.load()
    assert found is not None
    assert found.description == {"epoch": 2}
    assert torch.equal(found.tensors["x"], torch.arange(3.0))
    assert Checkpoint(bucket.place("trials/a.safetensors"), {"seed": 2}).load() is None
    beside = checkpoint.beside("teacher", {})
    beside.save(Snapshot({}, {}))
    assert bucket.objects() == ["trials/a.safetensors", "trials/teacher.safetensors"]


# --- raw files


def test_raw_files_are_fetched_once_and_again_when_they_change(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = Folder(f"{bucket.root}/01_raw/shop", credentials=bucket.credentials)
    assert list(folder.load().iterdir()) == []
    assert folder.load().name == "shop"
    for name in ("log/1.csv", "log/2.csv"):
        storage.write_text(bucket.place(f"01_raw/shop/{name}"), "old")
    local = folder.load()
    assert {path.name: path.read_text() for path in local.rglob("*.csv")} == {"1.csv": "old", "2.csv": "old"}
    before = (local / "log/2.csv").stat().st_mtime_ns
    (local / "downloaded.zip").write_text("by a source")
    storage.write_text(bucket.place("01_raw/shop/log/1.csv"), "newer")
    import s3fs

    folder.load()
    assert (local / "log/1.csv").read_text() == "newer"
    assert (local / "log/2.csv").stat().st_mtime_ns == before
    s3fs.S3FileSystem(**bucket.credentials).rm_file(f"{bucket.root}/01_raw/shop/log/2.csv")
    folder.load()
    assert sorted(path.name for path in local.rglob("*") if path.is_file()) == ["1.csv", "downloaded.zip"]


# --- the whole pipeline


def run_default(project: Path, bucket: Bucket, **runtime: Any) -> None:

    run_pipeline(project, "__default__", data_root=bucket.root, **runtime)


def without_versions(paths: Iterable[str]) -> list[str]:
    """Names of files, ascending; those of the trials end in a hash of all that decides a training."""
    return sorted("/".join(part for part in path.split("/") if not part.startswith("20")) for path in paths)


def local_files(project: Path) -> list[str]:
    found = (path for path in (project / "data").rglob("*") if path.is_file())
    return sorted(str(path.relative_to(project)) for path in found if path.suffix != ".lock")


def test_the_default_pipeline(
    project: Path, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """All of it in the bucket, the same to the bit as on the local disk, and the secret nowhere."""
    from tests.conftest import copy_project

    bucket.write_credentials(project)
    caplog.set_level("DEBUG")
    run_default(project, bucket)
    assert local_files(project) == []
    local = copy_project(tmp_path_factory.mktemp("local"))
    run_pipeline(local, "__default__")
    assert_same(bucket.store().records(), store(local).records())
    csv = "08_reporting/synthetic/comparison.csv"
    assert storage.read_text(bucket.place(csv)) == (local / "data" / csv).read_text()
    here = [path for path in (local / "data").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert without_versions(bucket.objects()) == without_versions(
        path.relative_to(local / "data").as_posix() for path in here
    )
    # nobody tells the secret: no object, no log, no file of MLflow
    for key in bucket.objects():
        with storage.as_local(bucket.place(key)) as copy:
            assert SECRET.encode() not in copy.read_bytes(), key
    written = [path for path in project.rglob("*") if path.is_file() and path.name != "credentials.yml"]
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in caplog.text


def start(project: Path, bucket: Bucket) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kedro", "run", "--env=test", "--params", f"data_root={bucket.root}"]
    return subprocess.Popen(command, cwd=project, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_killed_and_resumed_it_ends_as_if_it_had_not_been(
    project: Path, make_bucket: Callable[[], Bucket], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.conftest import copy_project

    killed, whole = make_bucket(), make_bucket()
    killed.write_credentials(project)
    for n_arms in (0, 3):  # while data are prepared, and when arms are saved
        with start(project, killed) as process:
            deadline = time.monotonic() + 600
            marker = "run_card.json/" if n_arms else "core_interactions.parquet"
            while sum(marker in key for key in killed.objects()) < max(1, n_arms) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert process.poll() is None, process.communicate()[0]
            process.kill()
        assert process.returncode == -9
    saved = {each.arm: each.card["version"] for each in killed.store().records()}
    assert 3 <= len(saved) < 8
    with start(project, killed) as process:
        output = process.communicate()[0]
    assert process.returncode == 0, output
    assert SECRET not in output
    other = copy_project(tmp_path_factory.mktemp("whole"))
    whole.write_credentials(other)
    run_default(other, whole)
    assert_same(killed.store().records(), whole.store().records())
    again = {each.arm: each.card["version"] for each in killed.store().records()}
    assert {arm: version for arm, version in again.items() if arm in saved} == saved, "what was complete is kept"
    csv = "08_reporting/synthetic/comparison.csv"
    assert storage.read_text(killed.place(csv)) == storage.read_text(whole.place(csv))


def test_a_store_that_cannot_be_reached_is_one_message(project: Path, bucket: Bucket) -> None:
    bucket.write_credentials(project)
    missing = dataclasses.replace(bucket, name="there-is-none")
    with pytest.raises(OptionError, match=rf"data_root={missing.root} cannot be written to \(.*Check the address") as e:
        run_default(project, missing)
    assert SECRET not in str(e.value)
    away = {**bucket.credentials, "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    dataclasses.replace(bucket, credentials=away).write_credentials(project)
    with pytest.raises(OptionError, match=r"cannot be written to \(.*127\.0\.0\.1:9") as e:
        run_default(project, bucket)
    assert SECRET not in str(e.value)
    assert local_files(project) == []
