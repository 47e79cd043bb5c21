"""The gate of the parameters: what passes, what is refused, and what the message says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fairrec_pipeline.parameters.loader import ParameterError, ParameterLoader, arm_name
from fairrec_pipeline.parameters.blocks import GROUP_DEPENDENT_LOSSES, LOSSES, Parameters, Plan
from fairrec_pipeline.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[1] / "conf"


def load(runtime: dict[str, Any] | None = None, env: str = "base", conf: Path = CONF) -> dict[str, Any]:
    loader = ParameterLoader(str(conf), env=env, runtime_params=runtime, **CONFIG_LOADER_ARGS)
    return loader["parameters"]


@pytest.mark.parametrize("env", ["base", "paper", "test"])
@pytest.mark.parametrize("dataset", ["synthetic", "retailrocket", "movielens-1m", "movielens-100k"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_environment_dataset_and_loss_is_valid(env: str, dataset: str, loss: str) -> None:
    model = {"copy_window": 0} if loss == "causald" else {}  # which does not go with RetailRocket's copy mechanism
    parameters = load({"dataset": dataset, "loss": loss, "model": model}, env)
    assert parameters["objective"]["loss"] == loss
    assert parameters["source"]["adapter"] == dataset


def test_every_parameter_has_one_value_in_base() -> None:
    assert set(load()) == {*Parameters.model_fields, *LOSSES, "source", "objective", "plan"}


def test_a_value_on_the_command_line_keeps_its_siblings() -> None:
    before = load(env="paper")["train"]
    assert load({"train": {"epochs": 3}}, "paper")["train"] == {**before, "epochs": 3}


def test_the_dataset_wins_over_the_general_value_and_the_command_line_over_both() -> None:
    assert load()["split"]["validation_users"] != 10_000
    assert load({"dataset": "retailrocket"})["split"]["validation_users"] == 10_000
    narrowed = {"dataset": "retailrocket", "split": {"validation_users": 50}}
    assert load(narrowed)["split"]["validation_users"] == 50


PAPER_GRIDS = [("cvar", "alpha"), ("gdro", "eta"), ("sdro", "eta")]


def test_the_published_protocol() -> None:
    """METHODS: backbone, budget, seen-item filter, validation users, IPW frequency and absent groups."""
    retailrocket = load({"dataset": "retailrocket"}, "paper")
    assert retailrocket["model"] == {
        "dim": 256, "feed_forward": 256, "blocks": 3, "heads": 1, "dropout": 0.2, "max_length": 200, "init_std": 1.0,
        "tied_embeddings": False,
        "copy_window": 0,
    }  # fmt: skip
    train = {name: retailrocket["train"][name] for name in ("epochs", "batch_size", "learning_rate", "warm_up_steps")}
    assert train == {"epochs": 1000, "batch_size": 128, "learning_rate": 0.001, "warm_up_steps": 0}
    assert (retailrocket["train"]["schedule"], retailrocket["train"]["patience"]) == ("constant", None)
    assert [len(retailrocket["grids"][loss][option]) for loss, option in PAPER_GRIDS] == [10, 5, 5]
    searched_here = {loss for loss in retailrocket["grids"] if "train.learning_rate" in retailrocket["grids"][loss]}
    assert searched_here == {"erm", "cb", "cb_log", "ipw", "ipw_log"}
    assert all(retailrocket["grids"][loss] == {"train.learning_rate": [0.001]} for loss in searched_here)
    assert retailrocket["evaluate"]["filter_seen"] is False
    movielens = load({"dataset": "movielens-1m"}, "paper")
    assert (movielens["train"]["epochs"], movielens["train"]["batch_size"]) == (700, 256)
    assert (movielens["model"]["dropout"], movielens["evaluate"]["filter_seen"]) == (0.5, True)
    assert movielens["split"]["validation_users"] == 1.0
    smaller = load({"dataset": "movielens-100k"}, "paper")
    assert (smaller["train"], smaller["model"]) == (movielens["train"], movielens["model"])
    assert all(smaller["grids"][loss] == retailrocket["grids"][loss] for loss in (*searched_here, "cvar", "gdro"))
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
        ({"grids": {"erm": {"train.learning_rte": [0.1]}}}, "did you mean train.learning_rate?"),
        ({"grids": {"erm": {"train.learning_rate": [0.1, 0]}}}, "grids.erm.train.learning_rate: Input should be"),
        ({"grids": {"erm": {"model.heads": [1, 3]}}}, "dim must be a multiple of heads, got dim 64 and heads 3"),
        ({"grids": {"erm": {"model.dim": []}}}, "grids.erm.model.dim: List should have at least 1 item"),
        ({"grids": {"backbone": {"alpha": [0.3]}}}, "grids.backbone: unknown 'alpha'"),
        ({"experiment": "tabel2"}, "experiment: unknown 'tabel2'; did you mean table2?"),
        ({"experiments": {"small": {"arms": ["cvra"]}}}, "experiments.small.arms: unknown 'cvra'; did you mean cvar?"),
        ({"experiments": {"small": {"arms": ["gdro"]}}}, "gdro needs groups, as in gdro-pop33; allowed: pop33"),
        ({"experiments": {"small": {"arms": ["gdro-pop3"]}}}, "gdro-pop3: unknown groups 'pop3'; allowed: pop33"),
        ({"experiments": {"small": {"arms": ["cvar-pop33"]}}}, "cvar uses no groups; write cvar"),
        ({"experiments": {"small": {"arms": ["erm", "erm"]}}}, "experiments.small.arms: erm is named twice"),
        ({"experiments": {"small": {"arms": []}}}, "experiments.small.arms"),
        ({"experiments": {"small": {"seeds": 0}}}, "experiments.small.seeds"),
        ({"experiments": {"small": {"tune": "backbon"}}}, "small.tune: unknown 'backbon'; did you mean backbone?"),
        ({"experiments": {"small": {"tuned": True}}}, "unknown parameter experiments.small.tuned"),
        ({"trials_at_once": 0}, "trials_at_once: Input should be greater than or equal to 1 (got 0)"),
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


def plan(**runtime: Any) -> tuple[list[str], dict[str, Any]]:
    """Arms of the chosen experiment, and its plan as nodes get it."""
    loaded = load(runtime)["plan"]
    Plan.model_validate(loaded)
    return [arm_name(arm["objective"]["loss"], arm["objective"].get("groups")) for arm in loaded["arms"]], loaded


@pytest.mark.parametrize("asked", [{"loss": "causald"}, {"experiment": "methods"}])
def test_causald_does_not_copy(asked: dict[str, str]) -> None:
    with pytest.raises(ParameterError, match=r"model.copy_window: causald .* set it to 0"):
        load({"dataset": "retailrocket", **asked})
    load({"dataset": "retailrocket", "model": {"copy_window": 0}, **asked})
    load({"dataset": "retailrocket", "causald": {"weight": 0.0}, **asked})


def test_the_tables_of_the_paper_have_its_arms() -> None:
    """Tables 2, 3, 5, 6: four arms without groups, and four methods with each of three splits; 4 and 7: with pop33 and
    seq33 (and atomic, which is ours). Those that are published have all cells of published_ndcg20.csv."""
    for number, dataset in enumerate([*["retailrocket"] * 3, *["movielens-1m"] * 3], start=2):
        arms, _ = plan(experiment=f"table{number}", dataset=dataset)
        kinds = {4: ("pop33", "seq33", "atomic"), 7: ("pop33", "seq33", "atomic")}.get(
            number, tuple(f"{'pop' if number in (2, 5) else 'seq'}{split}" for split in ("33", "2060", "1080"))
        )
        by_group = {f"{loss}-{groups}" for loss in ("ipw", "ipw_log", "gdro", "sdro") for groups in kinds}
        assert len(arms) == 16
        assert set(arms) == {"erm", "cb", "cb_log", "cvar"} | by_group


def test_arms_are_tuned_by_the_grids_of_the_paper() -> None:
    _, found = plan(experiment="table2")
    points = {
        arm["objective"]["loss"]: None if arm["grid"] is None else len(next(iter(arm["grid"].values())))
        for arm in found["arms"]
    }
    assert points == {
        "erm": None, "cb": None, "cb_log": None, "ipw": None, "ipw_log": None, "cvar": 10, "gdro": 5, "sdro": 5,
    }  # fmt: skip


def test_no_method_is_tuned_more_than_another_on_movielens_100k() -> None:
    _, found = plan(experiment="methods", dataset="movielens-100k")
    points = {
        arm["objective"]["loss"]: math.prod(len(values) for values in (arm["grid"] or {}).values())
        for arm in found["arms"]
    }
    assert set(points.values()) <= {3, 4}, points


def test_every_loss_takes_part_where_all_are_asked_for() -> None:
    arms, _ = plan(experiment="methods", loss_groups="seq33")
    assert arms == [arm_name(loss, "seq33") for loss in LOSSES]


def test_seeds_are_a_list_or_a_count_from_the_seed_on() -> None:
    assert plan(experiment="robust")[1]["seeds"] == [0, 1, 2]
    assert plan(experiment="robust", seed=10, experiments={"robust": {"seeds": 2}})[1]["seeds"] == [10, 11]
    assert plan(experiment="robust", experiments={"robust": {"seeds": [4, 2]}})[1]["seeds"] == [4, 2]


def test_the_backbone_grid_is_that_of_appendix_b() -> None:
    (only,) = plan(experiment="backbone")[1]["arms"]
    sizes = {name: len(values) for name, values in only["grid"].items()}
    assert sizes == {
        "model.dim": 2, "model.feed_forward": 2, "model.blocks": 3, "model.heads": 3, "model.dropout": 3,
        "train.batch_size": 2,
    }  # fmt: skip


def test_an_attribute_groups_an_arm_where_the_dataset_has_it() -> None:
    robust = {"robust": {"arms": ["erm", "gdro-gender"]}}
    assert plan(experiment="robust", experiments=robust, dataset="movielens-100k")[0] == ["erm", "gdro-gender"]
    with pytest.raises(ParameterError, match="unknown groups 'gender'"):
        plan(experiment="robust", experiments=robust, dataset="retailrocket")
    assert plan(experiments=robust, dataset="retailrocket")  # not the one that is run


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
