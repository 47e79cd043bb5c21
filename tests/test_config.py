"""The gate of the parameters: what passes, what is refused, and what the message says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairrec_pipeline.config import ParameterError, ParameterLoader, arm_name
from fairrec_pipeline.parameters import GROUP_DEPENDENT_LOSSES, LOSSES, Parameters
from fairrec_pipeline.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[1] / "conf"


def load(runtime: dict[str, Any] | None = None, env: str = "base", conf: Path = CONF) -> dict[str, Any]:
    loader = ParameterLoader(str(conf), env=env, runtime_params=runtime, **CONFIG_LOADER_ARGS)
    return loader["parameters"]


@pytest.mark.parametrize("env", ["base", "paper", "test"])
@pytest.mark.parametrize("dataset", ["synthetic", "retailrocket", "movielens-1m", "movielens-100k"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_environment_dataset_and_loss_is_valid(env: str, dataset: str, loss: str) -> None:
    parameters = load({"dataset": dataset, "loss": loss}, env)
    assert parameters["objective"]["loss"] == loss
    assert parameters["source"]["adapter"] == dataset


def test_every_parameter_has_one_value_in_base() -> None:
    assert set(load()) == {*Parameters.model_fields, *LOSSES, "source", "objective"}


def test_a_value_on_the_command_line_keeps_its_siblings() -> None:
    before = load(env="paper")["train"]
    assert load({"train": {"epochs": 3}}, "paper")["train"] == {**before, "epochs": 3}


def test_the_dataset_wins_over_the_general_value_and_the_command_line_over_both() -> None:
    assert load()["split"]["validation_users"] != 10_000
    assert load({"dataset": "retailrocket"})["split"]["validation_users"] == 10_000
    narrowed = {"dataset": "retailrocket", "split": {"validation_users": 50}}
    assert load(narrowed)["split"]["validation_users"] == 50


def test_the_published_protocol() -> None:
    """METHODS: backbone, budget, seen-item filter, validation users, IPW frequency and absent groups."""
    retailrocket = load({"dataset": "retailrocket"}, "paper")
    assert retailrocket["model"] == {
        "dim": 256, "feed_forward": 256, "blocks": 3, "heads": 1, "dropout": 0.2, "max_length": 200, "init_std": 1.0,
    }  # fmt: skip
    assert (retailrocket["train"]["epochs"], retailrocket["train"]["batch_size"]) == (1000, 128)
    assert retailrocket["evaluate"]["filter_seen"] is False
    movielens = load({"dataset": "movielens-1m"}, "paper")
    assert (movielens["train"]["epochs"], movielens["train"]["batch_size"]) == (700, 256)
    assert (movielens["model"]["dropout"], movielens["evaluate"]["filter_seen"]) == (0.5, True)
    assert movielens["split"]["validation_users"] == 1.0
    assert movielens["ipw"]["count"] == "interactions"
    assert movielens["gdro"]["absent_groups"] == movielens["sdro"]["absent_groups"] == "decay"


def test_arms_are_named_after_the_groups_they_use() -> None:
    assert arm_name("cvar", "seq33") == "cvar"
    assert {arm_name(loss, "seq33") for loss in GROUP_DEPENDENT_LOSSES} == {
        "ipw-seq33", "ipw_log-seq33", "gdro-seq33", "sdro-seq33",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("runtime", "said"),
    [
        ({"los": "cvar"}, "unknown 'los'; did you mean loss?"),
        ({"loss": "cvarr"}, "loss: unknown 'cvarr'; did you mean cvar?"),
        ({"dataset": "retailroket"}, "did you mean retailrocket?"),
        ({"train": {"epoch": 3}}, "unknown parameter train.epoch"),
        ({"train": {"learning_rate": "fast"}}, "train.learning_rate"),
        ({"loss": "cvar", "cvar": {"alpha": 0}}, "cvar.alpha: Input should be greater than 0 (got 0)"),
        ({"loss": "cvar", "cvar": {"alpha": 1.5}}, "cvar.alpha: Input should be less than or equal to 1 (got 1.5)"),
        ({"cvar": {"alpha": 1.5}}, "cvar.alpha"),
        ({"cvar": {"alfa": 0.5}}, "unknown parameter cvar.alfa"),
        ({"gdro": {"groups": "pop33"}}, "gdro.groups: set loss_groups instead"),
        ({"loss": "gdro", "loss_groups": None}, "loss_groups: gdro needs groups, got None; allowed: pop33"),
        ({"loss": "gdro", "loss_groups": "seq3"}, "unknown groups 'seq3'; allowed: pop33"),
        ({"grids": {"cvar": {"alpha": [0.3, 2]}}}, "grids.cvar.alpha: Input should be less than or equal to 1 (got 2)"),
        ({"grids": {"cvra": {"alpha": [0.3]}}}, "did you mean cvar?"),
        ({"device": "gpu"}, "device: Input should be 'auto', 'cpu' or 'cuda' (got 'gpu')"),
        ({"seed": -1}, "seed"),
        ({"groups": {"splits": {"pop33": [0.3, 0.3, 0.3]}}}, "shares of pop33 must be above 0 and sum to 1"),
        ({"split": {"validation_users": 1.5}}, "a share of the users lies in (0, 1], got 1.5"),
        ({"model": {"dim": 6, "heads": 4}}, "dim must be a multiple of heads, got dim 6 and heads 4"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_with_a_reason(runtime: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError) as error:
        load(runtime)
    assert said in error.value.message


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ParameterError) as error:
        load({"seed": -1, "train": {"epochs": 0, "lr": 1}, "cvar": {"alpha": 2}})
    for name in ("seed", "train.epochs", "train.lr", "cvar.alpha"):
        assert name in error.value.message


def test_a_folder_name_set_in_two_places_is_refused(project: Path) -> None:
    (project / "conf/local/parameters.yml").write_text("loss: cvar\n")
    with pytest.raises(ParameterError, match=r"globals\.yml"):
        load(env="local", conf=project / "conf")


def test_own_data_by_configuration_only(project: Path) -> None:
    (project / "conf/local/parameters.yml").write_text(
        "datasets: {shop: {adapter: table, interactions: log.csv, user: customer, item: sku, timestamp: at,"
        " users: customers.csv, user_attributes: [region]}}\n"
    )
    parameters = load({"dataset": "shop", "loss": "gdro", "loss_groups": "region"}, "local", project / "conf")
    assert parameters["source"]["user"] == "customer"
    assert parameters["objective"]["groups"] == "region"
