"""Which of the paper's stars survive: its noise, our runs, the correction, another training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats

from fairrec_pipeline.comparison.comparison import LEAST_SEEDS
from fairrec_pipeline.comparison.paper.published import published_cells
from fairrec_pipeline.metrics.by_group import GROUP, OVERALL, SPLIT

OPPOSITE, NOT_STARRED, ONLY_STARRED = "starred the other way round", "not starred", "starred, not after the correction"
CORRECTED, SURVIVES, SEEDS_UNKNOWN = (
    "survives the correction, not another training",
    "survives the correction and another training",
    "survives the correction; too few seeds for more",
)
_VERDICTS = (SURVIVES, SEEDS_UNKNOWN, CORRECTED, ONLY_STARRED, NOT_STARRED, OPPOSITE)


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
    starred = same & (stars["p_value"] < significance)
    corrected = starred & stars["significant"]
    over_seeds = (stars["p_users_seeds"] < significance).astype("boolean").where(stars["p_users_seeds"].notna())
    verdict = np.select(
        [
            ~same & (stars["p_value"] < significance),
            ~starred,
            ~corrected,
            over_seeds.isna(),
            ~over_seeds.fillna(False).astype(bool),
        ],
        [OPPOSITE, NOT_STARRED, ONLY_STARRED, SEEDS_UNKNOWN, CORRECTED],
        SURVIVES,
    )
    return pd.DataFrame(
        {
            **{name: stars[name] for name in ("arm", SPLIT, GROUP, "published_delta")},
            "beyond_noise": _beyond_noise(stars, significance),
            "delta_vs_erm": stars["delta_vs_erm"],
            "starred": starred,
            "survives_correction": corrected,
            "survives_seeds": over_seeds & starred,
            "verdict": verdict,
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
    counts = stars["verdict"].value_counts()
    listed = "; ".join(f"{verdict}: {counts[verdict]}" for verdict in _VERDICTS if verdict in counts)
    yield f"The {len(stars)} published stars of the arms that are here, in our runs. {listed[:1].upper()}{listed[1:]}."
    if stars["survives_seeds"].isna().any():
        yield f"A star is tested against another training from {LEAST_SEEDS} shared seeds on."


def _arm_by_arm(stars: pd.DataFrame) -> Iterable[str]:
    for arm, of_arm in stars.groupby("arm", sort=False):
        parts = []
        for verdict in _VERDICTS:
            cells = of_arm[of_arm["verdict"] == verdict]
            groups = [
                "overall" if split == OVERALL else f"{group} of {split}"
                for split, group in zip(cells[SPLIT], cells[GROUP], strict=True)
            ]
            if groups:
                parts.append(f"{verdict}: {', '.join(groups)}")
        yield f"{arm}, {len(of_arm)} published stars. {'. '.join(part.capitalize() for part in parts)}."


def _beyond_noise(cells: pd.DataFrame, significance: float) -> pd.Series[bool]:
    """Is a published difference from ERM larger than the paper's noise; null where that is not known."""
    freedom = cells["published_freedom"].astype(float)
    spread = cells["published_noise"] * np.sqrt(2 / cells["published_repeats"].astype(float))
    limit = stats.t.ppf(1 - significance / 2, freedom) * spread
    beyond: pd.Series[bool] = (cells["published_delta"].abs() > limit).astype("boolean").where(spread.notna())
    return beyond
