"""Every source on files made here, and every error it can tell."""

from __future__ import annotations

import gzip
import http.server
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import Any

import pandas as pd
import pooch
import pytest
import requests

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.sources import read_source
from fairrec_pipeline.interactions.sources.published import download
from fairrec_pipeline.parameters.datasets import Source

RETAILROCKET = """timestamp,visitorid,event,itemid,transactionid
1433221332117,257597,view,355908,
1433224214164,992329,view,248676,
1433221999827,111016,addtocart,318965,
1433221955914,483717,transaction,253185,7
1433221337106,257597,view,355908,
"""
RATINGS = "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n"
USERS = "1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::15::55117\n"


def read(folder: Path, adapter: str, **block: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    raw = read_source(folder, Source.model_validate({"adapter": adapter, **block}))
    assert all(path.is_relative_to(folder) for path in raw.files)
    assert bool(raw.files) == (adapter != "synthetic")
    events = raw.events.order_by("file_row").to_pandas()
    assert raw.steps[-1].kept == len(events)
    assert list(events.columns) == ["user_id", "item_id", "timestamp", "file_row"]
    return events.drop(columns="file_row"), raw.user_attributes.to_pandas()


def write_zip(path: Path, **members: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), text)


# --- RetailRocket ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["events.csv", "events.csv.gz", "archive.zip"])
def test_retailrocket_keeps_the_views(tmp_path: Path, form: str) -> None:
    if form.endswith(".csv"):
        (tmp_path / form).write_text(RETAILROCKET)
    elif form.endswith(".gz"):
        (tmp_path / form).write_bytes(gzip.compress(RETAILROCKET.encode()))
    else:
        write_zip(tmp_path / "category.zip", tree_csv="a,b\n")
        write_zip(tmp_path / form, retailrocket__events_csv=RETAILROCKET, item_csv="a,b\n")
    events, users = read(tmp_path, "retailrocket")
    expected = [(257597, 355908, 1433221332117), (257597, 355908, 1433221337106), (992329, 248676, 1433224214164)]
    assert sorted(events.itertuples(index=False, name=None)) == expected
    assert (events.dtypes == "int64").all()
    assert users.to_dict("list") == {"user_id": [257597, 992329]}


def test_retailrocket_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for events.csv, events.csv.gz and a .zip .*kaggle"):
        read(tmp_path / "retailrocket", "retailrocket")


