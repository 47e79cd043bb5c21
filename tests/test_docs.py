"""The examples of the documentation do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import yaml

from fairrec_pipeline.objectives.base import LossBatch
from fairrec_pipeline.objectives.erm import Erm
from fairrec_pipeline.parameters.datasets import Source

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


def test_the_example_of_a_new_method() -> None:
    """Trimmed(share=0.25) of 4 users leaves out the highest loss and shares 1 among the 3 others; share=0 is ERM."""
    namespace: dict[str, object] = {}
    exec(blocks("adding_a_method.md", "python")[0], namespace)
    trimmed = namespace["Trimmed"]
    batch = LossBatch(torch.tensor([1.0, 4.0, 2.0, 3.0]), None)
    weights, state = trimmed(share=0.25).weights(batch, {})
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 0.0, 1 / 3, 1 / 3]))
    assert state == {}
    torch.testing.assert_close(trimmed(share=0.0).weights(batch, {})[0], Erm().weights(batch, {})[0])


def test_the_example_of_own_data_is_a_valid_dataset() -> None:
    (described,) = blocks("own_data.md", "yaml")
    source = Source.model_validate(yaml.safe_load(described)["datasets"]["shop"])
    assert source.root.attributes == ("region",)
