"""Which arms may stand in one table: what is refused, what is left out, which seeds count."""

from __future__ import annotations

import pytest

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.selection import (
    IncomparableArmsError,
    refuse_incomparable,
    select_arms,
    why_incomparable,
)
from tests.worlds import EVALUATE, FINGERPRINT, STATISTICS, record_at

SKIP = EVALUATE.model_copy(update={"other_data": "skip"})


def test_arms_of_other_data_are_refused():
    stranger = record_at(0.5, "gdro-seq33", 2, card={"data_fingerprint": "0123456789abcdef"})
    with pytest.raises(IncomparableArmsError) as error:
        select_arms([record_at(0.5, "erm"), stranger], STATISTICS, EVALUATE)
    for part in (
        "gdro-seq33 (seed 2)",
        "0123456789ab",
        FINGERPRINT[:12],
        "Train them again",
        "evaluate.other_data=skip",
    ):
        assert part in str(error.value)
    assert "erm" not in str(error.value)


def test_arms_of_other_data_are_skipped_on_request(caplog):
    stranger = record_at(0.5, "gdro-seq33", card={"data_fingerprint": "0" * 64})
    assert [record.arm for record in select_arms([record_at(0.5, "erm"), stranger], STATISTICS, SKIP)] == ["erm"]
    assert "Left out of the comparison: gdro-seq33 (seed 0)" in caplog.text


def test_one_more_user_attribute_leaves_older_arms_comparable():
    """Attributes are for evaluation: only the labels that a loss used decide its training."""
    records = [record_at(0.5, arm) for arm in ("erm", "gdro-pop33", "gdro-atomic")]
    more = STATISTICS | {"group_fingerprints": STATISTICS["group_fingerprints"] | {"age": "c" * 64}}
    assert [why_incomparable(record.card, more, EVALUATE) for record in records] == [None] * 3


@pytest.mark.parametrize("changed", ["pop33", "seq33"])
def test_arms_whose_loss_used_other_labels_are_refused(changed):
    cards = [record_at(0.5, arm).card for arm in ("erm", "gdro-pop33", "gdro-seq33", "gdro-atomic")]
    other = STATISTICS | {"group_fingerprints": STATISTICS["group_fingerprints"] | {changed: "c" * 64}}
    reasons = [reason for card in cards if (reason := why_incomparable(card, other, EVALUATE))]
    assert [reason.split(" (")[0] for reason in reasons] == [f"gdro-{changed}", "gdro-atomic"]
    assert f"was trained with the labels {'a' if changed == 'pop33' else 'b'}" in reasons[0]
    assert "the present labels are cccccccccccc" in reasons[0]


def test_arms_whose_groups_are_gone_are_refused():
    card = record_at(0.5, "gdro-age", card={"groups_fingerprint": "d" * 64}).card
    assert why_incomparable(card, STATISTICS, EVALUATE) == (
        "gdro-age (seed 0) was trained with the labels dddddddddddd of age, the present data has none"
    )
    never_written = record_at(0.5, "gdro-pop33", card={"groups_fingerprint": None}).card
    assert why_incomparable(never_written, STATISTICS, EVALUATE)


def test_arms_ranked_in_another_way_are_refused():
    now = EVALUATE.model_copy(update={"filter_seen": True})
    with pytest.raises(IncomparableArmsError, match=r"erm .*filter_seen=False, now it is True"):
        select_arms([record_at(0.5, "erm")], STATISTICS, now)
    assert select_arms([record_at(0.5, "recency", None)], STATISTICS, now)  # ranked by this very run


def test_cards_are_enough_to_know_before_a_training():
    stranger = ArmRecord.of(record_at(0.5, "cvar", card={"data_fingerprint": "0" * 64}).card)
    refuse_incomparable([ArmRecord.of(record_at(0.5, "erm").card)], STATISTICS, EVALUATE)
    refuse_incomparable([stranger], STATISTICS, SKIP)
    with pytest.raises(IncomparableArmsError, match=r"cvar \(seed 0\)"):
        refuse_incomparable([stranger], STATISTICS, EVALUATE)


def test_an_arm_that_no_comparison_looks_at_stops_no_training():
    """The comparison passes over arms of other backbones, so that one of older data need not be trained again."""
    card = {"data_fingerprint": "0" * 64, "backbone": "deep"}
    stranger = record_at(0.5, "erm@deep", card=card)
    assert select_arms([record_at(0.5, "erm"), stranger], STATISTICS, EVALUATE)
    refuse_incomparable([stranger], STATISTICS, EVALUATE)
    with pytest.raises(IncomparableArmsError, match=r"erm@deep \(seed 0\)"):
        refuse_incomparable([stranger], STATISTICS, EVALUATE.model_copy(update={"backbone": "deep"}))


def test_who_compares_the_arms_of_no_backbone_is_told_of_the_others(caplog):
    """As after an experiment whose every arm has a variant of the backbone."""
    deep = record_at(0.5, "erm@deep", card={"backbone": "deep"})
    markov = record_at(0.5, "markov", None)
    assert select_arms([deep, markov], STATISTICS, EVALUATE) == [markov]
    assert "trained with evaluate.backbone=null; there are some with deep" in caplog.text
    caplog.clear()
    select_arms([deep, markov, record_at(0.5, "erm")], STATISTICS, EVALUATE)
    assert caplog.text == ""


def test_only_seeds_that_agree_with_the_newest_count(caplog):
    records = [
        record_at(0.5, "erm"),
        record_at(0.3, "cvar", 0, cvar={"alpha": 0.3}),
        record_at(0.5, "cvar", 1, cvar={"alpha": 0.5}),
        record_at(0.5, "cvar", 2, cvar={"alpha": 0.5}),
    ]
    selected = select_arms(records, STATISTICS, EVALUATE)
    assert [record.label for record in selected] == ["erm (seed 0)", "cvar (seed 1)", "cvar (seed 2)"]
    assert "cvar (seed 0) is left out" in caplog.text
    assert "cvar.alpha" in caplog.text


def test_a_seed_that_was_trained_again_counts_once():
    first = record_at(0.4, "erm")
    again = record_at(0.5, "erm", card={"finished": "2026-02-01T00:00:00+00:00"})
    assert select_arms([again, first], STATISTICS, EVALUATE) == [again]


def test_arms_of_another_backbone_are_left_out():
    """Untrained arms have none and stand beside all; within its backbone an arm has its short name."""
    names = {"erm": None, "erm@deep": "deep", "cvar@a@deep": "deep", "erm@wide": "wide"}
    records = [record_at(0.5, name, card={"backbone": backbone}) for name, backbone in names.items()]
    records.append(record_at(0.1, "recency", None))
    assert [record.arm for record in select_arms(records, STATISTICS, EVALUATE)] == ["erm", "recency"]
    deep = select_arms(records, STATISTICS, EVALUATE.model_copy(update={"backbone": "deep"}))
    assert [record.arm for record in deep] == ["erm@deep", "cvar@a@deep", "recency"]
    assert [record.without_backbone().arm for record in deep] == ["erm", "cvar@a", "recency"]


def test_order_is_that_of_the_methods_with_untrained_arms_last():
    names = ["mine", "kl", "causald", "cvar", "chi2", "gdro-seq33", "erm", "gdro-pop33"]
    records = [record_at(0.1, "recency", None), *(record_at(0.5, name) for name in names)]
    assert [record.arm for record in select_arms(records, STATISTICS, EVALUATE)] == [
        *("erm", "gdro-pop33", "gdro-seq33", "cvar", "chi2", "kl", "causald", "mine", "recency")
    ]
