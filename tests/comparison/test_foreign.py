"""Files of other systems: the same numbers as for our own lists, and one clear error for a bad file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fairrec_pipeline.arms.record import FOREIGN, ArmRecord
from fairrec_pipeline.comparison.comparison import compare_arms
from fairrec_pipeline.comparison.foreign import foreign_arms
from fairrec_pipeline.comparison.selection import select_arms
from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.prepared import PreparedHistories
from fairrec_pipeline.metrics.item_side import ListKeeper, item_metrics
from fairrec_pipeline.metrics.ranking import rank_targets, user_metrics
from tests.worlds import EVALUATE, STATISTICS, interactions, record_of, user_groups


def prepared(*, text: bool = False) -> PreparedHistories:
    events = interactions()
    if text:
        events["user_id"] = "u" + events["user_id"].astype(str).str.zfill(3)
        events["item_id"] = events["item_id"].astype(str).str.zfill(4)  # 0007 is not 7
    return PreparedHistories.of(events)


def groups_of(data: PreparedHistories) -> pd.DataFrame:
    return user_groups(data.train.n_users).assign(user_id=data.train.users)


def judge(folder: Path, data: PreparedHistories, *, filter_seen: bool = False) -> list[ArmRecord]:
    return foreign_arms(folder, data, groups_of(data), filter_seen=filter_seen)


def scores_of(data: PreparedHistories) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(data.test.n_users, data.test.n_items)))


def lists_of(data: PreparedHistories, k: int) -> pd.DataFrame:
    """The k best items of every user as a system would write them."""
    scores, order = torch.sort(scores_of(data), dim=1, descending=True)
    n_users = data.test.n_users
    return pd.DataFrame(
        {
            "user_id": np.repeat(data.test.users, k),
            "item_id": data.test.catalogue[order[:, :k].numpy().ravel()],
            "rank": np.tile(np.arange(1, k + 1), n_users),
            "score": scores[:, :k].numpy().ravel(),
        }
    )


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("column", ["rank", "score"])
@pytest.mark.parametrize("filter_seen", [False, True])
def test_a_model_gets_the_numbers_that_it_has_here(tmp_path, text, ending, column, filter_seen):
    """A scorer's lists, written to a file, against the same scorer ranked here. Only ranks above 20 are unknown."""
    data = prepared(text=text)
    scores = scores_of(data)
    # what is seen is in the file as well: it is taken out where seen items are left out
    lists = lists_of(data, data.test.n_items)
    lists = lists[["user_id", "item_id", column]].sample(frac=1, random_state=0)
    lists = lists.rename(columns={"user_id": "user"}) if column == "rank" else lists
    getattr(lists, f"to_{ending}")(tmp_path / f"other.{ending}", index=False)
    (arm,) = judge(tmp_path, data, filter_seen=filter_seen)
    keeper = ListKeeper(lambda users: scores[users], data.test, filter_seen=filter_seen)
    ranks = rank_targets(keeper, data.test, filter_seen=filter_seen)
    expected = user_metrics(data.test, ranks, None)
    pd.testing.assert_frame_equal(arm.user_metrics, expected)
    of_items = item_metrics(keeper.lists, data.train, data.test, expected, groups_of(data))
    pd.testing.assert_frame_equal(arm.item_metrics, of_items)
    assert (arm.arm, arm.loss, arm.seed) == ("other", FOREIGN, None)


def test_by_hand(tmp_path):
    """Ties count against the target; who has no list, or not the target in it, has a miss."""
    data = prepared()
    targets = data.test.catalogue[data.test.targets]
    others = [np.setdiff1d(data.test.catalogue, target)[:3] for target in targets]
    rows = [(0, targets[0], 0.5), (0, others[0][0], 0.5), (0, others[0][1], 0.9), (1, others[1][0], 1.0)]
    pd.DataFrame(rows, columns=["user", "item", "score"]).to_csv(tmp_path / "a-b.csv", index=False)
    (arm,) = judge(tmp_path, data)
    assert arm.arm == "a-b"
    assert arm.user_metrics["rank"].isna().sum() == 59
    assert arm.user_metrics["rank"][0] == 3
    assert arm.user_metrics["ndcg_at_20"].tolist()[:2] == [1 / np.log2(4), 0]


