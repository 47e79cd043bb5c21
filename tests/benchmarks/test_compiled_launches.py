"""The count of what a compiled step launches; inductor writes for CUDA only where torch was built with it."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from benchmarks.compiled_launches import compiled_step_launches
from fairrec_pipeline.training.compiled import compiled

MOST = 90
"""Asked of a step of the published job."""


@pytest.mark.skipif(
    torch.version.cuda is None or torch.cuda.is_available() or importlib.util.find_spec("triton") is None,
    reason="counts where torch has CUDA and Triton, and no GPU",
)
@pytest.mark.parametrize("loss", ["erm", "cvar"])
def test_the_published_backbone(loss: str) -> None:
    """Every product is one of those that the mathematics asks for; how many kernels the rest takes is inductor's."""
    counts = compiled_step_launches(loss)
    assert counts.total() <= MOST
    assert counts["extern_kernels.addmm"] + counts["extern_kernels.mm"] == 3 * (3 * 4 + 1)
    assert counts["torch.ops.aten._flash_attention_forward.default"] == 3
    compiled.cache_clear()
