"""The model card of a champion (after Mitchell et al. 2019, Model Cards for Model Reporting): for whom it is good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.promotion import Candidate
from fairrec_pipeline.interactions.columns import STANDARD_SPLITS, USER
from fairrec_pipeline.metrics.by_group import (
    GROUP,
    HEADLINE_METRIC,
    N_USERS,
    OVERALL,
    SPLIT,
    TARGET,
    VALUE,
    attribute_names,
    membership,
)
from fairrec_pipeline.metrics.significance import moments, t_interval
from fairrec_pipeline.parameters.blocks import Promote
from fairrec_pipeline.report.page import environment

MOST_GROUPS = 20
"""Of an attribute, the largest; a card is read by people."""


@dataclass(frozen=True)
class Subject:
    """What a card is about.

    Attributes:
        record: of the champion.
        candidates: every arm that could have been it, with the champion's.
        rule: that chose it.
        statistics: the `dataset_statistics` of the data pipeline.
        user_groups: one row per user.
        confidence: of the intervals.
    """

    record: ArmRecord
    candidates: Sequence[Candidate]
    rule: Promote
    statistics: Mapping[str, Any]
    user_groups: pd.DataFrame
    confidence: float


def model_card(subject: Subject) -> str:
    """The card as Markdown. Its test metrics were read after the choice."""
    served = served_groups(subject)
    worst = served[~served[SPLIT].isin([OVERALL, TARGET])].sort_values(VALUE, kind="stable").drop_duplicates(SPLIT)
    return (
        environment()
        .get_template("model_card.md.j2")
        .render(
            subject=subject,
            card=subject.record.card,
            served=served.to_dict("records"),
            worst=worst.to_dict("records"),
            overall=served.iloc[0].to_dict(),
            parameters=sorted(subject.record.parameters.items()),
            attributes=attribute_names(subject.user_groups),
        )
    )


def served_groups(subject: Subject) -> pd.DataFrame:
    """Test NDCG@20 of the champion by group.

    Returns:
        Columns split, group, n_users, value, low, high (t interval; NaN for a group of one user): overall first, then
        pop33, seq33 and every attribute (its largest groups) as in `user_groups`, and repeat and new targets.
    """
    metrics, groups = subject.record.user_metrics, subject.user_groups
    members = membership(metrics, groups)
    members = members[members[SPLIT].isin([OVERALL, *STANDARD_SPLITS, *attribute_names(groups), TARGET])]
    values = metrics.set_index(USER)[HEADLINE_METRIC].loc[members[USER]].to_numpy(np.float64)
    sizes = members.groupby([SPLIT, GROUP], sort=False).size().rename(N_USERS).reset_index()
    of_groups = moments(values[:, None], sizes[N_USERS].to_numpy())
    low, high = t_interval(of_groups, subject.confidence)
    table = sizes.assign(**{VALUE: of_groups.means[:, 0], "low": low[:, 0], "high": high[:, 0]})
    by_size = table.groupby(SPLIT)[N_USERS].rank(method="first", ascending=False)
    return table[by_size <= MOST_GROUPS]
