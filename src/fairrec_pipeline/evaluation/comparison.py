"""All arms of a dataset side by side: values with intervals, differences from erm with tests, published numbers.

Statistics (docs/statistics.md has the reasons):

- The unit is a user. Several seeds of an arm are averaged per user first, so that users stay the independent samples.
- `p_value` is the paper's test, a paired t-test over users against erm. It knows nothing of the run-to-run variance of
  training. `p_value_seeds` does: a paired t-test of the group means over the seeds that both arms share, from 3 on.
- `p_adjusted` corrects within a family: every group and arm of one split and one metric, trained and untrained arms
  apart (the baselines differ from erm by far; their certain hits would make the false discovery rate of the methods
  look lower than it is).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from fairrec_pipeline.evaluation.group_metrics import (
    GROUP,
    METRIC,
    METRICS,
    N_USERS,
    REPEAT_TARGET,
    SPLIT,
    VALUE,
    membership,
)
from fairrec_pipeline.evaluation.published import published_cells
from fairrec_pipeline.evaluation.significance import Correction, adjust, moments, t_interval, t_test
from fairrec_pipeline.interactions.columns import USER

logger = logging.getLogger(__name__)

REFERENCE = "erm"
LEAST_SEEDS = 3
"""Seeds that a test over seeds needs."""
_PAPER_ORDER = ("erm", "cb", "cb_log", "ipw", "ipw_log", "gdro", "sdro", "cvar")
_COLUMNS = (
    *("arm", "loss", "loss_groups", SPLIT, GROUP, METRIC, N_USERS, VALUE, "ci_low", "ci_high"),
    *("delta_vs_erm", "delta_ci_low", "delta_ci_high", "relative_change"),
    *("p_value", "p_adjusted", "significant", "p_value_seeds", "published", "published_significant", "n_seeds"),
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
            time). Empty for an untrained arm.
        user_metrics: one row per test user (see `ranking.user_metrics`).
    """

    arm: str
    loss: str
    loss_groups: str | None
    seed: int | None
    data_fingerprint: str
    card: dict[str, Any] = field(repr=False)
    user_metrics: pd.DataFrame = field(repr=False)

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
        One row per arm, split, group and metric: arm, loss, loss_groups, split, group, metric, n_users, value, ci_low,
        ci_high, delta_vs_erm, delta_ci_low, delta_ci_high, relative_change (percent of erm), p_value, p_adjusted,
        significant (`p_adjusted` below the level), p_value_seeds, published, published_significant, n_seeds (0:
        untrained). Differences and p-values are null for erm itself and where there is no erm arm; p-values also for a
        group of one user.

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
    groups = membership(users, user_groups)
    rows = pd.Index(users[USER]).get_indexer(pd.Index(groups[USER]))
    sizes = groups.groupby([SPLIT, GROUP], sort=False).size()
    values = {
        name: {run.seed: _per_user(run.user_metrics)[list(METRICS)].to_numpy()[rows] for run in seeds}
        for name, seeds in runs.items()
    }
    frames = []
    for name, seeds in runs.items():
        cells = _cells(values[name], values.get(REFERENCE) if name != REFERENCE else None, sizes.to_numpy(), confidence)
        frame = pd.DataFrame({column: cell.ravel() for column, cell in cells.items()})
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
    table["p_adjusted"] = table.groupby(family)["p_value"].transform(lambda p: adjust(p.to_numpy(), correction))
    table["significant"] = table["p_adjusted"] < significance
    table = table.merge(
        published_cells(dataset), how="left", on=["loss", "loss_groups", SPLIT, GROUP, METRIC], validate="many_to_one"
    )
    return table[list(_COLUMNS)]


def _cells(
    seeds: dict[int | None, np.ndarray],
    reference: dict[int | None, np.ndarray] | None,
    sizes: np.ndarray,
    confidence: float,
) -> dict[str, np.ndarray]:
    """Statistics of one arm, each (n_groups, n_metrics); every array of the input is (n_memberships, n_metrics)."""
    value = np.mean(list(seeds.values()), axis=0)
    level = moments(value, sizes)
    low, high = t_interval(level, confidence)
    unknown = np.full_like(level.means, np.nan)
    cells = {VALUE: level.means, "ci_low": low, "ci_high": high} | dict.fromkeys(
        ("delta_vs_erm", "delta_ci_low", "delta_ci_high", "relative_change", "p_value", "p_value_seeds"), unknown
    )
    if reference is None:
        return cells
    reference_value = np.mean(list(reference.values()), axis=0)
    difference = moments(value - reference_value, sizes)
    cells["delta_vs_erm"] = difference.means
    cells["delta_ci_low"], cells["delta_ci_high"] = t_interval(difference, confidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = 100 * difference.means / moments(reference_value, sizes).means
    cells["relative_change"] = np.where(np.isfinite(relative), relative, np.nan)
    cells["p_value"] = t_test(difference)
    shared = sorted(seed for seed in seeds.keys() & reference.keys() if seed is not None)
    if len(shared) >= LEAST_SEEDS:
        by_seed = np.stack([moments(seeds[seed] - reference[seed], sizes).means.ravel() for seed in shared])
        cells["p_value_seeds"] = t_test(moments(by_seed, np.array([len(shared)]))).reshape(level.means.shape)
    return cells


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
    place = _PAPER_ORDER.index(arm.loss) if arm.loss in _PAPER_ORDER else len(_PAPER_ORDER)
    return (arm.seed is None, place, arm.arm, arm.seed or 0)


def flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in parameters.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return leaves