def test_an_item_that_is_not_in_the_catalogue_fills_its_place(tmp_path, caplog):
    data = prepared()
    target = data.test.catalogue[data.test.targets[0]]
    frame = pd.DataFrame({"user": 0, "item": [999_999, target], "rank": [1, 2]})
    frame.to_parquet(tmp_path / "x.parquet")
    (arm,) = judge(tmp_path, data)
    assert arm.user_metrics["rank"][0] == 2
    assert "50.0 % of the items" in caplog.text


def test_it_stands_in_the_comparison_with_tests_and_in_a_family_for_itself(tmp_path):
    data = prepared()
    lists = lists_of(data, 20)
    lists.to_csv(tmp_path / "theirs.csv", index=False)
    ranks = np.random.default_rng(0).integers(1, 25, 60)
    erm = record_of("erm", user_metrics(data.test, ranks, None), card={"data_fingerprint": data.fingerprint})
    statistics = STATISTICS | {"fingerprint": data.fingerprint}
    selected = select_arms([*judge(tmp_path, data), erm], statistics, EVALUATE)
    assert [record.arm for record in selected] == ["erm", "theirs"]
    table = compare_arms(selected, groups_of(data), dataset="synthetic", evaluate=EVALUATE)
    cell = table[(table["arm"] == "theirs") & (table["metric"] == "ndcg_at_20") & (table["split"] == "overall")]
    assert cell["p_value"].notna().all()
    assert (cell["p_adjusted"] == cell["p_value"]).all()
    assert (cell["n_seeds"] == 0).all()
    coverage = table[(table["arm"] == "theirs") & (table["metric"] == "coverage_at_20")]
    assert coverage["value"].between(0, 1).all()
    assert coverage["p_value"].isna().all()


GOOD = pd.DataFrame({"user": [0, 0, 1], "item": [1, 2, 1], "rank": [1, 2, 1]})
BAD = {
    "no column item": (GOOD.rename(columns={"item": "product"}), "has no column item_id.*Needed: user, item, and"),
    "no order": (GOOD.drop(columns="rank"), "has no column rank or score"),
    "twice": (GOOD.assign(item=1), "1 items twice in a list, first item 1 of user 0"),
    "a stranger": (GOOD.assign(user=[0, 0, 777]), "has 1 users that the data do not have, such as '777'"),
    "no rank": (GOOD.assign(rank=[1, None, 2]), "1 rows without .* a number in rank; the first is row 2"),
    "a word": (GOOD.assign(rank=["1", "two", "3"]), "a number in rank; the first is row 2"),
    "no user": (GOOD.assign(user=[None, 0, 1]), "1 rows without a user"),
    "other ids": (GOOD.assign(item=["a", "b", "c"]), "no item that training knows"),
    "empty": (GOOD.iloc[:0], "no item that training knows"),
}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gives_one_error_that_names_it(tmp_path, name, ending):
    frame, words = BAD[name]
    getattr(frame, f"to_{ending}")(tmp_path / f"theirs.{ending}", index=False)
    with pytest.raises(DataError, match=rf"theirs\.{ending}.*{words}"):
        judge(tmp_path, prepared())


def test_text_ids_are_not_numbers(tmp_path):
    """0007 and 7 are two items."""
    data = prepared(text=True)
    frame = pd.DataFrame(
        {"user": "u000", "item": [str(int(item)) for item in data.test.catalogue[:3]], "rank": [1, 2, 3]}
    )
    frame.to_csv(tmp_path / "theirs.csv", index=False)
    with pytest.raises(DataError, match="no item that training knows, such as '0000'"):
        judge(tmp_path, data)


@pytest.mark.parametrize("name", ["erm.csv", "gdro-pop33.csv", "markov.parquet"])
def test_the_name_of_another_arm_is_refused(tmp_path, name):
    getattr(GOOD, f"to_{name.partition('.')[2]}")(tmp_path / name)
    with pytest.raises(DataError, match="name of another arm"):
        judge(tmp_path, prepared())


def test_two_files_of_one_name_and_a_damaged_one(tmp_path):
    GOOD.to_csv(tmp_path / "theirs.csv")
    (tmp_path / "theirs.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="name of another arm"):
        judge(tmp_path, prepared())
    (tmp_path / "theirs.csv").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        judge(tmp_path, prepared())


def test_no_folder_no_arms(tmp_path):
    assert judge(tmp_path / "absent", prepared()) == []
