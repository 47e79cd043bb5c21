"""Tests and intervals against scipy, corrections against hand-worked examples, error rates by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fairrec_pipeline.metrics.significance import (
    Moments,
    adjust,
    bootstrap_intervals,
    effect_size,
    moments,
    t_interval,
    t_test,
    users_and_seeds_test,
    wilcoxon_test,
)

SIZES = np.array([2, 30, 5, 200])


@pytest.fixture
def samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    first = rng.random((SIZES.sum(), 3))
    return first, first + rng.normal(0.02, 0.1, first.shape)


def groups(values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(SIZES)[:-1])


def test_paired_test_equals_scipy_in_every_group_and_column(samples):
    first, second = samples
    expected = [stats.ttest_rel(a, b, axis=0).pvalue for a, b in zip(groups(second), groups(first), strict=True)]
    np.testing.assert_allclose(t_test(moments(second - first, SIZES)), expected, rtol=1e-9)


def test_interval_equals_scipy(samples):
    low, high = t_interval(moments(samples[0], SIZES), 0.9)
    expected = [stats.ttest_1samp(group, 0, axis=0).confidence_interval(0.9) for group in groups(samples[0])]
    np.testing.assert_allclose(low, [interval.low for interval in expected], rtol=1e-9)
    np.testing.assert_allclose(high, [interval.high for interval in expected], rtol=1e-9)


def test_one_pair_cannot_be_tested_and_has_no_interval():
    one = moments(np.array([[0.3]]), np.array([1]))
    assert one.means.item() == 0.3
    assert np.isnan(t_test(one)).all()
    assert np.isnan(t_interval(one, 0.95)).all()


def test_no_difference_at_all_is_no_evidence():
    assert t_test(moments(np.zeros((7, 2)), np.array([3, 4]))).tolist() == [[1, 1], [1, 1]]


def test_the_same_difference_everywhere_is_certain():
    assert t_test(moments(np.full((4, 1), 0.5), np.array([4]))).item() == 0


def test_groups_must_cover_the_rows():
    with pytest.raises(ValueError, match="cover all 3 rows"):
        moments(np.zeros((3, 1)), np.array([2]))
    with pytest.raises(ValueError, match="non-empty"):
        moments(np.zeros((3, 1)), np.array([3, 0]))


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04; running maximum .02 .03 .06 .06
    np.testing.assert_allclose(adjust(np.array([0.01, 0.04, 0.03, 0.005]), "holm"), [0.03, 0.06, 0.06, 0.02])
    assert adjust(np.array([0.9, 0.8]), "holm").tolist() == [1, 1]


def test_benjamini_hochberg_by_hand():
    # sorted .005 .01 .03 .04 times 4/1 4/2 4/3 4/4 = .02 .02 .04 .04
    np.testing.assert_allclose(adjust(np.array([0.01, 0.04, 0.03, 0.005]), "fdr_bh"), [0.02, 0.04, 0.04, 0.02])


@pytest.mark.parametrize("correction", ["holm", "fdr_bh"])
def test_what_was_not_tested_does_not_count(correction):
    p_values = np.array([0.01, np.nan, 0.04, 0.03])
    adjusted = adjust(p_values, correction)
    assert np.isnan(adjusted[1])
    np.testing.assert_array_equal(adjusted[[0, 2, 3]], adjust(p_values[[0, 2, 3]], correction))
    assert np.isnan(adjust(np.array([np.nan]), correction)).all()


def test_noise_is_starred_at_the_nominal_rate_and_a_true_difference_is_found():
    rng = np.random.default_rng(1)
    n_users, n_draws = 300, 1000
    ndcg = np.where(rng.random((n_users, 1)) < 0.4, rng.random((n_users, 1)), 0)  # most users are missed, as in reality
    sizes = np.array([n_users])

    def rejected(shift: float) -> float:
        other = ndcg + rng.normal(shift, 0.1, (n_users, n_draws))
        return float((t_test(moments(other - ndcg, sizes)) < 0.05).mean())

    assert 0.03 < rejected(0) < 0.07  # 1000 draws: standard error .007
    assert rejected(0.03) > 0.99


def test_holm_keeps_the_chance_of_any_false_star_at_the_level():
    rng = np.random.default_rng(2)
    families = t_test(moments(rng.normal(size=(100, 10 * 1000)), np.array([100]))).reshape(1000, 10)
    any_star = np.mean([(adjust(family, "holm") < 0.05).any() for family in families])
    assert any_star < 0.07
    assert (families < 0.05).any(axis=1).mean() > 0.3  # what the correction is there for: 1 - .95 ** 10 = .40


# --- bootstrap, Wilcoxon, effect size -------------------------------------------------------------------------------


def skewed(n: int, columns: int, seed: int = 3) -> np.ndarray:
    """Most differences are zero, the others large: as NDCG has them."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random((n, columns)) < 0.6, 0, rng.exponential(0.1, (n, columns)))


