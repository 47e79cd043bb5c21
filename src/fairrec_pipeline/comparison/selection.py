"""Which arms may stand in one table."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fairrec_pipeline.arms.record import FOREIGN, ArmRecord, Card, flat
from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.interactions.prepared import combined_fingerprint
from fairrec_pipeline.parameters.blocks import Evaluate
from fairrec_pipeline.parameters.methods import METHODS

logger = logging.getLogger(__name__)


class IncomparableArmsError(FairrecError, ValueError):
    """Arms whose numbers must not stand in one table."""


def refuse_incomparable(records: Iterable[ArmRecord], statistics: Mapping[str, Any], evaluate: Evaluate) -> None:
    """Stop if `compare` would, unless `evaluate.other_data` is `skip`. Of every record only its card is read.

    Args:
        records: without those that are about to be trained again. Arms of other backbones than `evaluate.backbone` are
            passed over, as `compare` does.
        statistics, evaluate: see `why_incomparable`.

    Raises:
        IncomparableArmsError: some arm cannot be compared; the message has the reasons and what to do.
    """
    asked_for = (record for record in records if _is_asked_for(record, evaluate))
    reasons = [reason for record in asked_for if (reason := why_incomparable(record.card, statistics, evaluate))]
    if reasons and evaluate.other_data == "refuse":
        listed = "\n".join(f"  - {reason}" for reason in reasons)
        raise IncomparableArmsError(
            f"these arms cannot be compared with the others:\n{listed}\n"
            "Train them again, or leave them out with evaluate.other_data=skip."
        )


def select_arms(records: Iterable[ArmRecord], statistics: Mapping[str, Any], evaluate: Evaluate) -> list[ArmRecord]:
    """The records that may stand in one table, in its order: METHODS, untrained and foreign arms; seeds ascending.
    Arms of other backbones than `evaluate.backbone` are left out.

    Of several seeds of an arm only those count whose parameters agree with the training that finished last. A seed that
    was trained again counts once.

    Args:
        records: every arm of the dataset.
        statistics, evaluate: see `why_incomparable`; `other_data` says what to do with arms that are not comparable.

    Raises:
        IncomparableArmsError: an arm is not comparable, and `other_data` is `refuse`.
    """
    records = list(records)
    ordered = sorted((record for record in records if _is_asked_for(record, evaluate)), key=_order)
    _warn_of_other_backbones(records, ordered, evaluate)
    refuse_incomparable(ordered, statistics, evaluate)
    comparable = []
    for record in ordered:
        if reason := why_incomparable(record.card, statistics, evaluate):
            logger.warning("Left out of the comparison: %s", reason)
        else:
            comparable.append(record)
    return [record for seeds in by_arm(comparable).values() for record in _agreeing_seeds(seeds)]


def _is_asked_for(record: ArmRecord, evaluate: Evaluate) -> bool:
    """Whether it is of the backbone that is compared; what was not trained here has none and goes with all."""
    return record.seed is None or record.backbone == evaluate.backbone


def _warn_of_other_backbones(records: Sequence[ArmRecord], chosen: Sequence[ArmRecord], evaluate: Evaluate) -> None:
    """Who compares no trained arm, while there are some, asked for another backbone than they have."""
    others = sorted({record.backbone or "null" for record in records if not _is_asked_for(record, evaluate)})
    if others and all(record.seed is None for record in chosen):
        logger.warning(
            "No arm is compared that was trained with evaluate.backbone=%s; there are some with %s",
            *(evaluate.backbone or "null", ", ".join(others)),
        )


def by_arm(records: Iterable[ArmRecord]) -> dict[str, list[ArmRecord]]:
    """The records of each arm, in their order."""
    arms: dict[str, list[ArmRecord]] = {}
    for record in records:
        arms.setdefault(record.arm, []).append(record)
    return arms


def why_incomparable(card: Card, statistics: Mapping[str, Any], evaluate: Evaluate) -> str | None:
    """Why an arm cannot stand in one table with arms of the present data; None if it can.

    It has to be trained on the present interactions, its loss on the present labels of its groups, and its targets
    ranked in the present way. Nothing but its card is read, so this can be asked before a training.

    Args:
        card: of the arm.
        statistics: the `dataset_statistics` of the present data: fingerprint, group_fingerprints.
        evaluate: how arms are ranked now.
    """
    label, present = ArmRecord.of(card).label, statistics["fingerprint"]
    trained_on, groups = str(card["data_fingerprint"]), card["loss_groups"]
    if trained_on != present:
        return f"{label} was trained on data {trained_on[:12]}, the present data is {present[:12]}"
    labels = card.get("groups_fingerprint")
    present_labels = combined_fingerprint(statistics.get("group_fingerprints", {}), groups)
    if groups is not None and (labels is None or labels != present_labels):
        now = f"the present labels are {present_labels[:12]}" if present_labels else "the present data has none"
        return f"{label} was trained with the labels {str(labels)[:12]} of {groups}, {now}"
    filter_seen = flat(card.get("parameters", {})).get("evaluate.filter_seen", evaluate.filter_seen)
    if filter_seen != evaluate.filter_seen:
        return f"{label} was ranked with evaluate.filter_seen={filter_seen}, now it is {evaluate.filter_seen}"
    return None


def _agreeing_seeds(records: Sequence[ArmRecord]) -> list[ArmRecord]:
    """One record per seed, all with the parameters of the newest."""
    newest_first = sorted(records, key=lambda record: str(record.card.get("finished", "")), reverse=True)
    newest = newest_first[0]
    agreeing: dict[int | None, ArmRecord] = {}
    for record in newest_first:
        if record.parameters == newest.parameters:
            agreeing.setdefault(record.seed, record)
        else:
            names = record.parameters.keys() | newest.parameters.keys()
            differing = sorted(name for name in names if record.parameters.get(name) != newest.parameters.get(name))
            logger.warning(
                "%s is left out: it was trained with other parameters than %s (%s)",
                *(record.label, newest.label, ", ".join(differing)),
            )
    return sorted(agreeing.values(), key=_order)


def _order(record: ArmRecord) -> tuple[bool, int, str, int]:
    methods = list(METHODS)
    index = methods.index(record.loss) if record.loss in METHODS else len(methods) + (record.loss == FOREIGN)
    return (record.seed is None, index, record.arm, record.seed or 0)
