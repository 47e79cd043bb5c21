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


PACKAGE = DOCS.parent / "src" / "fairrec_pipeline"


def rows_of(heading: str, page: str) -> list[list[str]]:
    """Cells of the table below a heading, without its head."""
    text = (DOCS / page).read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_everything_is_where_the_page_says() -> None:
    rows = rows_of("Where is it?", "architecture.md")
    assert len(rows) == 20
    for question, answer in rows:
        place = PACKAGE / re.findall(r"`([^`]+)`", answer)[0]
        assert place.exists(), answer
        for message in re.findall(r'"([^"]+)"', question):
            for part in re.split(r"'[^']*'|\.\.\.|; ", message):
                words = part.strip(" ;?.")
                assert words in place.read_text() or words in " ".join(re.findall(r'"([^"]*)"', place.read_text())), (
                    words
                )


def test_the_walks_name_functions_that_there_are() -> None:
    text = (DOCS / "architecture.md").read_text().split("## Walks\n")[1].split("\n## ")[0]
    steps = re.findall(r"^\d\. `([\w.]+)`", text, flags=re.MULTILINE)
    assert len(steps) >= 16
    for step in steps:
        *modules, name = step.split(".")
        if modules[-1][0].isupper():
            modules, name = modules[:-1], modules[-1]
        file = PACKAGE.joinpath(*modules)
        source = (file.with_suffix(".py") if file.with_suffix(".py").exists() else file / "__init__.py").read_text()
        assert re.search(rf"^(def|class) {name}\b", source, flags=re.MULTILINE), step
