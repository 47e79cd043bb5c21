"""The store: a record is whole or not there, and what is read is what was written."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
import torch

from fairrec_pipeline.arms.record import PARTS
from fairrec_pipeline.arms.store import ArmStore, DamagedArmError
from tests.worlds import saved_record as record


def store_at(folder: Path | str, version: str = "2026-01-01") -> ArmStore:
    return ArmStore(f"{folder}/models", f"{folder}/outputs", f"{folder}/models/trials", version)


def test_what_is_saved_is_found(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    assert store.records() == []
    assert store.find("cvar", 0) is None
    store.save(record(tuning_runs=[{"point": "alpha=0.3"}]))
    store.save(record("gdro-pop33", 3))
    found = {(each.arm, each.seed): each for each in store.records()}
    assert set(found) == {("cvar", 0), ("gdro-pop33", 3)}
    cvar = found["cvar", 0]
    pd.testing.assert_frame_equal(cvar.user_metrics, record().user_metrics)
    assert cvar.model is not None
    assert torch.equal(cvar.model.weights["weight"], torch.full((2, 3), 0.3))
    assert cvar.model.config == {"backbone": {"dim": 3}}
    assert cvar.tuning_runs == [{"point": "alpha=0.3"}]
    assert cvar.user_weights is None
    assert found["gdro-pop33", 3].tuning_runs is None
    assert cvar.parameters == record().parameters


def test_files_lie_where_users_look_for_them(tmp_path: Path) -> None:
    store_at(tmp_path).save(record())
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == [
        "models/cvar/seed-0/model.safetensors/2026-01-01/config.json",
        "models/cvar/seed-0/model.safetensors/2026-01-01/model.safetensors",
        "outputs/cvar/seed-0/run_card.json/2026-01-01/run_card.json",
        "outputs/cvar/seed-0/training_history.parquet/2026-01-01/training_history.parquet",
        "outputs/cvar/seed-0/user_metrics.parquet/2026-01-01/user_metrics.parquet",
    ]
    assert (tmp_path / files[1]).stat().st_mode & 0o044, "others may serve it"


def test_the_newest_is_found_and_an_older_one_by_its_version(tmp_path: Path) -> None:
    store_at(tmp_path, "2026-01-01").save(record(level=0.1))
    store_at(tmp_path, "2026-01-02").save(record(level=0.2))
    (newest,) = store_at(tmp_path).records()
    assert newest.user_metrics["ndcg_at_20"].mean() == pytest.approx(0.2)
    older = store_at(tmp_path).find("cvar", 0, "2026-01-01")
    assert older is not None
    assert older.user_metrics["ndcg_at_20"].mean() == pytest.approx(0.1)
    assert store_at(tmp_path).find("cvar", 0, "2025-01-01") is None


@pytest.mark.parametrize("part", [name for name in PARTS if name in ("model", "training_history", "user_metrics")])
def test_a_record_that_was_not_finished_is_not_there(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part it stopped at: the one before is still the newest, and no parts of two are mixed."""
    store_at(tmp_path, "2026-01-01").save(record(level=0.1))
    broken = record(level=0.2)

    def stop(name: str) -> Any:
        if name == part:
            message = "killed"
            raise RuntimeError(message)
        return record(level=0.2).open_part(name)

    with pytest.raises(RuntimeError, match="killed"):
        store_at(tmp_path, "2026-01-02").save(dataclasses.replace(broken, open_part=stop))
    (found,) = store_at(tmp_path).records()
    assert found.user_metrics["ndcg_at_20"].mean() == pytest.approx(0.1)
    assert found.model is not None
    assert float(found.model.weights["weight"].mean()) == pytest.approx(0.1)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("file", "part"),
    [("model.safetensors", "model"), ("config.json", "model"), ("user_metrics.parquet", "user_metrics"),
     ("training_history.parquet", "training_history")],
)  # fmt: skip
def test_a_flipped_bit_is_not_used(tmp_path: Path, file: str, part: str) -> None:
    store = store_at(tmp_path)
    store.save(record())
    (path,) = (path for path in tmp_path.rglob(file) if path.is_file())
    flip(path, len(path.read_bytes()) // 2)
    (found,) = store.records()
    with pytest.raises(
        DamagedArmError, match=rf"{path} was changed after it was written.*Train the arm again, or delete"
    ):
        found.open_part(part)
    with pytest.raises(DamagedArmError):
        store.check(found)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.save(record())
    (path,) = (path for path in tmp_path.rglob("user_metrics.parquet") if path.is_file())
    path.unlink()
    (found,) = store.records()
    with pytest.raises(DamagedArmError, match=f"{path} is missing, though the card of the arm names it"):
        _ = found.user_metrics


NEEDED = (
    *("arm", "loss", "loss_groups", "seed", "dataset", "data_fingerprint", "groups_fingerprint", "training"),
    *("parameters", "device", "started", "finished", "seconds", "epochs", "best_epoch", "validation_ndcg_at_20"),
    *("version", "parts"),
)


@pytest.mark.parametrize("value", ["absent", [1], "12"])
@pytest.mark.parametrize("name", NEEDED)
def test_a_card_without_a_value_or_with_another_type_names_itself(tmp_path: Path, name: str, value: Any) -> None:
    store = store_at(tmp_path)
    store.save(record())
    (path,) = tmp_path.rglob("run_card.json/*/run_card.json")
    card = json.loads(path.read_text())
    if value == "12" and isinstance(card[name], str | None) and name != "seed":
        card[name] = 12  # what should be text is a number
    else:
        card[name] = value
    if value == "absent":
        del card[name]
    path.write_text(json.dumps(card))
    with pytest.raises(DamagedArmError, match=rf"{path} is not the card of an arm \({name}: .*Delete {path.parent} or"):
        store.records()


@pytest.mark.parametrize("parts", [5, {"model": "a"}, {"model": {"version": "1"}}])
def test_parts_of_a_card_have_a_version_and_a_hash(tmp_path: Path, parts: Any) -> None:
    store = store_at(tmp_path)
    store.save(record())
    (path,) = tmp_path.rglob("run_card.json/*/run_card.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "parts": parts}))
    with pytest.raises(DamagedArmError, match=rf"{path} is not the card of an arm \(parts.*Delete {path.parent} or"):
        store.records()


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"arm": "cvar"', "", "\x00"])
def test_a_damaged_card_is_named(tmp_path: Path, text: str) -> None:
    store = store_at(tmp_path)
    store.save(record())
    (path,) = (path for path in tmp_path.rglob("run_card.json") if path.is_file())
    path.write_text(text)
    with pytest.raises(DamagedArmError, match=rf"{path} .*Delete {path.parent} or train the arm again"):
        store.records()


def test_what_an_earlier_version_has_left_is_said_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_at(tmp_path)
    store.save(record())
    (path,) = (path for path in tmp_path.rglob("run_card.json") if path.is_file())
    card = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in card.items() if name not in ("format", "parts")}))
    with caplog.at_level(logging.WARNING):
        assert store.records() == []
    assert "written by an earlier version of this project and cannot be read" in caplog.text
    assert "cvar/seed-0" in caplog.text
    assert store.find("cvar", 0) is None


