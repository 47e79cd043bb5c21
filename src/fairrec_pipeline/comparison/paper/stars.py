"""Which of the paper's stars survive: its noise, our runs, the correction, another training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats

from fairrec_pipeline.comparison.comparison import LEAST_SEEDS
from fairrec_pipeline.comparison.paper.published import published_cells
from fairrec_pipeline.metrics.by_group import GROUP, OVERALL, SPLIT


def published_stars(comparison: pd.DataFrame, *, significance: float) -> pd.DataFrame:
    """Every star of the paper for which we have the arm, and what became of it.

    Args:
        comparison: from `comparison.compare_arms`.
        significance: level of our star, of the test over users and seeds, and of the paper's noise.

    Returns:
        One row per starred published cell: arm, split, group, published_delta (against the paper's ERM), beyond_noise
        (the delta is more than two runs of one method differ, at the level; null where the noise is not known),
        delta_vs_erm (ours), starred (p < level, same direction), survives_correction, survives_seeds (null with fewer
        than 3 shared seeds), verdict (text).
    """
    published = comparison["published_significant"].astype("boolean").fillna(False).astype(bool)
    stars = comparison[published & comparison["p_value"].notna()]
    # A difference that rounds to zero in the paper has no direction to contradict.
    same = (np.sign(stars["published_delta"].round(6)) * np.sign(stars["delta_vs_erm"])) >= 0
    below, seeds = stars["p_value"] < significance, stars["p_users_seeds"]
    starred = same & below
    corrected = starred & stars["significant"]
    over_seeds = (seeds < significance).astype("boolean").where(seeds.notna())
    verdicts = {  # the first that holds
        "survives the correction and another training": corrected & (seeds < significance),
        "survives the correction; too few seeds for more": corrected & seeds.isna(),
        "survives the correction, not another training": corrected,
        "starred, not after the correction": starred,
        "not starred": ~below,
        "starred the other way round": below,
    }
    return pd.DataFrame(
        {
            **{name: stars[name] for name in ("arm", SPLIT, GROUP, "published_delta")},
            "beyond_noise": _beyond_noise(stars, significance),
            "delta_vs_erm": stars["delta_vs_erm"],
            "starred": starred,
            "survives_correction": corrected,
            "survives_seeds": over_seeds & starred,
            "verdict": pd.Categorical(np.select(list(verdicts.values()), list(verdicts), ""), list(verdicts)),
        }
    ).reset_index(drop=True)


def stars_in_words(comparison: pd.DataFrame, dataset: str, *, significance: float) -> list[str]:
    """The paper's stars beside its noise, then what became of those of every arm; nothing without published numbers.

    Args:
        comparison: from `comparison.compare_arms`.
        dataset: name by which published numbers are looked up.
        significance: see `published_stars`.
    """
    cells = published_cells(dataset)
    if cells.empty:
        return []
    stars = published_stars(comparison, significance=significance)
    return [*_beside_noise(cells, significance), *_summary(stars), *_arm_by_arm(stars)]


def _beside_noise(cells: pd.DataFrame, significance: float) -> Iterable[str]:
    starred = cells[cells["published_significant"].astype("boolean").fillna(False)]
    known = _beyond_noise(starred, significance).dropna().astype(bool)
    overall = cells[(cells[SPLIT] == OVERALL) & cells["published_noise"].notna()].iloc[0]
    yield (
        f"The paper's noise: cells that it repeats differ by a standard deviation of "
        f"{overall['published_noise']:.4f} overall ({overall['published_freedom']:.0f} degrees of freedom). Of its "
        f"{len(starred)} stars, {len(known)} are in groups that it repeats; {(~known).sum()} of these differ from its "
        "ERM by no more than two trainings of one method do."
    )


def _summary(stars: pd.DataFrame) -> Iterable[str]:
    if stars.empty:
        yield "None of the paper's starred arms is here beside an erm arm, so none of its stars could be looked at."
        return
    listed = "; ".join(f"{verdict}: {len(cells)}" for verdict, cells in stars.groupby("verdict", observed=True))
    yield f"The {len(stars)} published stars of the arms that are here, in our runs. {listed[:1].upper()}{listed[1:]}."
    if stars["survives_seeds"].isna().any():
        yield f"A star is tested against another training from {LEAST_SEEDS} shared seeds on."


def _arm_by_arm(stars: pd.DataFrame) -> Iterable[str]:
    for arm, of_arm in stars.groupby("arm", sort=False):
        parts = []
        for verdict, cells in of_arm.groupby("verdict", observed=True):
            groups = [
                "overall" if row.split == OVERALL else f"{row.group} of {row.split}" for row in cells.itertuples()
            ]
            parts.append(f"{verdict}: {', '.join(groups)}")
        yield f"{arm}, {len(of_arm)} published stars. {'. '.join(part.capitalize() for part in parts)}."


def _beyond_noise(cells: pd.DataFrame, significance: float) -> pd.Series[bool]:
    """Is a published difference from ERM larger than the paper's noise; null where that is not known."""
    freedom = cells["published_freedom"].astype(float)
    spread = cells["published_noise"] * np.sqrt(2 / cells["published_repeats"].astype(float))
    limit = stats.t.ppf(1 - significance / 2, freedom) * spread
    beyond: pd.Series[bool] = (cells["published_delta"].abs() > limit).astype("boolean").where(spread.notna())
    return beyond
