"""Bad input: a clear error, and nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.io import DatasetError

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.parameters.loader import ParameterError
from tests.projects import run_pipeline

SHOP = """
datasets:
  shop: {adapter: table, interactions: LOG, user: customer, item: sku, timestamp: at,
         parameters: {split: {core: 1, validation_users: 1}}}
"""
# three users with three items each: enough for core=1
GOOD = pd.DataFrame({"customer": [1, 1, 1, 2, 2, 2, 3, 3, 3], "sku": [1, 2, 3] * 3, "at": [1, 2, 3] * 3}, dtype="int64")


def shop(project: Path, log: pd.DataFrame, name: str = "log.csv") -> None:
    (project / "conf/test/parameters_shop.yml").write_text(SHOP.replace("LOG", name))
    folder = project / "data/01_raw/shop"
    folder.mkdir(parents=True)
    log.to_csv(folder / "log.csv", index=False)


def written(project: Path) -> list[Path]:
    raw = project / "data/01_raw"
    files = [path for path in (project / "data").rglob("*") if path.is_file() and path.suffix != ".lock"]
    return [path for path in files if raw not in path.parents]


def test_the_good_log_passes(project: Path) -> None:
    shop(project, GOOD)
    run_pipeline(project, "data", dataset="shop")
    (interactions,) = project.glob("data/05_model_input/shop/interactions.parquet/*/interactions.parquet")
    assert (
        pd.read_parquet(interactions).groupby("user_id")["role"].agg(list).map(lambda roles: roles[-1]).eq("test").all()
    )


@pytest.mark.parametrize(
    ("log", "runtime", "said"),
    [
        (GOOD.drop(columns="sku"), {}, "sku"),
        (GOOD.astype({"at": "object"}).assign(at=["soon", *GOOD["at"][1:]]), {}, "soon"),
        (GOOD.assign(customer=pd.array([None, *GOOD["customer"][1:]], "Int64")), {}, "customer"),
        (GOOD[:0], {}, "log.csv"),
        (GOOD, {"split": {"core": 4}}, "empty after the filter"),
        (GOOD[:7], {}, "too few interactions to be split: 3 (1 of"),
        (GOOD, {"split": {"validation_users": 4}}, "asks for 4 validation users"),
    ],
    ids=["missing column", "timestamp", "null id", "empty", "empty after the filter", "one interaction", "too many"],
)  # fmt: skip
def test_a_bad_log_is_refused_before_anything_is_written(
    project: Path, log: pd.DataFrame, runtime: dict[str, Any], said: str
) -> None:
    shop(project, log)
    with pytest.raises(DataError) as error:
        run_pipeline(project, "data", dataset="shop", **runtime)
    assert said in str(error.value)
    assert written(project) == []


def test_labels_of_dropped_users_alone_are_refused_before_anything_is_written(project: Path) -> None:
    """User 9 has a label and two items that nobody else has: split.core=2 drops all of them."""
    alone = pd.DataFrame({"customer": [9, 9], "sku": [90, 91], "at": [1, 2]})
    shop(project, pd.concat([GOOD, alone]))
    block = project / "conf/test/parameters_shop.yml"
    block.write_text(
        block.read_text().replace("timestamp: at,", "timestamp: at, users: users.csv, user_attributes: [plan],")
    )
    (project / "data/01_raw/shop/users.csv").write_text("customer,plan\n9,gold\n")
    with pytest.raises(
        DataError, match=r"no user that split.core keeps has a value in plan: .* Lower split.core, bring"
    ):
        run_pipeline(project, "data", dataset="shop", split={"core": 2})
    assert written(project) == []


@pytest.mark.parametrize("name", ["{a}", "${a}", "a\tb"])
def test_a_name_that_is_none_is_refused_in_plain_words(project: Path, name: str) -> None:
    """Kedro would take braces for a pattern of its own, and DuckDB could not write below the tab."""
    block = {"adapter": "table", "interactions": "log.csv", "user": "customer", "item": "sku", "timestamp": "at"}
    (project / "conf/test/parameters_shop.yml").write_text(json.dumps({"datasets": {name: block}}))
    with pytest.raises(ParameterError, match="the name of a dataset is that of a folder"):
        run_pipeline(project, "data", dataset=name)


@pytest.mark.parametrize("name", ["absent.csv", "broken.parquet"])
def test_a_missing_or_damaged_file_is_refused_before_anything_is_written(project: Path, name: str) -> None:
    shop(project, GOOD, name)
    (project / "data/01_raw/shop/broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=name):
        run_pipeline(project, "train", dataset="shop")
    assert written(project) == []


def test_artifacts_of_another_dataset_or_damaged_ones_are_not_trained_on(project: Path) -> None:
    shop(project, GOOD)
    run_pipeline(project, "data", dataset="shop")
    run_pipeline(project, "data")
    (ours,) = project.glob("data/05_model_input/synthetic/histories.npz/*/histories.npz")
    (other,) = project.glob("data/05_model_input/shop/histories.npz/*/histories.npz")

    shutil.copy(other, ours)
    with pytest.raises(ValueError, match="not the prepared data of synthetic"):
        run_pipeline(project, "train", loss="cvar")

    ours.write_bytes(ours.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"histories\.npz cannot be read"):
        run_pipeline(project, "train", loss="cvar")
    assert not list(project.glob("data/06_models/**/*.safetensors"))
    assert not list(project.glob("data/07_model_output/**/*.parquet"))
