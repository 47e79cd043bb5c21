"""All arms of a dataset side by side: values with intervals, differences from erm with tests, published numbers.

Statistics (docs/statistics.md has the reasons):

- The unit is a user. Several seeds of an arm are averaged per user first, so that users stay the independent samples.
- `p_value` is the paper's test, a paired t-test over users against erm; `p_wilcoxon` and the bootstrap interval say the
  same without its assumptions, `effect_size` how large the difference is beside its spread over users.
- None of them knows the run-to-run variance of training. From 3 seeds that both arms share, `p_value_seeds` does (a
  paired t-test of the group means over the seeds: other trainings, these users), and `p_users_seeds` takes users and
  seeds as samples (other trainings, other users). An untrained arm is the same with every seed of erm.
- `p_adjusted` corrects `p_value`, and `p_users_seeds_adjusted` corrects `p_users_seeds`, within a family: every group
  and arm of one split and one metric, trained and untrained arms apart (the baselines differ from erm by far; their
  certain hits would make the false discovery rate of the methods look lower than it is).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from fairrec_pipeline.metrics.by_group import (
    GROUP,
    METRIC,
    METRICS,
    N_USERS,
    REPEAT_TARGET,
    SPLIT,
    VALUE,
    membership,
)
from fairrec_pipeline.comparison.paper.published import PUBLISHED_COLUMNS, published_cells
from fairrec_pipeline.metrics.significance import (
    Correction,
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
from fairrec_pipeline.interactions.columns import USER

logger = logging.getLogger(__name__)

REFERENCE = "erm"
LEAST_SEEDS = 3
"""Seeds that a test over seeds needs."""
_ORDER = (
    *("erm", "cb", "cb_log", "ipw", "ipw_log", "gdro", "sdro", "cvar"),  # as the paper has them
    *("chi2", "kl", "cvar_doro", "cvar_smooth", "arl", "rsr_hard", "rsr_soft", "causald"),
)
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


@dataclass(frozen=True)
class TrainedArm:
    """What an arm left behind; the untrained baselines come in the same shape, without a seed.

    Attributes:
        arm: method with its options, such as `cvar` or `gdro-seq33`.
        loss: name of METHODS.
        loss_groups: split the loss was given; None for a group-agnostic loss.
        seed: of the training run; None for an untrained arm.
        data_fingerprint: of the data that it was trained and tested on.
        card: the run card: `parameters` (nested or with dots in the names), `seconds`, `device`, `finished` (ISO
            time). Of an untrained arm `validation_ndcg_at_20` alone.
        user_metrics: one row per test user (see `ranking.user_metrics`).
        history: one row per epoch (epoch, loss, validation_ndcg_at_20, seconds and what the method tells); None where
            it was not kept.
        user_weights: whom the arm trained on: user_id, window (0 to 9, a tenth of the budget each), drawn (how often),
            weight (mean; 1 as in erm); None where it was not kept.
        tuning_runs: every point of the grid that the arm was chosen from: point, card, history and, if they were kept,
            options, seed and test_ndcg_at_20 ({overall, <split>/<group>, ...}); None where it was not tuned.
    """

    arm: str
    loss: str
    loss_groups: str | None
    seed: int | None
    data_fingerprint: str
    card: dict[str, Any] = field(repr=False)
    user_metrics: pd.DataFrame = field(repr=False)
    history: pd.DataFrame | None = field(default=None, repr=False)
    user_weights: pd.DataFrame | None = field(default=None, repr=False)
    tuning_runs: list[dict[str, Any]] | None = field(default=None, repr=False)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the run with dots in their names, without the seed."""
        return {name: value for name, value in flat(self.card.get("parameters", {})).items() if name != "seed"}

    @property
    def label(self) -> str:
        return self.arm if self.seed is None else f"{self.arm} (seed {self.seed})"


class IncomparableArmsError(ValueError):
    """Arms whose numbers must not stand in one table."""


