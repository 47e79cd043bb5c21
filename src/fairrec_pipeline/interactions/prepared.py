"""A prepared dataset as a training and an evaluation read it: flat arrays and groups, made ready once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fairrec_pipeline.interactions.histories import Histories


@dataclass(frozen=True)
class PreparedData:
    """A prepared dataset; it may be sent to another process.

    Attributes:
        dataset: its name.
        fingerprint: of the interactions with their roles: who trained or was ranked on these has the same.
        split: the parameters of the leave-one-out split.
        train, validation, test: histories, the last two with targets.
        user_groups: one row per user.
        group_fingerprints: of every column of labels in `user_groups`.
    """

    dataset: str
    fingerprint: str
    split: Mapping[str, Any]
    train: Histories
    validation: Histories
    test: Histories
    user_groups: pd.DataFrame
    group_fingerprints: Mapping[str, str]

    def groups_fingerprint(self, groups: str | None) -> str | None:
        """Fingerprint of the groups that a loss is told: a column of `user_groups`, or `atomic`; None without groups.

        `atomic` is made of pop33 and seq33, so its fingerprint is made of theirs.
        """
        return combined_fingerprint(self.group_fingerprints, groups)


def combined_fingerprint(of_columns: Mapping[str, str], groups: str | None) -> str | None:
    """Fingerprint of a column of labels or of `atomic`; None without groups, or where there is no such column."""
    if groups is None:
        return None
    if groups != "atomic":
        return of_columns.get(groups)
    parts = [of_columns.get(name, "") for name in ("pop33", "seq33")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
