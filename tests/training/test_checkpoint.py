"""Checkpoints: whole, verified bit by bit, and clear about what is wrong."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fairrec_pipeline.training.checkpoint import Checkpoint, CheckpointError, Snapshot, sections

SNAPSHOT = Snapshot(
    sections(
        weights={"float": torch.randn(3, 4), "half": torch.randn(5).bfloat16(), "scalar": torch.tensor(2.0)},
        state={"empty": torch.zeros(0, 3), "flags": torch.tensor([True, False]), "counts": torch.arange(7)},
    ),
    {"progress": {"epoch": 3, "history": [{"loss": 0.1}]}},
)
IDENTITY = {"seed": 1, "parameters": {"alpha": 0.3}}
NEXT_STEP = r"a\.safetensors is damaged, or is none of this version \(.*\)\. Delete it"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint of SNAPSHOT."""
    Checkpoint(tmp_path / "a.safetensors", IDENTITY).save(SNAPSHOT)
    return tmp_path / "a.safetensors"


def test_what_was_saved_is_loaded(path: Path) -> None:
    loaded = Checkpoint(path, IDENTITY).load()
    assert loaded is not None
    assert loaded.description == SNAPSHOT.description
    torch.testing.assert_close(dict(loaded.tensors), dict(SNAPSHOT.tensors), rtol=0, atol=0)
    assert loaded.section("weights").keys() == {"float", "half", "scalar"}
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_a_section_has_to_have_the_wanted_names() -> None:
    assert SNAPSHOT.section("state", ["empty", "flags", "counts"]).keys() == {"empty", "flags", "counts"}
    with pytest.raises(ValueError, match=r"section 'state' has other names: \['counts', 'more'\]"):
        SNAPSHOT.section("state", ["empty", "flags", "more"])


def test_nothing_there_and_another_identity(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fairrec_pipeline")
    assert Checkpoint(path.with_name("b.safetensors"), IDENTITY).load() is None
    assert caplog.messages == []
    assert Checkpoint(path, {**IDENTITY, "seed": 2}).load() is None
    assert caplog.messages == [f"Of another training, so it is not continued: {path}"]


@pytest.mark.parametrize("folder", ["/a/b", "s3://bucket/trials", "relative"])
def test_beside(folder: str) -> None:
    other = Checkpoint(f"{folder}/arm.safetensors", IDENTITY).beside("teacher-0", {"teacher": 0})
    assert (str(other.path), other.identity) == (f"{folder}/teacher-0.safetensors", {"teacher": 0})


def test_elsewhere_than_on_this_machine() -> None:
    checkpoint = Checkpoint("memory://test_checkpoint/arm.safetensors", IDENTITY)
    assert checkpoint.load() is None
    checkpoint.save(SNAPSHOT)
    loaded = checkpoint.load()
    assert loaded is not None
    assert loaded.description == SNAPSHOT.description


def test_every_flipped_bit_is_refused(path: Path) -> None:
    """One bit in each byte of the file: in its header, names, shapes, description, checksum and numbers."""
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=NEXT_STEP):
            Checkpoint(path, IDENTITY).load()


@pytest.mark.parametrize("length", [0, 4, 8, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(path: Path, length: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(length if length > 1 else length * len(content))])
    with pytest.raises(CheckpointError, match=NEXT_STEP):
        Checkpoint(path, IDENTITY).load()


@pytest.mark.parametrize(
    "description", [None, "", "{", "[]", "null", "{}", '{"description": {}}', '{"identity": {}}', "7"]
)
def test_another_description_is_refused(path: Path, description: str | None) -> None:
    """Also with the checksum that belongs to it, as another program could have written it."""
    from fairrec_pipeline.training.checkpoint import _sha256

    tensors = {"x": torch.ones(2)}
    metadata = None
    if description is not None:
        metadata = {"description": description, "sha256": _sha256(tensors, description)}
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=NEXT_STEP):
        Checkpoint(path, IDENTITY).load()


def test_a_checkpoint_without_a_checksum_is_refused(path: Path) -> None:
    """As the versions before this one wrote it."""
    save_file({"x": torch.ones(2)}, path, metadata={"description": json.dumps({"progress": {}, "training": IDENTITY})})
    with pytest.raises(CheckpointError, match=NEXT_STEP):
        Checkpoint(path, IDENTITY).load()


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=NEXT_STEP):
        Checkpoint(tmp_path / "a.safetensors", IDENTITY).load()


FULL_DISK = """
import resource, sys, torch
from fairrec_pipeline.training.checkpoint import Checkpoint, Snapshot
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    Checkpoint(sys.argv[1], {}).save(Snapshot({"x": torch.ones(100_000)}, {}))
except OSError as error:
    print(error)
"""


def test_a_full_disk_is_named_and_what_was_there_stays(path: Path) -> None:
    """No file may have more than 20,000 bytes."""
    before = path.read_bytes()
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.startswith(f"the checkpoint {path} cannot be written (")
    assert "Make room there" in printed
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]
