"""The examples of docs/serving.md do what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fairrec_pipeline.serving.recommender import Recommender
from fairrec_pipeline.serving.requests import Queries, Query

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def test_the_python_examples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, recommend, frames = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)  # the first logs to MLflow
    namespace = {"folder": folder}
    exec(recommend + frames, namespace)
    answer = Recommender.load(folder).recommend([10, 13], k=3, exclude=[16])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{answer.items} {answer.scores} 2\n")
    assert re.findall(r"^\d+ +(\w+) +(\d) ", printed, flags=re.MULTILINE) == [
        (user, str(rank)) for user in ("anna", "ben") for rank in (1, 2, 3)
    ]


def test_the_request_and_the_fields() -> None:
    (body,) = re.findall(r"-d '(.*?)'", PAGE)
    assert len(Queries[int].model_validate_json(body).inputs) == len(json.loads(body)["inputs"]) == 2
    described = re.findall(
        r"^\| `(\w+)` \|", PAGE.split("## A request and its answer")[1].split("An answer has")[0], flags=re.MULTILINE
    )
    assert described == list(Query.model_fields)
