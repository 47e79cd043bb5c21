"""Arrays that are made once, kept whole, and only used with the groups and statistics that belong to them."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pandas as pd
import pytest

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.histories import Histories, evaluation_histories, training_histories
from fairrec_pipeline.interactions.prepared import PreparedHistories, combined_fingerprint, prepare_data
from fairrec_pipeline.interactions.statistics import dataset_statistics, fingerprint
from tests.worlds import interactions, user_groups


def saved(histories: PreparedHistories, path: Path) -> PreparedHistories:
    with path.open("wb") as file:
        histories.save(file)
    return PreparedHistories.load(path)


def assert_equal(ours: Histories, expected: Histories) -> None:
    for field in fields(Histories):
        left, right = getattr(ours, field.name), getattr(expected, field.name)
        assert (left is None) == (right is None), field.name
        if left is not None:
            assert left.dtype == right.dtype, field.name
            np.testing.assert_array_equal(left, right)


TEXTS = ["", "naïve", "日本", "a\x00", "é" * 3000]


@pytest.mark.parametrize("ids", ["numbers", "texts"])
def test_the_arrays_come_back_as_they_are_made(ids: str, tmp_path: Path) -> None:
    rows = interactions()
    if ids == "texts":
        names = [TEXTS[n] if n < len(TEXTS) else f"i{n}" for n in range(25)]
        rows = rows.assign(user_id="u" + rows.user_id.astype(str), item_id=[names[item] for item in rows.item_id])
    train = training_histories(rows)
    again = saved(PreparedHistories.of(rows), tmp_path / "histories.npz")
    assert_equal(again.train, train)
    assert_equal(again.validation, evaluation_histories(rows, train.catalogue, "validation"))
    assert_equal(again.test, evaluation_histories(rows, train.catalogue, "test"))
    assert again.fingerprint == fingerprint(rows)
    with zipfile.ZipFile(tmp_path / "histories.npz") as archive:
        assert sum(info.file_size for info in archive.infolist()) < 60_000


@pytest.mark.parametrize("ids", ["numbers", "texts"])
def test_the_arrays_of_a_stream_are_those_of_a_table(ids: str, monkeypatch: pytest.MonkeyPatch) -> None:
    once = interactions()
    rows = pd.concat([once.assign(user_id=once.user_id + 100 * n) for n in range(12)], ignore_index=True)
    if ids == "texts":
        rows = rows.assign(user_id="u" + rows.user_id.astype(str).str.zfill(4), item_id="i" + rows.item_id.astype(str))
    monkeypatch.setattr("fairrec_pipeline.interactions.prepared._ROWS_AT_ONCE", 2048)  # which cuts users
    ours, expected = PreparedHistories.read(ibis.memtable(rows)), PreparedHistories.of(rows.sample(frac=1))
    assert ours.fingerprint == expected.fingerprint == fingerprint(rows)
    for part in ("train", "validation", "test"):
        assert_equal(getattr(ours, part), getattr(expected, part))


def test_a_stream_in_another_order_is_refused() -> None:
    rows = interactions()
    for other in (rows[::-1], rows.iloc[[*range(8, -1, -1), *range(9, len(rows))]]):
        with pytest.raises(DataError, match="not in the order of users and positions"):
            PreparedHistories.read(ibis.memtable(other.reset_index(drop=True)))


def test_the_arrays_are_mapped_and_numpy_reads_them_too(tmp_path: Path) -> None:
    path = tmp_path / "histories.npz"
    made = PreparedHistories.of(interactions())
    mapped = saved(made, path)
    for array in (mapped.train.items, mapped.test.offsets, mapped.validation.repeats, mapped.train.catalogue):
        assert isinstance(array.base, np.memmap)
        assert type(array) is np.ndarray  # a copy in another process is no map
        assert array.flags.aligned
        assert array.ctypes.data % 64 == 0
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["train.items"], made.train.items)
    # what is assigned stays in memory, and another process gets the values
    mapped.train.items[0] += 1
    assert_equal(PreparedHistories.load(path).train, made.train)
    assert_equal(pickle.loads(pickle.dumps(mapped.test)), made.test)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "histories.npz"
    saved(PreparedHistories.of(interactions()), path)
    whole = path.read_bytes()
    for damaged in (whole[:-200], whole[:3000] + b"\x01" + whole[3001:], b"nothing"):
        path.write_bytes(damaged)
        with pytest.raises(zipfile.BadZipFile):
            PreparedHistories.load(path)
    np.savez(path, **{"train.items": np.array(["objects are pointers"], dtype=object)})
    with pytest.raises(zipfile.BadZipFile, match=r"train\.items\.npy is of another format"):
        PreparedHistories.load(path)
    np.savez(path, a=np.arange(3))
    with pytest.raises(zipfile.BadZipFile, match="does not hold prepared histories"):
        PreparedHistories.load(path)


def statistics_of(rows: pd.DataFrame, groups: pd.DataFrame) -> dict[str, Any]:
    found = dataset_statistics(ibis.memtable(rows), groups, fingerprint(rows))
    return {"dataset": "shop", **found, "prepared_with": {"split": {"core": 5}}}


def test_prepared_data_hold_what_belongs_together() -> None:
    rows, groups = interactions(), user_groups(plan="free")
    data = prepare_data(PreparedHistories.of(rows), groups, statistics_of(rows, groups), "shop")
    assert data.dataset == "shop"
    assert data.fingerprint == fingerprint(rows)
    assert data.split == {"core": 5}
    assert_equal(data.test, evaluation_histories(rows, data.train.catalogue, "test"))
    assert set(data.group_fingerprints) == {"pop33", "seq33", "plan"}
    assert data.groups_fingerprint("plan") == data.group_fingerprints["plan"]
    assert data.groups_fingerprint(None) is None
    assert data.groups_fingerprint("atomic") == combined_fingerprint(data.group_fingerprints, "atomic") is not None


@pytest.mark.parametrize(
    ("dataset", "change", "said"),
    [
        ("other", {}, "not the prepared data of other: dataset_statistics describes data of shop; run: "),
        ("shop", {"rows": {"item_id": {3: 4}}}, "describes data of shop that differ in interactions; run: kedro run"),
        ("shop", {"groups": {"plan": {"free": "paid"}}}, "of shop that differ in plan; run"),
    ],
)
def test_what_does_not_belong_together_is_refused(dataset: str, change: dict[str, Any], said: str) -> None:
    rows, groups = interactions(), user_groups(plan="free")
    statistics = statistics_of(rows, groups)
    rows, groups = rows.replace(change.get("rows", {})), groups.replace(change.get("groups", {}))
    with pytest.raises(ValueError, match=said):
        prepare_data(PreparedHistories.of(rows), groups, statistics, dataset)


def test_a_missing_or_further_attribute_is_another_preparation() -> None:
    rows, groups = interactions(), user_groups(plan="free")
    histories = PreparedHistories.of(rows)
    for other in (user_groups(), user_groups(plan="free", age="56+")):
        with pytest.raises(ValueError, match="not the prepared data of shop"):
            prepare_data(histories, other, statistics_of(rows, groups), "shop")
