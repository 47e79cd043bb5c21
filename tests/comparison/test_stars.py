"""The paper's noise and stars by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from fairrec_pipeline.comparison.paper.published import published_cells, published_noise, published_rows
from fairrec_pipeline.comparison.paper.stars import published_stars, stars_in_words


def noise(dataset: str, group: str) -> pd.Series:
    table = published_noise(dataset)
    return table[table["group"] == group].iloc[0]


@pytest.mark.parametrize(
    ("dataset", "erm", "cvar"), [("retailrocket", 0.0020, 0.0016), ("movielens-1m", 0.0009, 0.0017)]
)
def test_repeats_of_one_method(dataset, erm, cvar):
    rows = published_rows(dataset)
    overall = rows[(rows["group"] == "overall") & rows["loss_groups"].isna()].groupby("loss")["published"]
    assert overall.size().eq(7).all()
    assert round(overall.std()["erm"], 4) == erm
    assert round(overall.std()["cvar"], 4) == cvar


def test_noise_is_pooled_over_the_methods():
    # seven repeats of erm, cb, cb_log and cvar: root mean square of .0020 .0014 .0018 .0016
    assert noise("retailrocket", "overall")["published_noise"] == pytest.approx(0.0017, abs=5e-5)
    assert noise("retailrocket", "overall")["published_freedom"] == 4 * 6
    # Tables 2 and 4 have niche of pop33 twice: erm .214 .2149, cb .208 .2053 ...; half the squared differences
    rows = published_rows("retailrocket")
    pairs = rows[(rows["group"] == "niche") & (rows["split"] == "pop33") & rows["loss_groups"].isna()]
    squares = pairs.groupby("loss")["published"].agg(lambda pair: (pair.iloc[0] - pair.iloc[1]) ** 2 / 2)
    assert len(squares) == 4
    assert noise("retailrocket", "niche")["published_noise"] == pytest.approx(squares.mean() ** 0.5)
    assert set(published_noise("retailrocket")["split"]) == {"overall", "pop33", "seq33"}  # nothing else is repeated
    assert published_noise("synthetic").empty


def test_deltas_are_against_the_erm_of_the_same_table():
    rows = published_rows("retailrocket")
    table_2 = rows[(rows["table"] == 2) & (rows["loss"] == "cb") & (rows["group"] == "niche")]
    assert table_2["published_delta"].round(3).tolist() == [-0.006, -0.005, -0.001]  # .208-.214, .211-.216, .231-.232


def test_overall_of_an_agnostic_method_has_a_star_if_all_seven_do():
    cells = published_cells("movielens-1m")
    overall = cells[(cells["split"] == "overall") & cells["loss_groups"].isna()].set_index("loss")
    assert overall["published_significant"].astype(object).where(
        overall["published_significant"].notna(), None
    ).to_dict() == {
        "erm": False,
        "cb": True,
        "cb_log": None,  # 5 of 7
        "cvar": None,  # 6 of 7
    }
    assert overall["published_repeats"].eq(7).all()


def row(**values: object) -> dict[str, object]:
    """A starred cell of ours that survives everything."""
    return {
        "arm": "cvar",
        "split": "seq33",
        "group": "short",
        "published_significant": True,
        "published_delta": 0.01,
        "published_noise": 0.002,
        "published_freedom": 4.0,
        "published_repeats": 1.0,
        "delta_vs_erm": 0.02,
        "p_value": 0.001,
        "significant": True,
        "p_users_seeds": 0.01,
    } | values


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({}, "survives the correction and another training"),
        ({"p_users_seeds": 0.2}, "survives the correction, not another training"),
        ({"p_users_seeds": None}, "survives the correction; too few seeds for more"),
        ({"significant": False}, "starred, not after the correction"),
        ({"p_value": 0.3, "significant": False}, "not starred"),
        ({"delta_vs_erm": -0.02}, "starred the other way round"),
        ({"delta_vs_erm": -0.02, "published_delta": 0.0}, "survives the correction and another training"),
    ],
)
def test_verdicts(values, verdict):
    found = published_stars(pd.DataFrame([row(), row(**values)]), significance=0.05)
    assert found["verdict"].tolist() == ["survives the correction and another training", verdict]


def test_beyond_the_papers_noise_by_hand():
    # two single runs: limit t(.975, 4) * .002 * sqrt 2 = 2.776 * .00283 = .00785; of means of seven: / sqrt 7 = .00297
    deltas = [
        {"published_delta": 0.0078},
        {"published_delta": 0.0079},
        {"published_delta": -0.003, "published_repeats": 7.0},
    ]
    found = published_stars(
        pd.DataFrame([row(**each) for each in [*deltas, {"published_noise": None}]]), significance=0.05
    )
    assert found["beyond_noise"].tolist()[:3] == [False, True, True]
    assert pd.isna(found["beyond_noise"].iloc[3])


def test_only_stars_that_we_tested_count():
    rows = [row(), row(published_significant=False), row(published_significant=None), row(p_value=None)]
    assert len(published_stars(pd.DataFrame(rows), significance=0.05)) == 1


def test_words():
    words = stars_in_words(
        pd.DataFrame([row(), row(group="long", delta_vs_erm=-0.1)]), "retailrocket", significance=0.05
    )
    assert "standard deviation of 0.0017 overall (24 degrees of freedom)" in words[0]
    assert "Of its 93 stars, 54 are in groups that it repeats; 19 of these" in words[0]
    assert words[1].startswith("The 2 published stars of the arms that are here, in our runs.")
    assert "cvar, 2 published stars. Survives the correction and another training: short of seq33." in words[-1]
    assert "Starred the other way round: long of seq33." in words[-1]
    assert stars_in_words(pd.DataFrame([row()]), "synthetic", significance=0.05) == []