def select_arms(
    arms: Sequence[TrainedArm],
    *,
    fingerprint: str,
    filter_seen: bool | None = None,
    other_data: Literal["refuse", "skip"],
) -> dict[str, list[TrainedArm]]:
    """Arms that may stand in one table.

    An arm has to be trained on the present data and ranked in the present way. Of several seeds of an arm only those
    count whose parameters agree with the run that finished last; a seed that was run again counts once.

    Args:
        arms: every arm of the dataset.
        fingerprint: of the present data.
        filter_seen: how the present run ranks; None: not checked.
        other_data: what to do with arms of other data: stop, or leave them out and say so.

    Returns:
        The runs of each arm, by seed; arms in the order of the paper, baselines last.

    Raises:
        IncomparableArmsError: an arm belongs to other data, and `other_data` is `refuse`.
    """
    kept: dict[str, list[TrainedArm]] = {}
    reasons = []
    for arm in sorted(arms, key=_order):
        ranked_so = arm.parameters.get("evaluate.filter_seen", filter_seen)
        if arm.data_fingerprint != fingerprint:
            reasons.append(
                f"{arm.label} was trained on data {arm.data_fingerprint[:12]}, the present data is {fingerprint[:12]}"
            )
        elif filter_seen is not None and ranked_so != filter_seen:
            reasons.append(f"{arm.label} was ranked with evaluate.filter_seen={ranked_so}, now it is {filter_seen}")
        else:
            kept.setdefault(arm.arm, []).append(arm)
    if reasons and other_data == "refuse":
        listed = "\n".join(f"  - {reason}" for reason in reasons)
        message = (
            f"these arms cannot be compared with the others:\n{listed}\n"
            "Train them again, or leave them out with evaluate.other_data=skip."
        )
        raise IncomparableArmsError(message)
    for reason in reasons:
        logger.warning("Left out of the comparison: %s", reason)
    return {name: _agreeing_seeds(runs) for name, runs in kept.items()}


def compare_arms(
    arms: Sequence[TrainedArm],
    user_groups: pd.DataFrame,
    *,
    dataset: str,
    confidence: float,
    significance: float,
    correction: Correction,
    other_data: Literal["refuse", "skip"],
    fingerprint: str,
    filter_seen: bool | None = None,
) -> pd.DataFrame:
    """The tidy table that every report and figure reads.

    Args:
        arms: trained arms and baselines.
        user_groups: one row per user (see `group_metrics.membership`).
        dataset: name by which published numbers are looked up.
        confidence: of the intervals.
        significance: level that `significant` refers to.
        correction: of the p-values within a family (see the top of this module).
        other_data: see `select_arms`.
        fingerprint: see `select_arms`.
        filter_seen: see `select_arms`.

    Returns:
        One row per arm, split, group and metric. What it is about: arm, loss, loss_groups, split, group, metric,
        n_users, n_seeds (0: untrained). Its value: value, ci_low, ci_high, sd_seeds (standard deviation over seeds,
        from 2 on). Against erm: delta_vs_erm, delta_ci_low and delta_ci_high (t interval), delta_bootstrap_low and
        delta_bootstrap_high (BCa), relative_change (percent of erm), effect_size (Cohen's d_z), p_value, p_wilcoxon,
        p_value_seeds, p_users_seeds, p_adjusted, significant (`p_adjusted` below the level), p_users_seeds_adjusted;
        null for erm itself and where there is no erm arm, p-values also for a group of one user. The paper: see
        `published.published_cells`, and noise_units (value minus published, in published_noise).

    Raises:
        IncomparableArmsError: see `select_arms`; also if two arms were tested on different users or targets.
        ValueError: no arm is left.
    """
    runs = select_arms(arms, fingerprint=fingerprint, filter_seen=filter_seen, other_data=other_data)
    if not runs:
        message = f"no arm of dataset {dataset} to compare; train one: kedro run --pipeline=train"
        raise ValueError(message)
    users = _shared_users(runs)
    if REFERENCE not in runs:
        logger.warning("No %s arm on dataset %s: values are compared, differences are not tested", REFERENCE, dataset)
    groups = membership(users, user_groups, by_target=True)
    rows = pd.Index(users[USER]).get_indexer(pd.Index(groups[USER]))
    sizes = groups.groupby([SPLIT, GROUP], sort=False).size()
    values = {
        name: {run.seed: _per_user(run.user_metrics)[list(METRICS)].to_numpy(np.float64) for run in seeds}
        for name, seeds in runs.items()
    }
    cells = _cells(values, rows, sizes.to_numpy(), confidence)
    frames = []
    for name, seeds in runs.items():
        frame = pd.DataFrame({column: cell.ravel() for column, cell in cells[name].items()})
        frame[SPLIT], frame[GROUP] = (sizes.index.get_level_values(i).repeat(len(METRICS)) for i in (SPLIT, GROUP))
        frame[METRIC] = np.tile(METRICS, len(sizes))
        frame[N_USERS] = sizes.to_numpy().repeat(len(METRICS))
        first = seeds[0]
        frame["arm"], frame["loss"], frame["loss_groups"] = name, first.loss, first.loss_groups
        frame["n_seeds"] = sum(run.seed is not None for run in seeds)
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    table["loss_groups"] = table["loss_groups"].astype("string")
    family = [table[SPLIT], table[METRIC], table["n_seeds"] > 0]
    for p_value, adjusted in (("p_value", "p_adjusted"), ("p_users_seeds", "p_users_seeds_adjusted")):
        table[adjusted] = table.groupby(family)[p_value].transform(lambda p: adjust(p.to_numpy(), correction))
    table["significant"] = table["p_adjusted"] < significance
    table = table.merge(
        published_cells(dataset), how="left", on=["loss", "loss_groups", SPLIT, GROUP, METRIC], validate="many_to_one"
    )
    table["noise_units"] = (table[VALUE] - table["published"]) / table["published_noise"]
    return table[list(_COLUMNS)]


