"""Table 1 beside the published one."""

from __future__ import annotations

import pytest

from fairrec_pipeline.comparison.paper.table1 import markdown, table1

STATISTICS = {
    "n_users": 22_178,
    "n_items": 17_800,
    "n_interactions": 364_943,
    "group_shares": {
        "seq1080": {
            "short": {"users": 33.77, "interactions": 10.0},
            "medium": {"users": 66.14, "interactions": 80.0},
            "long": {"users": 0.09, "interactions": 10.0},
        },
        "segment": {"a": {"users": 100.0, "interactions": 100.0}},
    },
}


def test_ours_stands_beside_the_published_number() -> None:
    """Table 1a: (34, 66, 0.09) percent of the users of RetailRocket; 1b: 17803 items, so 17800 are 3 fewer."""
    table = table1(STATISTICS, "retailrocket").set_index(["split", "group", "quantity"])
    shares = table.loc["seq1080"].xs("users_percent", level="quantity")
    assert shares["published"].to_dict() == {"short": 34, "medium": 66, "long": 0.09}
    assert shares["difference"].to_dict() == pytest.approx({"short": -0.23, "medium": 0.14, "long": 0.0})
    counts = table[table["table"] == "1b"].droplevel(["split", "group"])
    assert counts["published"].to_dict() == {"users": 22_178, "items": 17_803, "interactions": 364_943}
    assert counts["difference"].to_dict() == {"users": 0, "items": -3, "interactions": 0}
    assert table.loc["segment"]["published"].isna().all()


def test_every_published_split_adds_up() -> None:
    """Rounded to whole percent, three shares add up to 100 give or take 1.5."""
    for dataset, users in (("retailrocket", 22_178), ("movielens-1m", 6_040)):
        names = {"pop": ("niche", "diverse", "popular"), "seq": ("short", "medium", "long")}
        splits = [f"{kind}{split}" for kind in names for split in ("33", "2060", "1080")]
        share = {"users": 0.0, "interactions": 0.0}
        everything = {split: dict.fromkeys(names[split[:3]], share) for split in splits}
        table = table1(STATISTICS | {"group_shares": everything}, dataset)
        assert table["published"].notna().all()
        shares = table[table["table"] == "1a"].groupby(["split", "quantity"])["published"].sum()
        assert len(shares) == 12
        assert shares.between(98.5, 101.5).all()
        assert table.loc[table["quantity"] == "users", "published"].item() == users


def test_published_shares_are_shown_as_they_were_printed() -> None:
    lines = markdown(table1(STATISTICS, "retailrocket"), "retailrocket").splitlines()
    assert "| 1a | seq1080 | short | users (%) | 33.77 | 34 | -0.23 |" in lines
    assert "| 1b |  |  | interactions | 364943 | 364943 | 0 |" in lines


def test_a_dataset_that_is_not_of_the_paper_has_no_published_numbers() -> None:
    table = table1(STATISTICS, "synthetic")
    assert table["published"].isna().all()
    lines = markdown(table, "synthetic").splitlines()
    assert "| 1a | seq1080 | short | users (%) | 33.77 |  |  |" in lines
    assert "| 1b |  |  | items | 17800 |  |  |" in lines