def test_bootstrap_equals_scipys_bca():
    sizes = np.array([100, 295])
    values = skewed(395, 2)
    low, high = bootstrap_intervals(values, sizes, 0.9, resamples=20_000)
    for place, rows in enumerate(np.split(values, [100])):
        found = stats.bootstrap((rows,), np.mean, axis=0, n_resamples=20_000, confidence_level=0.9, rng=0)
        width = high[place] - low[place]  # both ends have a Monte Carlo error of about 1 % of the width
        np.testing.assert_allclose(low[place], found.confidence_interval.low, atol=0.03 * width.max())
        np.testing.assert_allclose(high[place], found.confidence_interval.high, atol=0.03 * width.max())


def test_bootstrap_of_normal_values_is_the_normal_interval():
    values = np.random.default_rng(0).normal(0.3, 1, (2000, 1))
    low, high = bootstrap_intervals(values, np.array([2000]), 0.95, resamples=20_000)
    half = 1.959964 * values.std() / np.sqrt(2000)
    assert low.item() == pytest.approx(values.mean() - half, abs=0.03 * half)
    assert high.item() == pytest.approx(values.mean() + half, abs=0.03 * half)


def test_bootstrap_leans_to_the_long_tail():
    values = skewed(60, 1)
    low, high = bootstrap_intervals(values, np.array([60]), 0.95)
    assert high.item() - values.mean() > 1.1 * (values.mean() - low.item())