def test_retailrocket_without_a_column(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(RETAILROCKET.replace("visitorid", "visitor"))
    with pytest.raises(DataError, match=r"events.csv has no column visitorid; its columns are timestamp, visitor, "):
        read(tmp_path, "retailrocket")


def test_retailrocket_without_views(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(RETAILROCKET.replace(",view,", ",look,"))
    with pytest.raises(DataError, match=r"no event 'view' among its 5 rows, only \['addtocart', 'look', 'transaction"):
        read(tmp_path, "retailrocket")


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "events.csv.gz"
    path.write_bytes(gzip.compress(RETAILROCKET.encode() * 1000)[:-300])
    with pytest.raises(DataError, match=r"events.csv.gz cannot be read: .*damaged"):
        read(tmp_path, "retailrocket")
    path.unlink()
    (tmp_path / "archive.zip").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match=r"archive.zip cannot be read: .*damaged"):
        read(tmp_path, "retailrocket")


# --- MovieLens ------------------------------------------------------------------------------------------------------


def test_movielens_1m(tmp_path: Path) -> None:
    write_zip(tmp_path / "ml-1m.zip", **{"ml-1m__ratings_dat": RATINGS, "ml-1m__users_dat": USERS})
    events, users = read(tmp_path, "movielens-1m")
    assert sorted(events.itertuples(index=False, name=None)) == [
        (1, 661, 978302109), (1, 1193, 978300760), (2, 1193, 978298413),
    ]  # fmt: skip
    # User 3 has attributes but no rating.
    assert users.to_dict("list") == {"user_id": [1, 2], "age": ["under 18", "56+"], "gender": ["female", "male"]}


def test_movielens_100k(tmp_path: Path) -> None:
    ratings = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n7\t302\t3\t891717742\n"
    people = "7|18|X|student|1\n186|24|M|technician|85711\n196|49|F|writer|55105\n"
    write_zip(tmp_path / "ml-100k.zip", **{"ml-100k__u_data": ratings, "ml-100k__u_user": people})
    events, users = read(tmp_path, "movielens-100k")
    assert sorted(events.item_id) == [242, 302, 302]
    assert users.to_dict("list") == {
        "user_id": [7, 186, 196], "age": ["18-24", "18-24", "45-49"], "gender": ["X", "male", "female"],
    }  # fmt: skip


def test_movielens_errors_name_the_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ml-100k.zip does not exist. Download https://files.grouplens.org"):
        read(tmp_path, "movielens-100k")
    write_zip(tmp_path / "ml-1m.zip", movies_dat="1::Toy Story::Animation\n")
    with pytest.raises(DataError, match=r"ml-1m.zip holds no ratings.dat"):
        read(tmp_path, "movielens-1m")
    write_zip(tmp_path / "ml-1m.zip", ratings_dat="", users_dat=USERS)
    with pytest.raises(DataError, match=r"ml-1m.zip/ratings.dat is empty"):
        read(tmp_path, "movielens-1m")
    write_zip(tmp_path / "ml-1m.zip", ratings_dat=RATINGS.replace("978302109", "yesterday"), users_dat=USERS)
    with pytest.raises(DataError, match=r"1 of 3 values in timestamp .*'yesterday'"):
        read(tmp_path, "movielens-1m")


def test_movielens_1m_offline_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(DataError, match=r"could not be downloaded from https://files.*no route.*put it at .*ml-1m.zip"):
        read(tmp_path / "movielens-1m", "movielens-1m")


@pytest.mark.parametrize(("adapter", "name"), [("movielens-100k", "ml-100k.zip"), ("retailrocket", "events.csv")])
def test_a_folder_in_the_place_of_the_file(tmp_path: Path, adapter: str, name: str) -> None:
    """As some programs unpack an archive; to say that it does not exist would be no help."""
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=rf"{name} is a folder. Put the file itself there"):
        read(tmp_path, adapter)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_download_checks_the_sum(tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder, url = server
    (folder / "a.zip").write_bytes(b"content")
    target = tmp_path / "raw" / "a.zip"
    with pytest.raises(DataError, match=r"raw/a.zip does not exist and could not be downloaded"):
        download(f"{url}/a.zip", "0" * 32, target)
    assert not target.exists()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/a.zip does not exist and could not be downloaded"):
        download(f"{url}/a.zip", "0" * 32, tmp_path / "file" / "a.zip")
    download(f"{url}/a.zip", md5(b"content").hexdigest(), target)
    assert target.read_bytes() == b"content"


# --- own tables -----------------------------------------------------------------------------------------------------

COLUMNS = {"user": "who", "item": "what", "timestamp": "when"}


def read_table(folder: Path, name: str = "log.csv", **block: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    return read(folder, "table", interactions=name, **COLUMNS, **block)


def write_table(folder: Path, name: str = "log.csv", **columns: list[Any]) -> None:
    frame = pd.DataFrame({"who": [1, 2], "what": [5, 6], "when": [10, 20], **columns})
    if name.endswith(".parquet"):
        frame.to_parquet(folder / name)
    else:
        frame.to_csv(folder / name, index=False, sep="\t" if ".tsv" in name else ",")


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.tsv", "log.parquet"])
def test_table_formats(tmp_path: Path, name: str) -> None:
    write_table(tmp_path, name)
    events, users = read_table(tmp_path, name)
    assert sorted(events.itertuples(index=False, name=None)) == [(1, 5, 10), (2, 6, 20)]
    assert (events.dtypes == "int64").all()
    assert users.to_dict("list") == {"user_id": [1, 2]}


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_ids_stay_numbers_only_where_that_loses_nothing(tmp_path: Path, name: str) -> None:
    write_table(tmp_path, name, who=["7", "007"], what=["12", "-3"])
    events, _ = read_table(tmp_path, name)
    assert sorted(events.user_id) == ["007", "7"]
    assert events.item_id.dtype == "int64"


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (["2020-01-01 00:00:01", "2020-01-01T00:00:01.5Z"], [1577836801000000, 1577836801500000]),
        (["2020-01-01T02:00:00+02:00", "2020-01-02"], [1577836800000000, 1577923200000000]),
        (["1577836800", "1577836800.25"], [1577836800000000, 1577836800250000]),
        ([1577836800.0, 1577836801.0], [1577836800, 1577836801]),
        ([1577836800123456789, 1577836800123456790], [1577836800123456789, 1577836800123456790]),
        (list(pd.to_datetime(["2020-01-01", "2020-01-02"])), [1577836800000000, 1577923200000000]),
        (list(pd.to_datetime(["2020-01-01", "2020-01-02"], utc=True)), [1577836800000000, 1577923200000000]),
        (list(pd.to_datetime(["2020-01-01", "2020-01-02"]).date), [1577836800000000, 1577923200000000]),
    ],
)
def test_timestamps(tmp_path: Path, name: str, when: list[Any], expected: list[int]) -> None:
    write_table(tmp_path, name, when=when)
    events, _ = read_table(tmp_path, name)
    assert events.timestamp.dtype == "int64"
    assert sorted(events.timestamp) == expected


