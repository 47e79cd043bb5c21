"""All arms of a dataset side by side: values with intervals, differences from erm with tests, published numbers.

Statistics (docs/statistics.md has the reasons):

- The unit is a user. Several seeds of an arm are averaged per user first, so that users stay the independent samples.
- `p_value` is the paper's test, a paired t-test over users against erm; `p_wilcoxon` and the bootstrap interval ask the
  same without its assumptions, `effect_size` how large the difference is beside its spread over users.
- None of them knows the run-to-run variance of training. From 3 seeds that both arms share, `p_value_seeds` does (a
  paired t-test of the group means over the seeds: other trainings, these users), and `p_users_seeds` takes users and
  seeds as samples (other trainings, other users). An untrained arm is the same with every seed of erm.
- `p_adjusted` corrects `p_value`, and `p_users_seeds_adjusted` corrects `p_users_seeds`, within a family: every group
  and arm of one split and one metric; trained, untrained and foreign arms apart (the baselines differ from erm by far;
  their certain hits would make the false discovery rate of the methods look lower than it is).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fairrec_pipeline.arms.record import FOREIGN, ArmRecord
from fairrec_pipeline.comparison.paper.published import PUBLISHED_COLUMNS, published_cells
from fairrec_pipeline.comparison.selection import IncomparableArmsError, by_arm
from fairrec_pipeline.interactions.columns import USER
from fairrec_pipeline.metrics.by_group import GROUP, METRIC, METRICS, N_USERS, REPEAT_TARGET, SPLIT, VALUE, membership
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
from fairrec_pipeline.parameters.blocks import Evaluate

logger = logging.getLogger(__name__)

REFERENCE = "erm"
LEAST_SEEDS = 3
"""Seeds that a test over seeds needs."""
_DIFFERENCES = (
    *("delta_vs_erm", "delta_ci_low", "delta_ci_high", "delta_bootstrap_low", "delta_bootstrap_high"),
    *("relative_change", "effect_size", "p_value", "p_wilcoxon", "p_value_seeds", "p_users_seeds"),
)
_COLUMNS = (
    *("arm", "loss", "loss_groups", SPLIT, GROUP, METRIC, N_USERS, VALUE, "ci_low", "ci_high", "sd_seeds"),
    *_DIFFERENCES,
    *("p_adjusted", "significant", "p_users_seeds_adjusted"),
    *PUBLISHED_COLUMNS,
    *("noise_units", "n_seeds"),
)

_Seeds = dict[int | None, np.ndarray]
"""(n_users, n_metrics) of every seed; an untrained arm has one, named None."""


def compare_arms(
    records: Sequence[ArmRecord], user_groups: pd.DataFrame, *, dataset: str, evaluate: Evaluate
) -> pd.DataFrame:
    """The tidy table that every report and figure reads.

    Args:
        records: trained and untrained arms that may stand in one table, in its order (see `selection.select_arms`).
        user_groups: one row per user (see `by_group.membership`).
        dataset: name by which published numbers are looked up.
        evaluate: confidence of the intervals, level that `significant` refers to, correction within a family.

    Returns:
        One row per arm, split, group and metric. What it is about: arm, loss, loss_groups, split, group, metric,
        n_users, n_seeds (0: untrained). Its value: value, ci_low, ci_high, sd_seeds (standard deviation over seeds,
        from 2 on). Against erm: delta_vs_erm, delta_ci_low and delta_ci_high (t interval), delta_bootstrap_low and
        delta_bootstrap_high (BCa), relative_change (percent of erm), effect_size (Cohen's d_z), p_value, p_wilcoxon,
        p_value_seeds, p_users_seeds, p_adjusted, significant (`p_adjusted` below the level), p_users_seeds_adjusted;
        null for erm itself and where there is no erm arm, p-values also for a group of one user. The metrics of
        `metrics.item_side` have a value and sd_seeds alone, in the groups that the arm was evaluated in. The paper: see
        `published.published_cells`, and noise_units (value minus published, in published_noise).

    Raises:
        IncomparableArmsError: two arms were tested on different users or targets.
        ValueError: there is no arm.
    """
    if not records:
        raise ValueError(f"no arm of dataset {dataset} to compare; train one: kedro run --pipeline=train")
    arms = by_arm(records)
    if REFERENCE not in arms:
        logger.warning("No %s arm on dataset %s: values are compared, differences are not tested", REFERENCE, dataset)
    users = _shared_users(records)
    members = membership(users, user_groups, by_target=True)
    rows = pd.Index(users[USER]).get_indexer(pd.Index(members[USER]))
    groups = members.groupby([SPLIT, GROUP], sort=False).size().rename(N_USERS).reset_index()
    values = {
        arm: {record.seed: _per_user(record)[list(METRICS)].to_numpy(np.float64) for record in seeds}
        for arm, seeds in arms.items()
    }
    cells = _cells(values, rows, groups[N_USERS].to_numpy(), evaluate.confidence)
    per_metric = groups.merge(pd.Series(METRICS, name=METRIC), how="cross")
    of_users = [
        per_metric.assign(arm=arm, **{column: cell.ravel() for column, cell in of_arm.items()})
        for arm, of_arm in cells.items()
    ]
    listing = by_arm(record for record in records if record.item_metrics is not None)
    of_lists = [groups.merge(_item_side(seeds), on=[SPLIT, GROUP]).assign(arm=arm) for arm, seeds in listing.items()]
    n_seeds = {arm: sum(record.seed is not None for record in seeds) for arm, seeds in arms.items()}
    about = pd.DataFrame(
        [(arm, seeds[0].loss, seeds[0].loss_groups, n_seeds[arm]) for arm, seeds in arms.items()],
        columns=["arm", "loss", "loss_groups", "n_seeds"],
    ).astype({"loss_groups": "string"})
    table = pd.concat([*of_users, *of_lists], ignore_index=True).merge(about, on="arm", validate="many_to_one")
    family = [table[SPLIT], table[METRIC], table["n_seeds"] > 0, table["loss"] == FOREIGN]
    for p_value, adjusted in (("p_value", "p_adjusted"), ("p_users_seeds", "p_users_seeds_adjusted")):
        table[adjusted] = table.groupby(family)[p_value].transform(lambda p: adjust(p.to_numpy(), evaluate.correction))
    table["significant"] = table["p_adjusted"] < evaluate.significance
    table = table.merge(
        published_cells(dataset), how="left", on=["loss", "loss_groups", SPLIT, GROUP, METRIC], validate="many_to_one"
    )
    table["noise_units"] = (table[VALUE] - table["published"]) / table["published_noise"]
    return table[list(_COLUMNS)]


def _item_side(seeds: Sequence[ArmRecord]) -> pd.DataFrame:
    """Metrics of lists by group over the seeds of an arm; they are of sets of users, so that no user is a sample."""
    values = pd.concat([seed.item_metrics for seed in seeds]).groupby([SPLIT, GROUP, METRIC], sort=False)[VALUE]
    return values.agg(["mean", "std"]).set_axis([VALUE, "sd_seeds"], axis=1).reset_index()


def _cells(
    values: Mapping[str, _Seeds], rows: np.ndarray, sizes: np.ndarray, confidence: float
) -> dict[str, dict[str, np.ndarray]]:
    """Statistics of every arm, each (n_groups, n_metrics).

    Args:
        values: by arm.
        rows: (n_memberships,) users, the groups back to back.
        sizes: (n_groups,).
        confidence: of the intervals.
    """
    means = {arm: np.mean(list(seeds.values()), axis=0) for arm, seeds in values.items()}
    unknown = np.full((len(sizes), len(METRICS)), np.nan)
    cells = {}
    for arm, seeds in values.items():
        level = moments(means[arm][rows], sizes)
        low, high = t_interval(level, confidence)
        cells[arm] = {VALUE: level.means, "ci_low": low, "ci_high": high, "sd_seeds": unknown}
        cells[arm] |= dict.fromkeys(_DIFFERENCES, unknown)
        if len(seeds) > 1:
            by_seed = [moments(value[rows], sizes).means for value in seeds.values()]
            cells[arm]["sd_seeds"] = np.std(by_seed, axis=0, ddof=1)
    others = [arm for arm in values if arm != REFERENCE]
    if REFERENCE not in values or not others:
        return cells
    differences = np.hstack([means[arm] - means[REFERENCE] for arm in others])[rows]
    low, high = bootstrap_intervals(differences, sizes, confidence)
    p_wilcoxon = wilcoxon_test(differences, sizes)
    for index, arm in enumerate(others):
        of_arm = np.s_[:, index * len(METRICS) : (index + 1) * len(METRICS)]
        cells[arm] |= _over_users(differences[of_arm], cells[REFERENCE][VALUE], sizes, confidence)
        cells[arm] |= _over_seeds(values[arm], values[REFERENCE], rows, sizes)
        cells[arm] |= {"delta_bootstrap_low": low[of_arm], "delta_bootstrap_high": high[of_arm]}
        cells[arm]["p_wilcoxon"] = p_wilcoxon[of_arm]
    return cells


def _over_users(
    differences: np.ndarray, reference: np.ndarray, sizes: np.ndarray, confidence: float
) -> dict[str, np.ndarray]:
    """What the differences of users (n_memberships, n_metrics) say; `reference` are erm's group means."""
    difference = moments(differences, sizes)
    low, high = t_interval(difference, confidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = 100 * difference.means / reference
    return {
        "delta_vs_erm": difference.means,
        "delta_ci_low": low,
        "delta_ci_high": high,
        "relative_change": np.where(np.isfinite(relative), relative, np.nan),
        "effect_size": effect_size(difference),
        "p_value": t_test(difference),
    }


def _over_seeds(seeds: _Seeds, reference: _Seeds, rows: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
    """What the differences of the shared seeds say, if there are enough; an untrained arm shares every seed."""
    untrained = seeds.get(None)
    shared = sorted(seed for seed in reference if seed is not None and (seed in seeds or untrained is not None))
    if len(shared) < LEAST_SEEDS:
        return {}
    differences = [(seeds[seed] if untrained is None else untrained) - reference[seed] for seed in shared]
    over_users = moments(np.mean(differences, axis=0)[rows], sizes)
    by_seed = np.stack([moments(difference[rows], sizes).means.ravel() for difference in differences])
    over_seeds = moments(by_seed, np.array([len(shared)]))
    shape = over_users.means.shape
    of_groups = Moments(over_seeds.sizes, over_seeds.means.reshape(shape), over_seeds.standard_errors.reshape(shape))
    return {"p_value_seeds": t_test(of_groups), "p_users_seeds": users_and_seeds_test(over_users, of_groups)}


def _shared_users(records: Sequence[ArmRecord]) -> pd.DataFrame:
    """user_id and repeat_target of the test users, ascending; the same for every record."""
    first, *others = records
    users = _per_user(first)[[USER, REPEAT_TARGET]]
    for other in others:
        if not _per_user(other)[[USER, REPEAT_TARGET]].equals(users):
            message = f"{other.label} was not tested on the same users and targets as {first.label}; train both again"
            raise IncomparableArmsError(message)
    return users


def _per_user(record: ArmRecord) -> pd.DataFrame:
    return record.user_metrics.sort_values(USER, ignore_index=True)