@pytest.mark.parametrize("groups", ["a/b", "a_b", "..", "a*", "über", "x" * 400, "[a]", "a b"])
def test_groups_may_be_called_anything(tmp_path: Path, groups: str) -> None:
    store = store_at(tmp_path)
    store.save(record(f"gdro-{groups}"))
    store.save(record("gdro-a/c"))
    assert {each.arm for each in store.records()} == {f"gdro-{groups}", "gdro-a/c"}
    found = store.find(f"gdro-{groups}", 0)
    assert found is not None
    assert found.loss_groups == groups
    store.check(found)


def test_a_store_may_lie_on_any_file_system() -> None:
    memory = fsspec.filesystem("memory")
    memory.rm("/", recursive=True) if memory.exists("/fairrec") else None
    store = store_at("memory://fairrec/shop")
    store.save(record(tuning_runs=[{"point": "only"}]))
    (found,) = store.records()
    assert found.model is not None
    assert torch.equal(found.model.weights["weight"], torch.full((2, 3), 0.3))
    store.check(found)
    assert memory.exists("/fairrec/shop/outputs/cvar/seed-0/run_card.json/2026-01-01/run_card.json")
    assert not Path("memory:").exists()
    memory.pipe_file("/fairrec/shop/outputs/cvar/seed-0/user_metrics.parquet/2026-01-01/user_metrics.parquet", b"no")
    (found,) = store.records()
    with pytest.raises(DamagedArmError, match="was changed after it was written"):
        _ = found.user_metrics
    memory.rm("/fairrec", recursive=True)  # it is one for the whole process


