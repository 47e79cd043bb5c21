"""What only a GPU can show; the checks themselves are in `benchmarks.gpu_checks`, which runs without pytest too."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_checks import BY_GROUP, CHECKS, OBJECTIVES
from fairrec_pipeline.models.attention import has_ragged_kernel
from fairrec_pipeline.parameters.methods import METHODS
from tests.worlds import RECORDABLE

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
on_cuda = pytest.mark.skipif(
    not has_ragged_kernel(256, 0.2, CUDA if torch.cuda.is_available() else CPU),
    reason="torch sees no CUDA device with flash attention here",
)


@on_cuda
@pytest.mark.parametrize("check", CHECKS)
def test_on_cuda(check: str) -> None:
    CHECKS[check](CUDA)


@pytest.mark.parametrize("check", [name for name in CHECKS if not name.startswith("dropout")])
def test_the_checks_run(check: str) -> None:
    """On the CPU, where most compare the CPU with itself; that of dropout has nothing to look at there."""
    CHECKS[check](CPU)


def test_every_objective_that_can_be_recorded_is_checked() -> None:
    assert set(OBJECTIVES) == set(RECORDABLE)
    for loss, (path, options) in OBJECTIVES.items():
        assert path == METHODS[loss].objective
        assert METHODS[loss].arguments.items() <= options.items()
        assert METHODS[loss].needs_groups == (loss in BY_GROUP)
