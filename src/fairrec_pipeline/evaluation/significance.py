"""Is a difference more than chance: t-tests, intervals and corrections for many groups and arms at once.

A sample is a column; the rows of a group stand back to back. A paired test is a test of the differences against zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Correction = Literal["holm", "fdr_bh"]


@dataclass(frozen=True)
class Moments:
    """Mean and spread of every group and sample.

    Attributes:
        sizes: (n_groups, 1) number of rows.
        means: (n_groups, n_samples).
        standard_errors: (n_groups, n_samples) of the mean; NaN for a group of one row.
    """

    sizes: np.ndarray
    means: np.ndarray
    standard_errors: np.ndarray


def moments(values: np.ndarray, sizes: np.ndarray) -> Moments:
    """Moments of groups that stand back to back.

    Args:
        values: (n_rows, n_samples).
        sizes: (n_groups,) rows of each group, at least 1, in the order of the rows.

    Raises:
        ValueError: a group is empty, or the sizes do not add up to the rows.
    """
    if sizes.min(initial=1) < 1 or sizes.sum() != len(values):
        message = f"the groups must be non-empty and cover all {len(values)} rows, got sizes {sizes.tolist()}"
        raise ValueError(message)
    starts = np.cumsum(sizes) - sizes
    n = sizes[:, None]
    means = np.add.reduceat(values, starts, axis=0) / n
    # Centred first: a sum of squares minus a squared sum would lose the spread of nearly equal values.
    squares = np.add.reduceat((values - np.repeat(means, sizes, axis=0)) ** 2, starts, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        standard_errors = np.where(n > 1, np.sqrt(squares / (n - 1) / n), np.nan)
    return Moments(n, means, standard_errors)


def t_interval(sample: Moments, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """t confidence interval of the mean.

    Args:
        sample: of values, or of paired differences.
        confidence: in (0, 1).

    Returns:
        Lower and upper ends, each (n_groups, n_samples); NaN for a group of one row.
    """
    quantile = stats.t.ppf((1 + confidence) / 2, np.maximum(sample.sizes - 1, 1))
    return sample.means - quantile * sample.standard_errors, sample.means + quantile * sample.standard_errors


def t_test(differences: Moments) -> np.ndarray:
    """Two-sided p-value of the paired t-test (the test of the paper's tables, with users as pairs).

    Args:
        differences: of paired differences.

    Returns:
        (n_groups, n_samples); NaN for a group of one pair, 1 where all differences are zero.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        t = differences.means / differences.standard_errors
    p_values = 2 * stats.t.sf(np.abs(t), np.maximum(differences.sizes - 1, 1))
    return np.where((differences.means == 0) & (differences.standard_errors == 0), 1.0, p_values)


def adjust(p_values: np.ndarray, correction: Correction) -> np.ndarray:
    """p-values corrected for looking at many of them.

    Args:
        p_values: (n,) of one family; NaN (not tested) stays NaN and is not counted.
        correction: `holm` bounds the chance of a single false star in the family, `fdr_bh` (Benjamini-Hochberg) the
            expected share of false ones among the stars.
    """
    adjusted = np.full(p_values.shape, np.nan)
    tested = ~np.isnan(p_values)
    family = p_values[tested]
    if family.size:
        adjusted[tested] = _holm(family) if correction == "holm" else stats.false_discovery_control(family)
    return adjusted


def _holm(p_values: np.ndarray) -> np.ndarray:
    order = np.argsort(p_values)
    adjusted = np.empty_like(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted
