"""The data pipeline from the raw files to what training loads."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner, ThreadRunner

from fairrec_pipeline.comparison.paper.table1 import table1
from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.histories import evaluation_histories, training_histories
from fairrec_pipeline.interactions.preparation import prepared_with, why_prepare
from fairrec_pipeline.interactions.prepared import prepare_data
from fairrec_pipeline.interactions.statistics import fingerprint
from fairrec_pipeline.parameters.blocks import Groups, Split
from fairrec_pipeline.parameters.datasets import Source
from fairrec_pipeline.pipelines.data.pipeline import create_pipeline

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
RETAILROCKET = SHARED / "retailrocket" / "events.csv.gz"
MOVIELENS = SHARED / "movielens-1m" / "ml-1m.zip"
GROUPS = Groups.model_validate(yaml.safe_load((ROOT / "conf/base/parameters.yml").read_text())["groups"])
SPLIT = Split(kind="leave_one_out", train_share=0.9, core=5, validation_users=0.5, seed=42, ties="item")
SYNTHETIC = {"adapter": "synthetic", "n_users": 200, "n_items": 60, "seed": 1}

# METHODS: groups. Percent of the users of RetailRocket, low to high.
PUBLISHED_SHARES = {
    "pop33": {"niche": 40.18, "diverse": 15.59, "popular": 44.23},
    "pop2060": {"niche": 27.41, "diverse": 44.91, "popular": 27.69},
    "pop1080": {"niche": 14.57, "diverse": 70.42, "popular": 15.02},
    "seq33": {"short": 74.54, "medium": 22.95, "long": 2.53},
    "seq2060": {"short": 55.17, "medium": 44.41, "long": 0.43},
    "seq1080": {"short": 33.77, "medium": 66.14, "long": 0.09},
}


def catalog(folder: Path, dataset: str, source: dict[str, Any], split: Split = SPLIT, **options: Any) -> DataCatalog:
    """The entries of conf/base/catalog_data.yml, below another folder."""
    text = (ROOT / "conf/base/catalog_data.yml").read_text()
    values = {
        "_dataset": dataset,
        "_root": f"{folder}/data",
        "globals:engine": "{backend: duckdb, database: ':memory:'}",
    }
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", value)
    entries = {name: entry for name, entry in yaml.safe_load(text).items() if not name.startswith("_")}
    made = DataCatalog.from_config(entries, credentials={"data_root": {}}, **options)
    parameters = {"dataset": dataset, "source": Source.model_validate(source), "split": split, "groups": GROUPS}
    for name, value in parameters.items():
        made[f"params:{name}"] = MemoryDataset(value)
    return made


def run(made: DataCatalog) -> None:
    SequentialRunner().run(create_pipeline(), made)


def test_every_step_is_kept_and_described(tmp_path: Path) -> None:
    run(catalog(tmp_path, "synthetic", SYNTHETIC))
    later = catalog(tmp_path, "synthetic", SYNTHETIC)
    interactions = later.load("interactions").to_pandas()
    user_groups = later.load("user_groups").to_pandas()
    statistics = later.load("dataset_statistics")

    assert list(interactions.columns) == ["user_id", "item_id", "timestamp", "position", "role"]
    ordered = interactions.sort_values(["user_id", "position"], ignore_index=True)
    pd.testing.assert_frame_equal(interactions, ordered)
    assert (interactions.groupby("user_id").role.last() == "test").all()
    assert user_groups.user_id.tolist() == sorted(interactions.user_id.unique())
    assert list(user_groups.columns) == [
        "user_id", "train_length", "popularity_ratio", *GROUPS.splits, "segment",
    ]  # fmt: skip
    train_length = interactions[interactions.role == "train"].groupby("user_id").size()
    assert user_groups.train_length.tolist() == train_length.tolist()

    assert statistics["dataset"] == "synthetic"
    assert statistics["n_users"] == len(user_groups)
    assert statistics["n_train"] + statistics["n_validation"] + statistics["n_test"] == len(interactions)
    assert statistics["n_validation"] == round(0.5 * len(user_groups))
    assert set(statistics["group_shares"]) == {*GROUPS.splits, "segment"}
    for shares in statistics["group_shares"].values():
        assert sum(share["users"] for share in shares.values()) == pytest.approx(100)
    expected = prepared_with("synthetic", Source.model_validate(SYNTHETIC), SPLIT, GROUPS)
    assert statistics["prepared_with"] == {**expected, "raw_files": {}}

    histories = later.load("histories")
    assert histories.fingerprint == statistics["fingerprint"] == fingerprint(interactions)
    train = training_histories(interactions)
    test = evaluation_histories(interactions, train.catalogue, "test")
    np.testing.assert_array_equal(histories.train.items, train.items)
    np.testing.assert_array_equal(histories.test.targets, test.targets)
    assert histories.validation.n_users == statistics["n_validation"]
    data = prepare_data(histories, user_groups, statistics, "synthetic")
    assert data.split == SPLIT.model_dump()


def test_threads_prepare_the_same_data(tmp_path: Path) -> None:
    run(catalog(tmp_path / "a", "synthetic", SYNTHETIC))
    for n, runner in enumerate((ThreadRunner(), SequentialRunner(is_async=True))):
        made = catalog(tmp_path / str(n), "synthetic", SYNTHETIC)
        runner.run(create_pipeline(), made)
        expected = catalog(tmp_path / "a", "synthetic", SYNTHETIC).load("dataset_statistics")
        assert made.load("dataset_statistics") == expected


@pytest.mark.parametrize("node", ["filter_core", "make_arrays"])
def test_data_of_another_split_are_not_gone_on_with(tmp_path: Path, node: str) -> None:
    run(catalog(tmp_path, "synthetic", SYNTHETIC))
    other = catalog(tmp_path, "synthetic", SYNTHETIC, SPLIT.model_copy(update={"seed": 43}))
    with pytest.raises(DataError, match=r"ingested with split=.*'seed': 42.*'seed': 43.*from its first node, ingest"):
        SequentialRunner().run(create_pipeline().from_nodes(node), other)


def test_what_was_read_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "data/01_raw/mine"
    folder.mkdir(parents=True)
    rows = [(user, item, item) for user in range(12) for item in range(6)]
    pd.DataFrame(rows, columns=["user", "item", "time"]).to_csv(folder / "log.csv", index=False)
    source = {"adapter": "table", "interactions": "log.csv", "user": "user", "item": "item", "timestamp": "time"}
    made = catalog(tmp_path, "mine", source)
    run(made)
    described = made.load("dataset_statistics")["prepared_with"]
    wanted = prepared_with("mine", Source.model_validate(source), SPLIT, GROUPS)
    assert why_prepare(described, wanted, folder) is None
    (folder / "log.csv").write_text("user,item,time\n")
    assert why_prepare(described, wanted, folder) == f"were prepared from another log.csv than the one in {folder}"


def test_same_parameters_same_data(tmp_path: Path) -> None:
    prints = []
    for folder in ("a", "b"):
        made = catalog(tmp_path / folder, "synthetic", SYNTHETIC)
        run(made)
        prints.append(made.load("dataset_statistics")["fingerprint"])
    other = catalog(tmp_path / "c", "synthetic", SYNTHETIC, SPLIT.model_copy(update={"seed": 43}))
    run(other)
    assert prints[0] == prints[1] != other.load("dataset_statistics")["fingerprint"]


def test_bad_raw_data_leave_no_artifact(tmp_path: Path) -> None:
    folder = tmp_path / "data/01_raw/mine"
    folder.mkdir(parents=True)
    (folder / "log.csv").write_text("user,item,time\n1,2,now\n")
    source = {"adapter": "table", "interactions": "log.csv", "user": "user", "item": "item", "timestamp": "time"}
    with pytest.raises(DataError, match="'now'"):
        run(catalog(tmp_path, "mine", source))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["01_raw"]


def test_own_data_with_string_ids_and_attributes(tmp_path: Path) -> None:
    folder = tmp_path / "data/01_raw/mine"
    folder.mkdir(parents=True)
    rows = [(f"u{user}", f"i{item}", f"2024-01-{1 + item:02d}") for user in range(12) for item in range(6)]
    pd.DataFrame(rows, columns=["user", "item", "time"]).to_parquet(folder / "log.parquet")
    pd.DataFrame({"user": [f"u{n}" for n in range(11)], "plan": ["free"] * 11}).to_csv(folder / "u.csv", index=False)
    source = {
        "adapter": "table", "interactions": "log.parquet", "user": "user", "item": "item", "timestamp": "time",
        "users": "u.csv", "user_attributes": ["plan"],
    }  # fmt: skip
    made = catalog(tmp_path, "mine", source)
    run(made)
    assert made.load("user_groups").to_pandas().plan.value_counts().to_dict() == {"free": 11, "unknown": 1}
    assert made.load("interactions").to_pandas().query("user_id == 'u3'").item_id.tolist() == [
        f"i{n}" for n in range(6)
    ]


def test_a_temporal_split_goes_through_every_step(tmp_path: Path) -> None:
    """Schemas, groups, histories and statistics of users without a target, and the same roles as times say."""
    temporal = SPLIT.model_copy(update={"kind": "temporal", "train_share": 0.7, "core": 2})
    made = catalog(tmp_path, "synthetic", SYNTHETIC, temporal)
    run(made)
    interactions, histories = made.load("interactions").to_pandas(), made.load("histories")
    by_role = interactions.groupby("role")["timestamp"]
    assert by_role.max()["train"] < by_role.min()["test"]
    statistics, groups = made.load("dataset_statistics"), made.load("user_groups").to_pandas()
    assert 0 < statistics["n_validation"] < statistics["n_test"] < statistics["n_users"] == len(groups)
    assert histories.test.n_users == statistics["n_test"]
    assert histories.train.n_users == statistics["n_users"]
    assert "later than a target" in statistics["steps"][-1]["why"]


@pytest.mark.skipif(not RETAILROCKET.exists(), reason=f"the real RetailRocket log is not at {RETAILROCKET}")
def test_real_retailrocket_is_the_published_one(tmp_path: Path) -> None:
    folder = tmp_path / "data/01_raw/retailrocket"
    folder.mkdir(parents=True)
    shutil.copyfile(RETAILROCKET, folder / RETAILROCKET.name)
    split = Split(kind="leave_one_out", train_share=0.9, core=5, validation_users=10_000, seed=42, ties="item")
    made = catalog(tmp_path, "retailrocket", {"adapter": "retailrocket"}, split)
    run(made)
    statistics = made.load("dataset_statistics")
    counts = [statistics[f"n_{name}"] for name in ("users", "items", "interactions", "train", "validation", "test")]
    assert counts == [22_178, 17_803, 364_943, 332_765, 10_000, 22_178]
    for name, published in PUBLISHED_SHARES.items():
        found = {group: share["users"] for group, share in statistics["group_shares"][name].items()}
        assert found == pytest.approx(published, abs=0.05), name


@pytest.mark.skipif(not MOVIELENS.exists(), reason=f"MovieLens-1M is not at {MOVIELENS}")
def test_real_movielens_1m_is_the_published_one(tmp_path: Path) -> None:
    """Table 1 of the paper: counts, and shares of the groups that are printed as whole percent."""
    folder = tmp_path / "data/01_raw/movielens-1m"
    folder.mkdir(parents=True)
    shutil.copyfile(MOVIELENS, folder / MOVIELENS.name)
    split = Split(kind="leave_one_out", train_share=0.9, core=5, validation_users=1.0, seed=42, ties="item")
    made = catalog(tmp_path, "movielens-1m", {"adapter": "movielens-1m"}, split)
    run(made)
    published = table1(made.load("dataset_statistics"), "movielens-1m").dropna(subset="published")
    assert len(published) == 39
    assert published["difference"].abs().max() < 1


# --- logs of users --------------------------------------------------------------------------------------------------

OWN = {"adapter": "table", "interactions": "log.csv", "user": "user", "item": "item", "timestamp": "time"}
SMALL = SPLIT.model_copy(update={"core": 2})


def own_log(folder: Path, text: str | bytes, users: pd.DataFrame | None = None) -> None:
    raw = folder / "data/01_raw/mine"
    raw.mkdir(parents=True)
    (raw / "log.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    if users is not None:
        users.to_csv(raw / "users.csv", index=False)


def log_of(rows: list[tuple[Any, ...]]) -> str:
    return "user,item,time\n" + "".join(f"{user},{item},{time}\n" for user, item, time in rows)


ROWS = [(user, (user + step) % 9, step) for user in range(20) for step in range(6)]


@pytest.mark.parametrize(
    ("text", "block", "said"),
    [
        (log_of([(f"{u:03d}", i, t) for u, i, t in ROWS]), {"users": "users.csv", "user_attributes": ["plan"]},
         r"users\.csv has a row for none of the 20 users .* such as '0', '1', '10', those of the log such as '000'"),
        (log_of(ROWS) + "1,2,3,extra\n", {}, r"log\.csv cannot be read: .*Line: 122; Original Line: 1,2,3,extra; Exp"),
        ((log_of(ROWS) + "1,café,9\n").encode("latin-1"), {}, r"log\.csv has another encoding .*encoding: latin-1"),
        (log_of(ROWS), {"where": {"item": [77]}}, r"where: {item: \[77\]} keeps none of the 120 rows of .*log\.csv"),
    ],
    ids=["attributes of nobody", "ragged", "encoding", "filter"],
)  # fmt: skip
def test_what_is_refused_leaves_nothing(text: str | bytes, block: dict[str, Any], said: str, tmp_path: Path) -> None:
    own_log(tmp_path, text, pd.DataFrame({"user": range(20), "plan": "free"}))
    with pytest.raises(DataError, match=said):
        run(catalog(tmp_path, "mine", {**OWN, **block}, SMALL))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["01_raw"]


def test_many_attributes_and_odd_names(tmp_path: Path) -> None:
    names = ["a/b", "ü 1", *(f"a{n:02d}" for n in range(19))]
    users = pd.DataFrame({"user": range(20), **{name: ["x/y", "x_y"] * 10 for name in names}})
    own_log(tmp_path, log_of(ROWS), users)
    made = catalog(tmp_path, "mine", {**OWN, "users": "users.csv", "user_attributes": names}, SMALL)
    run(made)
    statistics = made.load("dataset_statistics")
    assert statistics["matched_users"] == 1.0
    assert set(statistics["group_fingerprints"]) == {*GROUPS.splits, *names}
    assert statistics["group_shares"]["a/b"]["x/y"]["users"] == 50


def test_ties_that_decide_and_targets_that_nobody_has_seen_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(user, item, 5) for user in range(20) for item in range(5)]
    rows += [(user, 100 + user // 2, 9) for user in range(20)]  # two users have it, both as their last
    own_log(tmp_path, log_of(rows))
    targets = {}
    for ties in ("item", "file", "random"):
        made = catalog(tmp_path, "mine", OWN, SMALL.model_copy(update={"ties": ties}))
        run(made)
        targets[ties] = made.load("histories").validation.targets.tolist()
        assert made.load("dataset_statistics")["targets"] == {
            "validation": {"n": 10, "tied": 10, "unseen": 0, "repeated": 0},
            "test": {"n": 20, "tied": 0, "unseen": 20, "repeated": 0},
        }
    assert targets["item"] == targets["file"] != targets["random"]
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any(
        "100.0% of the validation targets share their time" in line and "split.ties=item" in line for line in said
    )
    assert any("100.0% of the test targets (20 of 20) are in nobody's training" in line for line in said)


def test_the_walk_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page = (ROOT / "docs/own_data.md").read_text()
    script, described, output = (
        re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)[0] for language in ("python", "yaml", "text")
    )
    monkeypatch.chdir(tmp_path)
    exec(script, {})
    block = yaml.safe_load(described)["datasets"]["shop"]
    made = catalog(tmp_path, "shop", block)
    with caplog.at_level(logging.INFO):
        run(made)
    said = [record.getMessage() for record in caplog.records if record.name == "fairrec_pipeline.pipelines.data.nodes"]
    assert output.splitlines() == said
    statistics = made.load("dataset_statistics")
    assert [step["kept"] for step in statistics["steps"]][-1] == statistics["n_interactions"]
    assert statistics["n_repeated"] > 0
