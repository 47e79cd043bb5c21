"""The count of what a recorded step launches: by hand where that can be done, and no more than is written down."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.launches import step_launches
from fairrec_pipeline.training import step as step_module

SIZES: dict[str, Any] = {
    "dim": 16, "feed_forward": 16, "blocks": 2, "heads": 1, "dropout": 0.2, "max_length": 20, "init_std": 0.02,
}  # fmt: skip


def test_a_step_by_hand() -> None:
    """Two blocks: 4 products each, twice as many for their gradients, 3 of the head; 5 norms; dropout after the
    embeddings, in 3 parts of a block and on the output embedding; a bias has one sum."""
    counts = step_launches(sizes=SIZES, n_items=40)
    assert counts["addmm"] == 8
    assert counts["mm"] == 2 * 8 + 3
    assert counts["native_layer_norm"] == counts["native_layer_norm_backward"] == 5
    assert counts["native_dropout"] == counts["native_dropout_backward"] == 1 + 3 * 2 + 1
    assert counts["_flash_attention_forward"] == counts["_flash_attention_backward"] == 2
    assert counts["sum"] == 8 + 1  # and the normaliser
    assert counts["_foreach_copy_"] == 2
    assert "embedding_dense_backward" not in counts
    assert "clamp_" not in counts  # of the logits


def test_more_without_copies_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cast for each of 16 weights and biases, and one for each gradient, instead of two calls."""
    few = step_launches(sizes=SIZES, n_items=40)
    monkeypatch.setattr(step_module, "HalfWeights", lambda _: None)
    more = step_launches(sizes=SIZES, n_items=40)
    assert more["_to_copy"] - few["_to_copy"] == 32
    assert more.total() - few.total() == 30


@pytest.mark.parametrize(("loss", "most"), [("erm", 205), ("cvar", 207)])
def test_the_published_backbone(loss: str, most: int) -> None:
    """What docs/performance.md says."""
    assert step_launches(loss).total() == most
