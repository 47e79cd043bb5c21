"""The paper's NDCG@20 (Tables 2 to 7), in the keys of our comparison."""

from __future__ import annotations

from importlib import resources

import pandas as pd

from fairrec_pipeline.evaluation.group_metrics import GROUP, METRIC, OVERALL, SPLIT, STANDARD_SPLITS

_BOTH_SPLITS = "popseq33"
_LOSS_GROUPS = {"pop": "pop33", "seq": "seq33"}


def published_cells(dataset: str) -> pd.DataFrame:
    """Published cells of a dataset, one per arm, split and group.

    A group-dependent arm has its cells where its loss was given the split that the table reports (Tables 2, 3, 5, 6);
    where it was given pop33 or seq33 and the table reports the other of the two, they come from Tables 4 and 7. The
    overall cell of a group-agnostic arm is the mean of the seven that Tables 2, 3 and 4 (5, 6 and 7) have for it.

    Args:
        dataset: `retailrocket` or `movielens-1m`; any other has no rows.

    Returns:
        Columns loss, loss_groups (null: group-agnostic), split, group, metric, published, published_significant (the
        paper's star: uncorrected p < .05 against its ERM; null for a mean of cells).
    """
    with resources.files("fairrec_pipeline.evaluation").joinpath("published_ndcg20.csv").open(encoding="utf-8") as file:
        every_cell: pd.DataFrame = pd.read_csv(file)
    cells = every_cell[every_cell["dataset"] == dataset].rename(columns={"method": "loss", "ndcg_at_20": "published"})
    cells["published_significant"] = cells["significant_vs_erm"].astype("boolean")
    cells[METRIC] = "ndcg_at_20"
    crossed = cells[(cells[SPLIT] == _BOTH_SPLITS) & (cells[GROUP] != OVERALL)].dropna(subset="loss_groups")
    single = cells[cells[SPLIT] != _BOTH_SPLITS]
    agnostic = single["loss"].isin(cells.loc[(cells[SPLIT] == _BOTH_SPLITS) & cells["loss_groups"].isna(), "loss"])

    own_split = single[~agnostic].assign(loss_groups=lambda rows: rows[SPLIT])
    own_split.loc[own_split[GROUP] == OVERALL, SPLIT] = OVERALL
    by_popularity = crossed[GROUP].isin(["niche", "diverse", "popular"])
    other_split = crossed.assign(
        loss_groups=crossed["loss_groups"].map(_LOSS_GROUPS),
        split=by_popularity.map({True: STANDARD_SPLITS[0], False: STANDARD_SPLITS[1]}),
    )
    other_split = other_split[other_split["loss_groups"] != other_split[SPLIT]]
    without_groups = single[agnostic & (single[GROUP] != OVERALL)]
    overall = cells[cells["loss"].isin(without_groups["loss"]) & (cells[GROUP] == OVERALL)]
    means = overall.groupby(["loss", METRIC], as_index=False)["published"].mean().assign(split=OVERALL, group=OVERALL)

    published: pd.DataFrame = pd.concat([without_groups, means, own_split, other_split], ignore_index=True)
    published["loss_groups"] = published["loss_groups"].astype("string")
    return published[["loss", "loss_groups", SPLIT, GROUP, METRIC, "published", "published_significant"]]
