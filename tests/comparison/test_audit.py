"""Every number of NDCG@20 has what stands behind it."""

from __future__ import annotations

import sys

import pandas as pd

from fairrec_pipeline.arms.code import commit
from fairrec_pipeline.comparison.audit import audit
from fairrec_pipeline.comparison.comparison import compare_arms
from fairrec_pipeline.comparison.trainings import trainings
from fairrec_pipeline.experiments.train_arm import _card
from fairrec_pipeline.report.audit_tables import audit_table
from fairrec_pipeline.report.evidence import Evidence
from tests.worlds import EVALUATE, STATISTICS, compared_groups, prepared_data, record_at, spec_of, with_parts


def test_a_row_for_every_cell_with_what_its_arm_says(tmp_path):
    train = {"epochs": 16, "steps_per_epoch": 128, "batch_size": 64}
    card = {"command": "kedro run --pipeline=tune", "commit": "abc-dirty", "seconds": 10.0}
    point = {"point": "alpha=0.3", "options": {"alpha": 0.3}, "seed": 0, "card": {"seconds": 7.0, "device": "cpu"}}
    runs = [point, point | {"point": "alpha=0.6", "options": {"alpha": 0.6}}]
    records = [
        with_parts(record_at(0.5, "cvar", 0, train=train), card, tuning_runs=runs),
        with_parts(record_at(0.5, "cvar", 1, train=train), card | {"commit": "def"}),
        record_at(0.4, "recency", None),
    ]
    groups = compared_groups()
    comparison = compare_arms(records, groups, dataset="synthetic", evaluate=EVALUATE)
    statistics = STATISTICS | {"prepared_with": {"split": {"kind": "temporal", "core": 5}}}
    table = audit(comparison, records, trainings(records, groups), statistics)
    cells = comparison[comparison["metric"] == "ndcg_at_20"]
    assert len(table) == len(cells)
    pd.testing.assert_series_equal(table["value"], cells["value"].reset_index(drop=True))
    assert set(table["data_fingerprint"]) == {"f" * 64}
    assert set(table["data_split"]) == {"kind=temporal core=5"}
    assert set(table.loc[table["split"] == "pop33", "labels_fingerprint"]) == {"a" * 64}
    cvar = table[(table["arm"] == "cvar") & (table["split"] == "overall")].iloc[0]
    assert (cvar["seeds"], cvar["tuning_points"], cvar["tuned"]) == ("0, 1", 2, "alpha")
    assert (cvar["commit"], cvar["command"]) == ("abc-dirty; def", "kedro run --pipeline=tune")
    assert cvar["seconds"] == 10
    assert cvar["total_seconds"] == 2 * 10 + 2 * 7
    table.to_csv(tmp_path / "audit.csv", index=False)
    again = audit_table(Evidence(comparison, audit=pd.read_csv(tmp_path / "audit.csv")))
    assert [[cell.text for cell in row.cells] for row in again.rows] == [
        [cell.text for cell in row.cells] for row in audit_table(Evidence(comparison, audit=table)).rows
    ]
    recency = table[table["arm"] == "recency"].iloc[0]
    assert recency[["seeds", "command", "commit", "device", "file"]].tolist() == [""] * 5


def test_a_card_has_command_and_commit(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/kedro", "run", "--params", "dataset=my shop"])
    card = _card(spec_of(), prepared_data())
    assert card["command"] == "kedro run --params 'dataset=my shop'"
    assert card["commit"] == commit()
