"""Files of items and of histories: read as they are meant, or refused with file, cause and next step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import pytest

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.engine import engine
from fairrec_pipeline.interactions.histories import stream_histories
from fairrec_pipeline.interactions.sources.lists import read_histories, read_items


def written(folder: Path, name: str, content: str | pd.DataFrame) -> str:
    if isinstance(content, str):
        (folder / name).write_text(content)
    else:
        content.to_parquet(folder / name)
    return name


@pytest.mark.parametrize(
    ("name", "content", "integers", "texts"),
    [
        ("items.txt", "7\n\n 10 \n7\n", [7, 10], ["10", "7"]),
        ("items", "\ufeff7", [7], ["7"]),
        ("items.csv", "name,item_id\na,10\nb,7\n", [7, 10], ["10", "7"]),
        ("items.tsv", "item_id\tname\n10\ta\n", [10], ["10"]),
        ("items.parquet", pd.DataFrame({"item_id": [10, 7]}), [7, 10], ["10", "7"]),
        ("items.parquet", pd.DataFrame({"item_id": [10.0, None]}), [10], ["10"]),
    ],
)
def test_items(tmp_path: Path, name: str, content: Any, integers: list[int], texts: list[str]) -> None:
    written(tmp_path, name, content)
    assert read_items(tmp_path, name, int) == integers
    assert read_items(tmp_path, name, str) == texts


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("items.txt", " \n", r"items\.txt names no item\. Write one id a line"),
        ("items.txt", "7\nA1\n", r"items\.txt has item ids such as 'A1', and those of the model are whole numbers"),
        ("items.csv", "item\n7\n", r"items\.csv has no column item_id; its columns are item"),
    ],
)
def test_items_that_are_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    written(tmp_path, name, content)
    with pytest.raises(DataError, match=said):
        read_items(tmp_path, name, int)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"items\.txt does not exist\. Put the file there"):
        read_items(tmp_path, "items.txt", int)


def test_histories_in_the_order_of_time_or_of_rows(tmp_path: Path) -> None:
    written(tmp_path, "a.csv", "user_id,item_id,timestamp\nben,3,20\nanna,1,5\nben,2,10\ncleo,,\nben,2,30\n")
    expected = [("anna", [1]), ("ben", [2, 3, 2]), ("cleo", [])]
    assert list(read_histories(tmp_path, "a.csv", int)) == expected
    frame = pd.DataFrame({"user_id": [2, 1, 2], "item_id": ["b", None, "a"]})
    written(tmp_path, "b.parquet", frame)
    assert list(read_histories(tmp_path, "b.parquet", str)) == [(1, []), (2, ["b", "a"])]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("user_id,item_id\n", r"users\.csv has no rows"),
        ("user_id,item_id\n,3\n", r"users\.csv has 1 rows without a user among its 1 rows"),
        ("user_id,item_id,timestamp\n1,3,soon\n1,4,2020-01-01\n", r"1 rows whose time cannot be read among its 2"),
        ("user_id,item_id\n1,x\n", r"item ids such as 'x'"),
        ("user,item\n1,3\n", r"has no column user_id, item_id; its columns are user, item\. Write the file with the"),
    ],
)
def test_histories_that_are_refused(tmp_path: Path, content: str, said: str) -> None:
    written(tmp_path, "users.csv", content)
    with pytest.raises(DataError, match=said):
        read_histories(tmp_path, "users.csv", int)


def test_users_stay_together_across_batches(tmp_path: Path) -> None:
    """More rows than are read at once."""
    users = [user for user in range(40_000) for _ in range(7)]
    written(tmp_path, "log.parquet", pd.DataFrame({"user_id": users, "item_id": range(len(users))}))
    table = engine().read_parquet(str(tmp_path / "log.parquet"))
    for number, (user, items) in enumerate(stream_histories(table)):
        assert (user, items) == (number, list(range(7 * number, 7 * number + 7)))
    assert number == 39_999


def test_users_that_do_not_ascend_are_refused() -> None:
    table = ibis.memtable(pd.DataFrame({"user_id": [1, 2, 1], "item_id": [5, 6, 7]}))
    with pytest.raises(DataError, match="1 follows 2"):
        list(stream_histories(table))
