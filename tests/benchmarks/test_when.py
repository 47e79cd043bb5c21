"""When does a robust objective help: what is measured of a training, and what is made of the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.when import calibration, figure, last_trained, main, measure, points, rank_correlation
from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.experiments.train_arm import record_of
from fairrec_pipeline.interactions.histories import Histories
from tests.worlds import EVALUATE, prepared_data, spec_of


def histories() -> Histories:
    """Users with 3, 1, 2 and 2 items; the next item of the last was never seen in training."""
    items, offsets = np.array([0, 1, 0, 2, 1, 1, 0, 2]), np.array([0, 3, 4, 6, 8])
    targets, repeats = np.array([2, 0, 0, -1]), np.array([False, False, False, False])
    return Histories(np.array([10, 11, 12, 13]), np.arange(3), items, offsets, targets, repeats)


def test_the_last_trained_item_is_the_target_of_what_came_before() -> None:
    found = last_trained(histories())
    assert found.users.tolist() == [10, 12]
    assert (found.items.tolist(), found.offsets.tolist()) == ([0, 1, 1], [0, 2, 3])
    assert (found.targets.tolist(), found.repeats.tolist()) == ([0, 1], [True, True])


def test_calibration_of_known_probabilities() -> None:
    """Three items at .8, .1, .1, the first is right for half of the users: .3 too sure. A seen item cannot be first."""
    users = Histories(np.arange(40), np.arange(3), np.full(40, 1), np.arange(41), np.tile([0, 2], 20))
    scores = torch.log(torch.tensor([[0.8, 0.1, 0.1]]).repeat(40, 1))
    found = calibration(lambda of: scores[of].clone(), users, filter_seen=False)
    assert found == pytest.approx({"confidence": 0.8, "hit_rate": 0.5, "calibration_error": 0.3}, abs=1e-6)
    without = calibration(lambda of: scores[of].clone(), users, filter_seen=True)
    assert without["confidence"] == pytest.approx(0.8 / 0.9)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ArmRecord], pd.DataFrame, pd.DataFrame]:
    """erm and cvar with two backbones, and erm without a variant."""
    data, folder = prepared_data(), str(tmp_path_factory.mktemp("store"))
    store = ArmStore(folder, folder, folder)
    of = (
        {"variants": ("small",), "backbone": "small"},
        {"variants": ("deep",), "backbone": "deep", "model": {"blocks": 2}},
    )
    specs = [spec_of("erm"), *(spec_of(arm, **named) for named in of for arm in ("erm", "cvar"))]
    records = [record_of(spec, data, store) for spec in specs]
    statistics = {"dataset": "made", "fingerprint": data.fingerprint, "group_fingerprints": data.group_fingerprints}
    return records, *measure(records, data, data.user_groups, statistics, EVALUATE)


def test_a_training_is_measured_by_the_weights_that_were_kept(
    measured: tuple[list[ArmRecord], pd.DataFrame, pd.DataFrame],
) -> None:
    records, cells, trainings = measured
    assert trainings[["backbone", "arm"]].to_numpy().tolist() == [
        ["deep", "erm"], ["deep", "cvar"], ["small", "erm"], ["small", "cvar"],
    ]  # fmt: skip
    erm = trainings.set_index(["backbone", "arm"]).loc["small", "erm"]
    validated = records[1].validation_user_metrics
    assert validated is not None
    assert erm["loss_next"] == pytest.approx(validated["loss"].mean(), rel=1e-5)
    assert erm["ndcg_next"] == pytest.approx(erm["validation_ndcg"])
    assert erm["gap"] == pytest.approx(erm["loss_next"] - erm["loss_last_trained"])
    assert not erm["stopped"]  # by its patience: it has none
    # the reference of a cell is the erm of its own backbone
    overall = cells[cells["split"] == "overall"].set_index(["backbone", "arm"])
    for backbone in ("deep", "small"):
        expected = overall.loc[(backbone, "cvar"), "value"] - overall.loc[(backbone, "erm"), "value"]
        assert overall.loc[(backbone, "cvar"), "delta_vs_erm"] == pytest.approx(expected)


def test_the_figure_has_a_point_a_backbone(measured: tuple[list[ArmRecord], pd.DataFrame, pd.DataFrame]) -> None:
    _, cells, trainings = measured
    cells = cells.replace({"arm": {"cvar": "cvar@worst30"}})
    (drawn,) = figure(cells, trainings).data
    found = points(cells, trainings).set_index("backbone")
    assert sorted(drawn.text) == ["deep", "small"]
    assert dict(zip(drawn.text, drawn.x, strict=True)) == found["erm_gap"].to_dict()
    assert dict(zip(drawn.text, drawn.y, strict=True)) == found["delta_vs_erm"].to_dict()


def test_a_rank_correlation_knows_how_few_the_backbones_are() -> None:
    rows = pd.DataFrame({"erm_gap": [1.0, 2, 3, 4], "delta_vs_erm": [0.1, 0.2, 0.3, 0.4]})
    assert rank_correlation(rows, "erm_gap").startswith("+1.00 (p 0.08")  # 2 of the 24 orders
    assert rank_correlation(rows[:3], "erm_gap") == "-"


def test_the_tables_of_the_page_are_those_of_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    page = Path("docs/results/when.md").read_text(encoding="utf-8")
    printed = [block for block in capsys.readouterr().out.split("\n\n") if block.startswith("|")]
    assert len(printed) >= 4
    assert [table.splitlines()[0] for table in printed if table not in page] == []
