"""What the catalog says of arms that cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import DatasetError

from fairrec_pipeline.catalog.arms import ArmRecommender
from fairrec_pipeline.cli import mistake_in


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"arm": "erm", "seed": 0}'])
def test_a_damaged_champion_is_named_with_the_next_step(content: str, tmp_path: Path) -> None:
    path = tmp_path / "champion.json"
    path.write_text(content)
    folders = {name: {"path": str(tmp_path / name)} for name in ("models", "outputs", "trials")}
    recommender = ArmRecommender(champion={"path": str(path)}, arm="champion", seed=0, part="model", **folders)
    with pytest.raises(DatasetError) as caught:
        recommender.load()
    said = mistake_in(caught.value)
    assert said is not None
    assert said.startswith(f"{path} is damaged (")
    assert said.endswith("Promote again: kedro run --pipeline=promote")
