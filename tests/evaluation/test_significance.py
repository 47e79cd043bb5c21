"""Tests and intervals against scipy, corrections against hand-worked examples, error rates by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fairrec_pipeline.evaluation.significance import adjust, moments, t_interval, t_test

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
