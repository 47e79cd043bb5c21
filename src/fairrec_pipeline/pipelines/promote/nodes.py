"""Nodes of the promote pipeline."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any

import ibis

from fairrec_pipeline import __version__
from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.catalog.registry import Promotion
from fairrec_pipeline.comparison.promotion import choose, judge
from fairrec_pipeline.comparison.selection import select_arms
from fairrec_pipeline.parameters.blocks import Evaluate, Promote
from fairrec_pipeline.report.model_card import Subject, model_card

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "mlflow", "numpy")


def choose_champion(
    arms: ArmStore, user_groups: ibis.Table, statistics: dict[str, Any], evaluate: Evaluate, promote: Promote
) -> tuple[Promotion, Promotion]:
    """The arm that the rule prefers on validation, described; twice, to be registered and to be announced.

    Raises:
        IncomparableArmsError: an arm is of other data, and `evaluate.other_data` is `refuse`.
        FairrecError: there is no trained arm.
    """
    groups = user_groups.to_pandas()
    candidates = judge(select_arms(arms.records(), statistics, evaluate), groups)
    chosen = choose(candidates, promote)
    card = chosen.best.card
    champion = {
        "arm": chosen.arm,
        "seed": chosen.best.seed,
        "version": card["version"],
        "weights_sha256": card["parts"]["model"]["sha256"],
        "dataset": statistics["dataset"],
        "data_fingerprint": statistics["fingerprint"],
        "rule": promote.model_dump(mode="json"),
        "validation": [candidate.numbers for candidate in candidates],
        "versions": {"fairrec_pipeline": __version__, **{name: version(name) for name in _PACKAGES}},
    }
    subject = Subject(chosen.best, candidates, promote, statistics, groups, evaluate.confidence)
    promotion = Promotion(arms, chosen.best, champion, model_card(subject))
    return promotion, promotion


def announce_champion(promotion: Promotion, registered: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What became the champion and where it is registered, and its model card."""
    logger.info(
        "Champion of %s: %s, %s@%s is version %s. Serve it: python -m fairrec_pipeline.serving --model %s",
        *(promotion.champion["dataset"], promotion.record.label, registered["name"], registered["alias"]),
        *(registered["version"], registered["uri"]),
    )
    return {**promotion.champion, "registered": registered}, promotion.model_card
