"""The paper's NDCG@20 (Tables 2 to 7), in the keys of our comparison, with the paper's noise.

The numbers are those of arXiv 2501.18117, typed into published_ndcg20.csv as the tables have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

import pandas as pd

from fairrec_pipeline.interactions.columns import POPULARITY_GROUPS, STANDARD_SPLITS
from fairrec_pipeline.metrics.by_group import GROUP, METRIC, OVERALL, SPLIT

_BOTH_SPLITS = "popseq33"
_LOSS_GROUPS = {"pop": "pop33", "seq": "seq33"}
_ARM = ["loss", "loss_groups"]
PUBLISHED_COLUMNS = (
    *("published", "published_significant", "published_delta"),
    *("published_repeats", "published_noise", "published_freedom"),
)


def published_table(file: str, types: Mapping[str, str], dataset: str) -> pd.DataFrame:
    """Rows of a dataset in a CSV file beside this module; the type of each column by name, or as pandas guesses it."""
    with resources.files(__package__).joinpath(file).open(encoding="utf-8") as opened:
        table: pd.DataFrame = pd.read_csv(opened, dtype={"dataset": "string", **types})
    return table[table["dataset"] == dataset].drop(columns="dataset")


def published_rows(dataset: str) -> pd.DataFrame:
    """Every cell of the paper's tables, in the order of the paper.

    The loss of a group-dependent arm of Tables 2, 3, 5 and 6 was given the split that its panel reports. In Tables 4
    and 7 it was given pop33 or seq33.

    Args:
        dataset: `retailrocket` or `movielens-1m`; any other has no rows.

    Returns:
        Columns table (2 to 7), panel (the split it reports; popseq33: pop33 and seq33), loss, loss_groups (null:
        group-agnostic), split, group, published, published_significant (the paper's star: uncorrected p < .05 against
        its ERM), published_delta (against ERM in the same table, panel and group).
    """
    every_cell = published_table("published_ndcg20.csv", {"loss_groups": "string"}, dataset)
    cells = every_cell.rename(columns={"method": "loss", "ndcg_at_20": "published", SPLIT: "panel"})
    crossed = cells["panel"] == _BOTH_SPLITS
    agnostic = cells["loss"].isin(cells.loc[crossed & cells["loss_groups"].isna(), "loss"])
    groups_of_loss = cells["loss_groups"].map(_LOSS_GROUPS).where(crossed, cells["panel"])
    by_popularity = cells[GROUP].isin(POPULARITY_GROUPS)
    split = by_popularity.map({True: STANDARD_SPLITS[0], False: STANDARD_SPLITS[1]})
    cells = cells.assign(
        loss_groups=groups_of_loss.mask(agnostic).astype("string"),
        split=split.where(crossed, cells["panel"]).mask(cells[GROUP] == OVERALL, OVERALL),
        published_significant=cells["significant_vs_erm"].astype("boolean"),
    )
    cell = ["table", "panel", GROUP]
    erm = cells[cells["loss"] == "erm"].set_index(cell)["published"]
    cells["published_delta"] = cells["published"] - erm.reindex(pd.MultiIndex.from_frame(cells[cell])).to_numpy()
    columns = ["table", "panel", *_ARM, SPLIT, GROUP, "published", "published_significant", "published_delta"]
    return cells[columns].reset_index(drop=True)


def published_noise(dataset: str) -> pd.DataFrame:
    """Run-to-run noise of the paper, from what it repeats.

    ERM, CB, CB_log and CVaR ignore groups, so the tables repeat their overall value seven times and those of pop33 and
    seq33 twice, each from another training. The other groups are not repeated, and their noise is not known.

    Args:
        dataset: see `published_rows`.

    Returns:
        Columns split, group, published_noise (standard deviation of one cell, pooled over the four methods),
        published_freedom (degrees of freedom behind it).
    """
    rows = published_rows(dataset)
    repeats = rows[rows["loss_groups"].isna()].groupby(["loss", SPLIT, GROUP])["published"]
    freedom = repeats.size() - 1
    each = pd.DataFrame({"published_freedom": freedom, "squares": repeats.var() * freedom})
    pooled = each[freedom > 0].groupby([SPLIT, GROUP]).sum()
    pooled["published_noise"] = (pooled["squares"] / pooled["published_freedom"]) ** 0.5
    return pooled[["published_noise", "published_freedom"]].reset_index()


def published_cells(dataset: str) -> pd.DataFrame:
    """Published cells of a dataset, one per arm, split and group.

    The cells of a group-dependent arm come from the tables that report the split that its loss was given (2, 3, 5, 6).
    Where it was given one of pop33 and seq33 and the table reports the other, they come from Tables 4 and 7. The
    overall cell of a group-agnostic arm is the mean of the seven that Tables 2, 3 and 4 (5, 6 and 7) have for it.

    Args:
        dataset: see `published_rows`.

    Returns:
        Columns loss, loss_groups (null: group-agnostic), split, group, metric, published, published_significant (see
        `published_rows`; for a mean of cells true or false where all of them agree, else null), published_delta,
        published_repeats (cells behind `published`), published_noise and published_freedom (see `published_noise`;
        null where the noise is not known).
    """
    rows = published_rows(dataset)
    crossed, agnostic = rows["panel"] == _BOTH_SPLITS, rows["loss_groups"].isna()
    repeated = rows[agnostic & (rows[GROUP] == OVERALL)].groupby("loss", as_index=False)
    means = repeated.agg(
        published=("published", "mean"),
        published_delta=("published_delta", "mean"),
        published_repeats=("published", "size"),
        all_starred=("published_significant", "all"),
        any_starred=("published_significant", "any"),
    ).assign(split=OVERALL, group=OVERALL)
    stars_agree = means["all_starred"] == means["any_starred"]
    means["published_significant"] = means["all_starred"].astype("boolean").where(stars_agree)
    other_split = crossed & ~agnostic & (rows[GROUP] != OVERALL) & (rows["loss_groups"] != rows[SPLIT]).fillna(False)
    single = ~crossed & ~(agnostic & (rows[GROUP] == OVERALL))
    once = rows.assign(published_repeats=1)
    published = pd.concat([once[single], means, once[other_split]], ignore_index=True)
    published["loss_groups"] = published["loss_groups"].astype("string")
    published[METRIC] = "ndcg_at_20"
    published = published.merge(published_noise(dataset), how="left", on=[SPLIT, GROUP])
    return published[[*_ARM, SPLIT, GROUP, METRIC, *PUBLISHED_COLUMNS]]
