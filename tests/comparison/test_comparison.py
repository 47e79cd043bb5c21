"""The comparison table: what is tested against what, what the seeds do, what the paper has."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.comparison import compare_arms
from fairrec_pipeline.comparison.paper.published import published_cells
from fairrec_pipeline.comparison.selection import IncomparableArmsError, select_arms
from fairrec_pipeline.metrics.significance import adjust
from tests.worlds import EVALUATE, STATISTICS, compared_groups, metrics_of, record_at, with_parts

OPTIONS = {"dataset": "synthetic", "evaluate": EVALUATE}


@pytest.fixture
def user_groups() -> pd.DataFrame:
    return compared_groups()


@pytest.fixture
def five() -> list[ArmRecord]:
    """erm, a better arm, one that differs by noise, a worse one, and an untrained one."""
    levels = {"erm": 0.5, "cvar": 0.52, "kl": 0.5, "cb": 0.48}
    return [*(record_at(level, arm) for arm, level in levels.items()), record_at(0.55, "recency", None)]


def row(table: pd.DataFrame, arm: str, split: str = "overall", group: str = "overall") -> pd.Series:
    chosen = table[
        (table["arm"] == arm)
        & (table["split"] == split)
        & (table["group"] == group)
        & (table["metric"] == "ndcg_at_20")
    ]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_values_differences_and_tests_are_those_of_scipy(five, user_groups):
    table = compare_arms(five, user_groups, **OPTIONS)
    niche = (user_groups["pop33"] == "niche").to_numpy()
    erm, cvar = (arm.user_metrics["ndcg_at_20"].to_numpy()[niche] for arm in five[:2])
    found = row(table, "cvar", "pop33", "niche")
    assert found["n_users"] == niche.sum()
    assert found["value"] == pytest.approx(cvar.mean())
    assert found["delta_vs_erm"] == pytest.approx((cvar - erm).mean())
    assert found["relative_change"] == pytest.approx(100 * (cvar - erm).mean() / erm.mean())
    expected = stats.ttest_rel(cvar, erm)
    assert found["p_value"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found["delta_ci_low"], found["delta_ci_high"]) == pytest.approx((interval.low, interval.high))
    own = stats.ttest_1samp(cvar, 0).confidence_interval(0.95)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((own.low, own.high))


def test_what_is_significant(five, user_groups):
    table = compare_arms(five, user_groups, **OPTIONS)
    assert row(table, "cvar")["significant"]
    assert row(table, "cb")["significant"]
    assert row(table, "cb")["delta_vs_erm"] < 0
    assert not row(table, "kl")["significant"]
    assert not row(table, "erm")["significant"]
    assert pd.isna(row(table, "erm")["p_value"])


def test_a_family_is_the_trained_arms_and_groups_of_one_split_and_metric(five, user_groups):
    table = compare_arms(five, user_groups, **OPTIONS)
    split = table[(table["split"] == "atomic") & (table["metric"] == "ndcg_at_20")]
    for trained in (True, False):
        family = split[(split["n_seeds"] > 0) == trained]
        np.testing.assert_array_equal(family["p_adjusted"], adjust(family["p_value"].to_numpy(), "holm"))
    assert split.loc[split["n_seeds"] > 0, "p_value"].notna().sum() == 3 * 9


def test_other_order_of_users_and_string_ids_change_nothing(five, user_groups):
    expected = compare_arms(five, user_groups, **OPTIONS)

    def renamed(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(user_id="u" + frame["user_id"].astype(str)).sample(frac=1, random_state=0)

    shuffled = [with_parts(record, user_metrics=renamed(record.user_metrics)) for record in five]
    found = compare_arms(shuffled, renamed(user_groups), **OPTIONS)
    drawn = ["delta_bootstrap_low", "delta_bootstrap_high"]  # which users a resample draws depends on their order
    pd.testing.assert_frame_equal(found.drop(columns=drawn), expected.drop(columns=drawn))
    pd.testing.assert_frame_equal(found[drawn], expected[drawn], atol=0.005, rtol=0)


def test_arms_with_other_users_are_refused(five, user_groups):
    five[1] = with_parts(five[1], user_metrics=five[1].user_metrics.iloc[1:])
    with pytest.raises(IncomparableArmsError, match=r"cvar \(seed 0\) was not tested on the same users"):
        compare_arms(five, user_groups, **OPTIONS)


def test_without_erm_there_are_values_and_a_warning(five, user_groups, caplog):
    table = compare_arms(five[1:], user_groups, **OPTIONS)
    assert "No erm arm" in caplog.text
    assert table["value"].notna().all()
    assert table[["delta_vs_erm", "relative_change", "p_value", "p_adjusted"]].isna().all(axis=None)
    assert not table["significant"].any()


def test_nothing_to_compare(user_groups):
    with pytest.raises(ValueError, match="no arm of dataset synthetic"):
        compare_arms([], user_groups, **OPTIONS)


def test_seeds_are_averaged_per_user_and_tested_over_seeds(user_groups):
    erm = [record_at(level, "erm", seed) for seed, level in enumerate((0.50, 0.51, 0.49))]
    cvar = [record_at(level, "cvar", seed) for seed, level in enumerate((0.52, 0.52, 0.50))]
    found = row(compare_arms([*erm, *cvar], user_groups, **OPTIONS), "cvar")
    each = {name: [a.user_metrics["ndcg_at_20"].to_numpy() for a in arms] for name, arms in (("e", erm), ("c", cvar))}
    assert found["n_seeds"] == 3
    assert found["p_value"] == pytest.approx(stats.ttest_rel(np.mean(each["c"], 0), np.mean(each["e"], 0)).pvalue)
    assert found["p_value_seeds"] == pytest.approx(
        stats.ttest_rel(np.mean(each["c"], axis=1), np.mean(each["e"], axis=1)).pvalue
    )


def test_every_further_number_is_that_of_its_function(five, user_groups):
    found = row(compare_arms(five, user_groups, **OPTIONS), "cvar", "seq33", "short")
    short = (user_groups["seq33"] == "short").to_numpy()
    erm, cvar = (arm.user_metrics["ndcg_at_20"].to_numpy()[short] for arm in five[:2])
    differences = cvar - erm
    assert found["effect_size"] == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert found["p_wilcoxon"] == pytest.approx(stats.wilcoxon(differences, method="approx").pvalue)
    assert found["delta_bootstrap_low"] == pytest.approx(found["delta_ci_low"], abs=0.0005)  # normal differences
    assert found["delta_bootstrap_high"] == pytest.approx(found["delta_ci_high"], abs=0.0005)
    assert pd.isna(found["p_users_seeds"])
    assert pd.isna(found["sd_seeds"])


def test_users_and_seeds_and_the_spread_over_seeds(user_groups):
    erm = [record_at(level, "erm", seed) for seed, level in enumerate((0.50, 0.51, 0.49))]
    cvar = [record_at(level, "cvar", seed) for seed, level in enumerate((0.52, 0.52, 0.50))]
    table = compare_arms([*erm, *cvar], user_groups, **OPTIONS)
    found = row(table, "cvar")
    each = {name: np.stack([a.user_metrics["ndcg_at_20"] for a in arms]) for name, arms in (("e", erm), ("c", cvar))}
    differences = each["c"] - each["e"]
    t_users, t_seeds = (stats.ttest_1samp(differences.mean(axis), 0).statistic for axis in (0, 1))
    # min F' = F_u F_s / (F_u + F_s), its freedom (F_u + F_s)^2 / (F_u^2 / (S - 1) + F_s^2 / (U - 1))
    f_users, f_seeds = t_users**2, t_seeds**2
    freedom = (f_users + f_seeds) ** 2 / (f_users**2 / 2 + f_seeds**2 / 239)
    of_both = stats.f.sf(f_users * f_seeds / (f_users + f_seeds), 1, freedom)
    of_seeds = 2 * stats.t.sf(t_seeds, 2)
    assert 0.05 < of_both < of_seeds  # the larger of the two counts
    assert found["p_value_seeds"] == pytest.approx(of_seeds)
    assert found["p_users_seeds"] == pytest.approx(of_seeds)
    assert found["p_users_seeds_adjusted"] == pytest.approx(of_seeds)  # the only arm and group of its family
    assert found["sd_seeds"] == pytest.approx(each["c"].mean(1).std(ddof=1))


def test_an_untrained_arm_is_the_same_with_every_seed(user_groups):
    erm = [record_at(level, "erm", seed) for seed, level in enumerate((0.50, 0.51, 0.49))]
    untrained = record_at(0.55, "recency", None)
    found = row(compare_arms([*erm, untrained], user_groups, **OPTIONS), "recency")
    of_seeds = [(untrained.user_metrics["ndcg_at_20"] - run.user_metrics["ndcg_at_20"]).mean() for run in erm]
    assert found["p_value_seeds"] == pytest.approx(stats.ttest_1samp(of_seeds, 0).pvalue)
    assert found["n_seeds"] == 0


def test_arms_that_differ_by_noise_and_one_that_differs_truly(user_groups):
    """1,000 arms are erm plus noise of their own: 5 % of the cells have the paper's star, and after the correction none
    of a family does (but for a chance of 5 %). One that is better by half a standard deviation is found among them."""
    rng = np.random.default_rng(4)
    erm = record_at(0.5, "erm")
    ndcg = erm.user_metrics["ndcg_at_20"].to_numpy()

    def other(name: str, better_by: float) -> ArmRecord:
        noisy = metrics_of(ndcg + rng.normal(better_by, 0.1, len(ndcg)))
        return with_parts(erm, {"arm": name, "loss": name}, user_metrics=noisy)

    arms = [erm, *(other(f"noise{place}", 0.0) for place in range(1000)), other("better", 0.05)]
    one_split = user_groups[["user_id", "train_length", "popularity_ratio", "pop33", "seq33"]]
    table = compare_arms(arms, one_split, **OPTIONS)
    table = table[(table["metric"] == "ndcg_at_20") & (table["arm"] != "erm")]
    noise = table[table["arm"] != "better"]
    for _, cells in noise[noise["split"].isin(["overall", "pop33", "seq33"])].groupby(["split", "group"]):
        assert len(cells) == 1000
        assert 0.03 < (cells["p_value"] < 0.05).mean() < 0.07  # standard error .007
    assert not noise["significant"].any()
    assert row(table, "better")["p_adjusted"] < 0.05


def test_differences_from_the_paper_in_units_of_its_noise(five, user_groups):
    found = row(compare_arms(five, user_groups, **(OPTIONS | {"dataset": "retailrocket"})), "cvar")
    assert found["noise_units"] == pytest.approx((found["value"] - found["published"]) / found["published_noise"])
    assert found["published"] == pytest.approx(0.2386, abs=5e-5)
    assert found["published_noise"] == pytest.approx(0.0017, abs=5e-5)


def test_several_seeds_do_not_split_the_ties_of_wilcoxon(user_groups):
    """Ranks of three seeds in another order for each user: the means are equal, but not in the last bit."""
    rng = np.random.default_rng(3)
    base = rng.choice([0.0, 0.3, 0.1, 0.7], size=(3, len(user_groups)))
    other = rng.permuted(np.where(rng.random(base.shape) < 0.2, 0.3, base), axis=0)
    records = [
        with_parts(record_at(0.5, arm, seed), user_metrics=metrics_of(values[seed]))
        for arm, values in (("erm", base), ("cvar", other))
        for seed in range(3)
    ]
    found = row(compare_arms(records, user_groups, **OPTIONS), "cvar")["p_wilcoxon"]
    whole = np.rint(10 * (other - base)).sum(axis=0)
    assert found == pytest.approx(stats.wilcoxon(whole, method="approx").pvalue, rel=1e-12)
    assert found != pytest.approx(stats.wilcoxon(other.mean(0) - base.mean(0), method="approx").pvalue, abs=1e-3)


def test_two_shared_seeds_are_too_few_for_a_test_over_seeds(user_groups):
    arms = [record_at(0.5, "erm", seed) for seed in (0, 1, 2)] + [record_at(0.52, "cvar", seed) for seed in (1, 2, 3)]
    assert pd.isna(row(compare_arms(arms, user_groups, **OPTIONS), "cvar")["p_value_seeds"])


def test_a_good_comparison_is_silent(five, user_groups, caplog):
    with caplog.at_level(logging.WARNING):
        compare_arms(select_arms(five, STATISTICS, EVALUATE), user_groups, **OPTIONS)
    assert not caplog.records


# --- published numbers ----------------------------------------------------------------------------------------------


def cell(dataset: str, loss: str, loss_groups: str | None, split: str, group: str) -> pd.DataFrame:
    cells = published_cells(dataset)
    same_groups = cells["loss_groups"].isna() if loss_groups is None else cells["loss_groups"] == loss_groups
    return cells[(cells["loss"] == loss) & same_groups & (cells["split"] == split) & (cells["group"] == group)]


@pytest.mark.parametrize(
    ("loss", "loss_groups", "split", "group", "value", "starred"),
    [
        ("cvar", None, "pop33", "niche", 0.225, True),  # Table 2, not the .2278 of Table 4
        ("erm", None, "seq1080", "long", 0.013, False),  # Table 3
        ("gdro", "pop2060", "pop2060", "popular", 0.267, True),  # Table 2
        ("gdro", "pop33", "seq33", "long", 0.2402, False),  # Table 4, GDRO_pop
        ("sdro", "seq33", "pop33", "diverse", 0.2264, True),  # Table 4, SDRO_seq
        ("sdro", "seq33", "seq33", "long", 0.279, True),  # Table 3, not the .2801 of Table 4
        ("ipw", "seq33", "overall", "overall", 0.228, True),  # Table 3
    ],
)
def test_published_cells(loss, loss_groups, split, group, value, starred):
    found = cell("retailrocket", loss, loss_groups, split, group)
    assert found["published"].item() == value
    assert bool(found["published_significant"].item()) is starred


LOSSES = ("erm", "cb", "cb_log")


@pytest.mark.parametrize(("loss", "value"), [("erm", 0.2254), ("cvar", 0.2386)])
def test_published_overall_of_a_group_agnostic_arm_is_the_mean_of_its_repeats(loss, value):
    found = cell("retailrocket", loss, None, "overall", "overall")
    assert round(found["published"].item(), 4) == value  # METHODS, how much of the published difference is noise
    # erm has no star, cb has one in all seven tables, cb_log in two of them
    stars = [cell("retailrocket", loss, None, "overall", "overall")["published_significant"].item() for loss in LOSSES]
    assert stars[:2] == [False, True]
    assert pd.isna(stars[2])


@pytest.mark.parametrize("place", [("gdro", "pop33", "seq2060", "long"), ("gdro", "pop33", "pop2060", "niche")])
def test_a_cell_that_the_paper_does_not_have(place):
    assert cell("retailrocket", *place).empty


def test_every_cell_has_one_place():
    for dataset in ("retailrocket", "movielens-1m"):
        cells = published_cells(dataset)
        assert not cells.duplicated(["loss", "loss_groups", "split", "group"]).any()
        # 4 agnostic methods x (18 groups + overall); 4 dependent ones x 6 splits x (3 + overall) and 2 x 3 crossed
        assert len(cells) == 4 * 19 + 4 * (24 + 6)
    assert published_cells("synthetic").empty


def test_published_stands_beside_ours(five, user_groups):
    table = compare_arms(five, user_groups, **(OPTIONS | {"dataset": "retailrocket"}))
    assert row(table, "cvar", "seq33", "short")["published"] == 0.207
    assert table.loc[table["metric"] != "ndcg_at_20", "published"].isna().all()
    assert compare_arms(five, user_groups, **OPTIONS)["published"].isna().all()