_Seeds = dict[int | None, np.ndarray]
"""(n_users, n_metrics) of every seed; an untrained arm has one, named None."""


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
        if arm != REFERENCE and REFERENCE in values:
            cells[arm] |= _against(means[arm] - means[REFERENCE], means[REFERENCE], rows, sizes, confidence)
            cells[arm] |= _over_seeds(seeds, values[REFERENCE], rows, sizes)
    others = [arm for arm in values if arm != REFERENCE]
    if REFERENCE in values and others:
        differences = np.hstack([means[arm] - means[REFERENCE] for arm in others])[rows]
        low, high = bootstrap_intervals(differences, sizes, confidence)
        p_wilcoxon = wilcoxon_test(differences, sizes)
        for place, arm in enumerate(others):
            own = slice(place * len(METRICS), (place + 1) * len(METRICS))
            cells[arm] |= {"delta_bootstrap_low": low[:, own], "delta_bootstrap_high": high[:, own]}
            cells[arm]["p_wilcoxon"] = p_wilcoxon[:, own]
    return cells


def _against(
    differences: np.ndarray, reference: np.ndarray, rows: np.ndarray, sizes: np.ndarray, confidence: float
) -> dict[str, np.ndarray]:
    """What the differences of users say; both (n_users, n_metrics)."""
    difference = moments(differences[rows], sizes)
    low, high = t_interval(difference, confidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = 100 * difference.means / moments(reference[rows], sizes).means
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


def _agreeing_seeds(runs: Sequence[TrainedArm]) -> list[TrainedArm]:
    """One run per seed, all with the parameters of the newest."""
    newest_first = sorted(runs, key=lambda run: str(run.card.get("finished", "")), reverse=True)
    newest = newest_first[0]
    agreeing: dict[int | None, TrainedArm] = {}
    for run in newest_first:
        if run.parameters == newest.parameters:
            agreeing.setdefault(run.seed, run)
        else:
            names = run.parameters.keys() | newest.parameters.keys()
            differing = sorted(n for n in names if run.parameters.get(n) != newest.parameters.get(n))
            logger.warning(
                "%s is left out: it was trained with other parameters than %s (%s)",
                *(run.label, newest.label, ", ".join(differing)),
            )
    return sorted(agreeing.values(), key=_order)


def _shared_users(runs: dict[str, list[TrainedArm]]) -> pd.DataFrame:
    """user_id and repeat_target of the test users, ascending; the same for every arm."""
    first, *others = (run for seeds in runs.values() for run in seeds)
    users = _per_user(first.user_metrics)[[USER, REPEAT_TARGET]]
    for other in others:
        if not _per_user(other.user_metrics)[[USER, REPEAT_TARGET]].equals(users):
            message = f"{other.label} was not tested on the same users and targets as {first.label}; train both again"
            raise IncomparableArmsError(message)
    return users


def _per_user(user_metrics: pd.DataFrame) -> pd.DataFrame:
    return user_metrics.sort_values(USER, ignore_index=True)


def _order(arm: TrainedArm) -> tuple[bool, int, str, int]:
    place = _ORDER.index(arm.loss) if arm.loss in _ORDER else len(_ORDER)
    return (arm.seed is None, place, arm.arm, arm.seed or 0)


def flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in parameters.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return leaves