def test_bootstrap_is_repeatable_and_knows_its_limits():
    values, sizes = np.vstack([skewed(50, 1), np.full((7, 1), 0.25)]), np.array([49, 1, 7])
    first, second = (bootstrap_intervals(values, sizes, 0.95) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.isnan([end[1] for end in first]).all()  # one row
    assert [end[2].item() for end in first] == [0.25, 0.25]  # no spread


def test_wilcoxon_equals_scipy_in_every_group():
    sizes, values = np.array([40, 200]), skewed(240, 2) - skewed(240, 2, seed=4)
    found = wilcoxon_test(values, sizes)
    expected = [stats.wilcoxon(rows, axis=0, method="approx").pvalue for rows in np.split(values, [40])]
    np.testing.assert_allclose(found, expected)


def test_wilcoxon_by_hand():
    # |d| 1 2 3 4 5 have these ranks, only 2 is negative, the zero is left out: W+ = 13, mean 5 * 6 / 4 = 7.5,
    # variance 5 * 6 * 11 / 24 = 13.75
    differences = np.array([[1.0], [-2], [3], [4], [5], [0]])
    expected = 2 * stats.norm.sf((13 - 7.5) / np.sqrt(13.75))
    assert wilcoxon_test(differences, np.array([6])).item() == pytest.approx(expected)
    assert wilcoxon_test(np.zeros((4, 1)), np.array([4])).item() == 1
    assert np.isnan(wilcoxon_test(np.ones((1, 1)), np.array([1]))).all()


def test_wilcoxon_of_means_over_seeds_has_the_ties_of_whole_numbers():
    """Multiples of 1/10, summed over three seeds in another order for each user: as whole numbers scipy ties them."""
    rng = np.random.default_rng(8)
    tenths = rng.integers(-3, 5, size=(3, 120, 4))
    shuffled = np.take_along_axis(tenths, rng.permuted(np.tile(np.arange(3)[:, None, None], (1, 120, 4)), axis=0), 0)
    means = np.mean(shuffled / 10, axis=0)
    assert len(np.unique(np.abs(means))) > len(np.unique(np.abs(tenths.sum(axis=0))))  # floats split the ties
    expected = stats.wilcoxon(tenths.sum(axis=0), axis=0, method="approx").pvalue
    np.testing.assert_allclose(wilcoxon_test(means, np.array([120]))[0], expected, rtol=1e-12)
    assert (np.abs(stats.wilcoxon(means, axis=0, method="approx").pvalue - expected) > 1e-4).any()


def test_wilcoxon_takes_rounding_for_no_difference():
    rounding = np.array([[0.1 + 0.2 - 0.3], [0.5], [0.25], [-0.125]])
    expected = wilcoxon_test(np.array([[0.0], [4], [2], [-1]]), np.array([4]))
    assert wilcoxon_test(rounding, np.array([4])) == expected


@pytest.mark.parametrize("n", [24, 60])
def test_bootstrap_equals_scipys_bca_where_resamples_have_the_mean_of_the_sample(n):
    """Few levels, so that many resamples tie with the mean: at 24 users one in eight or so."""
    rng = np.random.default_rng(12)
    values = rng.choice([0.0, 0.0, 0.0, 0.3, 0.9], size=(n, 6))
    low, high = bootstrap_intervals(values, np.array([n]), 0.95, resamples=20_000)
    whole = np.round(values * 10)  # scipy sees exact ties
    scipys = stats.bootstrap((whole,), np.mean, axis=0, n_resamples=20_000, confidence_level=0.95, rng=0)
    tenth_of_a_step = 0.03 / n  # means of resamples are multiples of .3 / n, and an end is one of them
    np.testing.assert_allclose(low[0], scipys.confidence_interval.low / 10, atol=tenth_of_a_step)
    np.testing.assert_allclose(high[0], scipys.confidence_interval.high / 10, atol=tenth_of_a_step)


def test_effect_size_by_hand():
    # differences 1 2 3: mean 2, standard deviation 1; no difference; the same difference everywhere
    values = np.array([[1.0, 0, 5], [2, 0, 5], [3, 0, 5]])
    np.testing.assert_allclose(effect_size(moments(values, np.array([3]))), [[2, 0, np.nan]])
    assert np.isnan(effect_size(moments(values[:1, 2:], np.array([1])))).all()


# --- users and seeds ------------------------------------------------------------------------------------------------


def over_both(differences: np.ndarray) -> tuple[Moments, Moments]:
    """(n_seeds, n_users, n_samples) as what the test takes."""
    n_seeds, n_users, _ = differences.shape
    return (
        moments(differences.mean(axis=0), np.array([n_users])),
        moments(differences.mean(axis=1), np.array([n_seeds])),
    )


def test_users_and_seeds_by_hand():
    # two seeds, two users: 1 3 / 2 6. Users: means 1.5 4.5, se^2 = 4.5 / 2; seeds: means 2 4, se^2 = 2 / 2; mean 3.
    # t = 3 / sqrt(3.25), freedom 3.25^2 / (2.25^2 / 1 + 1^2 / 1)
    users, seeds = over_both(np.array([[[1.0], [3]], [[2], [6]]]))
    expected = 2 * stats.t.sf(3 / np.sqrt(3.25), 3.25**2 / (2.25**2 + 1))
    assert users_and_seeds_test(users, seeds).item() == pytest.approx(expected)
    # min F' = F_u F_s / (F_u + F_s), F_u = 9 / 2.25 = 4, F_s = 9
    assert pytest.approx(4 * 9 / (4 + 9)) == 9 / 3.25


def test_users_and_seeds_without_variance_of_one_is_the_test_of_the_other():
    users = np.random.default_rng(0).normal(0.1, 1, (50, 2))
    only_users, no_seeds = over_both(np.stack([users, users, users]))
    np.testing.assert_allclose(users_and_seeds_test(only_users, no_seeds), t_test(only_users))
    same = np.zeros((3, 4, 1))
    assert users_and_seeds_test(*over_both(same)).item() == 1
    assert np.isnan(users_and_seeds_test(*over_both(np.random.default_rng(1).random((3, 1, 1))))).all()


@pytest.mark.parametrize(
    ("of_users", "of_seeds", "of_both"),
    [(0.2, 0.0, 0.05), (0.2, 0.01, 0.05), (0.05, 0.02, 0.2), (0.1, 0.0, 0.2), (0.05, 0.02, 0.1), (0.05, 0.02, 0.02)],
)
def test_size_where_seeds_vary_and_share_their_users(of_users, of_seeds, of_both):
    """In the last two the means of seeds vary three times as much as those of users: a small level counts there, for a
    correction asks for one, and min F' alone is below .003 in one of 50 draws."""
    rng = np.random.default_rng(5)
    n_seeds, n_users, n_draws = 3, 200, 2000

    def draw(mean: float) -> tuple[Moments, Moments]:
        users = rng.normal(mean, of_users, (1, n_users, n_draws))
        seeds = rng.normal(0, of_seeds, (n_seeds, 1, n_draws))
        return over_both(users + seeds + rng.normal(0, of_both, (n_seeds, n_users, n_draws)))

    users, seeds = draw(0)
    p_values = users_and_seeds_test(users, seeds)
    assert (p_values < 0.05).mean() < 0.065  # 2000 draws: standard error .005
    assert (p_values < 0.003).mean() < 0.0075  # .0012
    if of_both < of_users:  # where users or seeds dominate it is nominal, not only bounded
        assert (p_values < 0.05).mean() > 0.03
    assert (users_and_seeds_test(*draw(0.5)) < 0.05).mean() > 0.99


def test_users_and_seeds_is_no_bolder_than_the_seeds():
    # means of seeds 1.9 2 2.1 over many users without spread: t = 2 / (.1 / sqrt(3)), two degrees of freedom
    users, seeds = over_both(np.array([[[1.9]] * 50, [[2.0]] * 50, [[2.1]] * 50]).reshape(3, 50, 1))
    assert users_and_seeds_test(users, seeds).item() == pytest.approx(2 * stats.t.sf(20 * np.sqrt(3), 2))


def test_the_other_tests_are_too_bold_where_both_vary():
    rng = np.random.default_rng(6)
    users, seeds = rng.normal(0, 0.2, (1, 200, 1000)), rng.normal(0, 0.02, (3, 1, 1000))
    over_users, over_seeds = over_both(users + seeds)
    assert (t_test(over_users) < 0.05).mean() > 0.1
    assert (t_test(over_seeds) < 0.05).mean() > 0.1
    assert (users_and_seeds_test(over_users, over_seeds) < 0.05).mean() < 0.07