def test_user_attributes(tmp_path: Path) -> None:
    write_table(tmp_path)
    users = {"who": [2, 9, 1], "plan": ["free", "paid", None], "score": [None, "3", "4"], "x": [0, 0, 0]}
    pd.DataFrame(users).to_parquet(tmp_path / "users.parquet")
    _, read = read_table(tmp_path, users="users.parquet", user_attributes=["plan", "score"])
    expected = {"user_id": [1, 2], "plan": ["unknown", "free"], "score": ["4", "unknown"]}
    assert read.to_dict("list") == expected


def test_user_attributes_of_string_ids(tmp_path: Path) -> None:
    write_table(tmp_path, who=["a", "1"])
    (tmp_path / "users.csv").write_text("who,plan\n1,free\n2, \n")
    _, users = read_table(tmp_path, users="users.csv", user_attributes=["plan"])
    assert users.to_dict("list") == {"user_id": ["1", "a"], "plan": ["free", "unknown"]}


def test_two_rows_of_attributes_for_a_user(tmp_path: Path) -> None:
    write_table(tmp_path)
    (tmp_path / "users.csv").write_text("who,plan\n1,free\n1,paid\n")
    with pytest.raises(DataError, match=r"users.csv has more than one row for 1 users: '1'. Keep one row"):
        read_table(tmp_path, users="users.csv", user_attributes=["plan"])


def test_attributes_need_a_file() -> None:
    with pytest.raises(ValueError, match=r"user_attributes \['plan'\] are columns of the file `users`"):
        Source.model_validate({"adapter": "table", "interactions": "a.csv", **COLUMNS, "user_attributes": ["plan"]})


def test_missing_files_and_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log.csv does not exist. Put the file there"):
        read_table(tmp_path)
    (tmp_path / "log.xlsx").touch()
    with pytest.raises(
        DataError, match=r"log.xlsx has a suffix .* Allowed: .csv, .csv.gz, .tsv, .tsv.gz, and .parquet"
    ):
        read_table(tmp_path, "log.xlsx")
    write_table(tmp_path)
    with pytest.raises(DataError, match=r"users.csv does not exist"):
        read_table(tmp_path, users="users.csv", user_attributes=["age"])
    (tmp_path / "users.csv").write_text("who,plan\n")
    with pytest.raises(DataError, match=r"users.csv has no column age; its columns are who, plan. Set user and"):
        read_table(tmp_path, users="users.csv", user_attributes=["age"])
    (tmp_path / "log.csv").write_text("user,what,when\n1,2,3\n")
    with pytest.raises(DataError, match=rf"log.csv has no column who; .* Set .* of datasets.{tmp_path.name} to"):
        read_table(tmp_path)


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
@pytest.mark.parametrize("column", ["who", "what", "when"])
def test_nulls(tmp_path: Path, name: str, column: str) -> None:
    write_table(tmp_path, name, **{column: [None, "2020-01-01" if column == "when" else "a"]})
    with pytest.raises(DataError, match=rf"null or blank values in {column} \(1\) among its 2 rows"):
        read_table(tmp_path, name)


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
@pytest.mark.parametrize("bad", ["soon", "nan", "inf", "31/12/2020"])
def test_unreadable_timestamps(tmp_path: Path, name: str, bad: str) -> None:
    write_table(tmp_path, name, when=["12", bad])
    with pytest.raises(DataError, match=rf"1 of 2 values in when .*: '{bad}'. Allowed: all numbers, or all ISO dates"):
        read_table(tmp_path, name)


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_an_empty_log(tmp_path: Path, name: str) -> None:
    write_table(tmp_path, name, who=[], what=[], when=[])
    with pytest.raises(DataError, match=rf"{name} is empty: it has columns but no rows"):
        read_table(tmp_path, name)
    (tmp_path / "log.csv").write_text("")
    with pytest.raises(DataError, match=r"log.csv is empty"):
        read_table(tmp_path)


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    write_table(tmp_path, "log.parquet")
    whole = (tmp_path / "log.parquet").read_bytes()
    (tmp_path / "log.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"log.parquet cannot be read: .*damaged"):
        read_table(tmp_path, "log.parquet")


def test_a_csv_with_a_torn_row(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who,what,when\n" + "1,2,3\n" * 30_000 + '1,"2')
    with pytest.raises(DataError, match=r"log.csv cannot be read"):
        read_table(tmp_path)


# --- synthetic ------------------------------------------------------------------------------------------------------


def test_synthetic_needs_no_folder(tmp_path: Path) -> None:
    events, users = read(tmp_path / "absent", "synthetic", n_users=20, n_items=30, seed=0)
    assert events.user_id.nunique() == len(users) == 20
    assert list(users.columns) == ["user_id", "segment"]
