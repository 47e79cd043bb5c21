"""The paper's NDCG@20 (Tables 2 to 7), in the keys of our comparison, with the paper's own noise.

The numbers are those of arXiv 2501.18117, typed into published_ndcg20.csv as the tables have them.
"""

from __future__ import annotations

from importlib import resources

import pandas as pd

from fairrec_pipeline.metrics.by_group import GROUP, METRIC, OVERALL, SPLIT, STANDARD_SPLITS

_BOTH_SPLITS = "popseq33"
_LOSS_GROUPS = {"pop": "pop33", "seq": "seq33"}
_ARM = ["loss", "loss_groups"]
PUBLISHED_COLUMNS = (
    *("published", "published_significant", "published_delta"),
    *("published_repeats", "published_noise", "published_freedom"),
)


def published_rows(dataset: str) -> pd.DataFrame:
    """Every cell of the paper's tables, in the order of the paper.

    A group-dependent arm of Tables 2, 3, 5 and 6 was given the split that its panel reports; in Tables 4 and 7 pop33 or
    seq33.

    Args:
        dataset: `retailrocket` or `movielens-1m`; any other has no rows.

    Returns:
        Columns table (2 to 7), panel (the split it reports; popseq33: pop33 and seq33), loss, loss_groups (null:
        group-agnostic), split, group, published, published_significant (the paper's star: uncorrected p < .05 against
        its ERM), published_delta (against ERM in the same table, panel and group).
    """
    with resources.files("fairrec_pipeline.comparison.paper").joinpath("published_ndcg20.csv").open(encoding="utf-8") as file:
        every_cell: pd.DataFrame = pd.read_csv(file, dtype={"loss_groups": "string"})
    cells = every_cell[every_cell["dataset"] == dataset].rename(
        columns={"method": "loss", "ndcg_at_20": "published", SPLIT: "panel"}
    )
    crossed = cells["panel"] == _BOTH_SPLITS
    agnostic = cells["loss"].isin(cells.loc[crossed & cells["loss_groups"].isna(), "loss"])
    groups_of_loss = cells["loss_groups"].map(_LOSS_GROUPS).where(crossed, cells["panel"])
    by_popularity = cells[GROUP].isin(["niche", "diverse", "popular"])
    own_split = by_popularity.map({True: STANDARD_SPLITS[0], False: STANDARD_SPLITS[1]})
    cells = cells.assign(
        loss_groups=groups_of_loss.mask(agnostic).astype("string"),
        split=own_split.where(crossed, cells["panel"]).mask(cells[GROUP] == OVERALL, OVERALL),
        published_significant=cells["significant_vs_erm"].astype("boolean"),
    )
    place = ["table", "panel", GROUP]
    erm = cells[cells["loss"] == "erm"].set_index(place)["published"]
    cells["published_delta"] = cells["published"] - erm.reindex(pd.MultiIndex.from_frame(cells[place])).to_numpy()
    columns = ["table", "panel", *_ARM, SPLIT, GROUP, "published", "published_significant", "published_delta"]
    return cells[columns].reset_index(drop=True)


def published_noise(dataset: str) -> pd.DataFrame:
    """Run-to-run noise of the paper, from what it repeats.

    ERM, CB, CB_log and CVaR ignore groups, so the tables repeat their overall value seven times and those of pop33 and
    seq33 twice, each from a training of its own. The other groups are not repeated, and their noise is not known.

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

    A group-dependent arm has its cells where its loss was given the split that the table reports (Tables 2, 3, 5, 6);
    where it was given pop33 or seq33 and the table reports the other of the two, they come from Tables 4 and 7. The
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