def test_a_record_can_be_sent_to_another_process(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.save(record())
    (found,) = store.records()
    sent = pickle.loads(pickle.dumps(found))
    pd.testing.assert_frame_equal(sent.user_metrics, found.user_metrics)


KEY = "cvar-seed-0-a"
TRAINED: dict[str, Any] = {
    "arm": "cvar", "loss": "cvar", "loss_groups": None, "seed": 0, "dataset": "shop", "data_fingerprint": "f",
    "groups_fingerprint": None, "training": KEY, "parameters": {"seed": 0}, "device": "cpu x1", "started": "2026",
    "finished": "2026", "seconds": 1.0, "epochs": 3, "best_epoch": 2, "validation_ndcg_at_20": 0.25,
}  # fmt: skip


def test_the_card_of_a_training_needs_its_checkpoint(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    assert store.training(KEY) is None
    store.keep(KEY, TRAINED)
    assert store.training(KEY) is None
    Path(str(store.checkpoint(KEY))).touch()
    assert store.training(KEY) == TRAINED


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[]", "its content: Input should be"),
        ("{}", "arm: Field required"),
        ("null", "its content"),
        ("{", "Expecting property name"),
        ({"training": "cvar-seed-0-b"}, "it is that of cvar-seed-0-b"),
        ({"validation_ndcg_at_20": None}, "validation_ndcg_at_20: Input should be a valid number"),
        ({"validation_ndcg_at_20": "0.25"}, "validation_ndcg_at_20: Input should be a valid number"),
        ({"validation_ndcg_at_20": float("nan")}, "validation_ndcg_at_20: Input should be a finite number"),
        ({"seconds": "1"}, "seconds: Input should be a valid number"),
        ({"epochs": 2.5}, "epochs: Input should be a valid integer"),
        ({"parameters": []}, "parameters: Input should be a valid dictionary"),
    ],
)
def test_a_damaged_card_of_a_training_is_not_used(
    tmp_path: Path, text: str | dict[str, Any], cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checkpoint says the same, so a warning with the file and the cause is enough."""
    store = store_at(tmp_path)
    store.keep(KEY, TRAINED)
    Path(str(store.checkpoint(KEY))).touch()
    path = Path(str(store.checkpoint(KEY))).with_suffix(".json")
    path.write_text(text if isinstance(text, str) else json.dumps(TRAINED | text))
    with caplog.at_level(logging.WARNING):
        assert store.training(KEY) is None
    assert f"{path} is damaged ({cause}" in caplog.text


@pytest.mark.parametrize("name", TRAINED)
def test_a_card_of_a_training_has_every_value(tmp_path: Path, name: str) -> None:
    store = store_at(tmp_path)
    store.keep(KEY, {key: value for key, value in TRAINED.items() if key != name})
    Path(str(store.checkpoint(KEY))).touch()
    assert store.training(KEY) is None
