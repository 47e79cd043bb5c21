"""The parameters of a run: merged, completed and checked before anything else happens.

Kedro checks neither the names given to --params nor anything at the top level, so a typing error would train the
wrong thing and succeed. This loader is the one gate that `kedro run`, `kedro viz` and a notebook all pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from click import ClickException
from kedro.config import OmegaConfigLoader
from pydantic import BaseModel, ValidationError

from fairrec_pipeline.parameters.blocks import (
    GROUP_DEPENDENT_LOSSES,
    LOSSES,
    AnyObjective,
    Experiment,
    Model,
    Parameters,
    Source,
    Train,
    arm_name,
    parts_of_arm,
)

__all__ = ["ParameterError", "ParameterLoader", "arm_name", "complete"]

NAMES_OF_FOLDERS = ("dataset", "loss", "loss_groups", "seed")


class ParameterError(ClickException):
    """Parameters that cannot be run; the message names all of them, what is allowed and what to do."""


class ParameterLoader(OmegaConfigLoader):
    """Kedro's loader, with `parameters` completed by `complete`."""

    def __getitem__(self, key: str) -> dict[str, Any]:
        config: dict[str, Any] = super().__getitem__(key)
        if key != "parameters":
            return config
        folders = {name: self["globals"].get(name) for name in NAMES_OF_FOLDERS} | (self.runtime_params or {})
        return complete(config, self.runtime_params or {}, folders)


def complete(parameters: Mapping[str, Any], runtime: Mapping[str, Any], folders: Mapping[str, Any]) -> dict[str, Any]:
    """Check the whole tree and add what follows from it.

    The dataset's own `parameters` win over the general ones, and the command line (`runtime`) wins over both. Added are
    `source` (the block of the chosen dataset), `objective` (the block of the chosen loss), `plan` (the chosen
    experiment, worked out), and `loss` and `groups` inside the blocks of the losses.

    Args:
        parameters: the merged conf/*/parameters*.yml and --params.
        runtime: --params.
        folders: the values that the catalog's paths use, from globals.yml and --params.

    Raises:
        ParameterError: unknown names, values out of bounds; all of them in one message.
    """
    known = {*Parameters.model_fields, *LOSSES}
    problems = [_unknown(name, known) for name in parameters if name not in known]
    problems += [f"{name}: no value in conf/base" for name in sorted(known - set(parameters))]
    for name, allowed in (("dataset", parameters.get("datasets", {})), ("loss", LOSSES)):
        if parameters.get(name) not in allowed:
            problems.append(f"{name}: " + _unknown(str(parameters.get(name)), allowed))
    problems += [
        f"datasets.{name}: a block with an adapter is expected, got {block!r}"
        for name, block in (parameters.get("datasets") or {}).items()
        if not isinstance(block, Mapping)
    ]
    _raise(problems)

    tree = _merged(parameters, parameters["datasets"][parameters["dataset"]].get("parameters") or {})
    tree = _merged(tree, runtime)
    loss, loss_groups = tree["loss"], tree["loss_groups"]
    problems += [
        f"{name}: {tree[name]!r} here but {folders[name]!r} in the folders of the catalog; "
        "set it in globals.yml or with --params"
        for name in NAMES_OF_FOLDERS
        if tree[name] != folders[name]
    ]
    problems += _errors(Parameters, {name: value for name, value in tree.items() if name not in LOSSES})
    for name in LOSSES:
        block = dict(tree[name] or {})
        filled_in = {"loss": "loss", "groups": "loss_groups"}
        problems += [f"{name}.{field}: set {filled_in[field]} instead" for field in filled_in if field in block]
        tree[name] = {**block, "loss": name}
        if name in GROUP_DEPENDENT_LOSSES:
            tree[name]["groups"] = loss_groups
        # the groups of a loss that is not trained need not exist
        checked = tree[name] if name == loss or loss_groups else {**tree[name], "groups": "none"}
        if name == loss and name in GROUP_DEPENDENT_LOSSES and not loss_groups:
            problems.append(f"loss_groups: {loss} needs groups, got {loss_groups!r}; {_group_names(tree)}")
        else:
            problems += _errors(AnyObjective, checked, name)
    problems += _grid_errors(tree) + _experiment_errors(tree)
    _raise(problems)

    source = Source.model_validate(tree["datasets"][tree["dataset"]])
    clashes = {name.casefold() for name in source.root.attributes} & {
        name.casefold() for name in tree["groups"]["splits"]
    }
    if clashes:
        _raise(
            [f"datasets.{tree['dataset']}.user_attributes: {', '.join(sorted(clashes))} is a split of groups.splits"]
        )
    if loss_groups and loss_groups not in _groups_of(tree, source):
        _raise([f"loss_groups: unknown groups {loss_groups!r}; {_group_names(tree)}"])
    plan = _plan(tree)
    trained = {loss: f"loss={loss}", **{arm["objective"]["loss"]: f"experiment={plan['name']}" for arm in plan["arms"]}}
    if "causald" in trained and tree["model"]["copy_window"] and tree["causald"]["weight"]:
        _raise([f"model.copy_window: causald ({trained['causald']}) does not distil copied scores; set it to 0"])
    return {**tree, "source": tree["datasets"][tree["dataset"]], "objective": tree[loss], "plan": plan}


def _grid_errors(tree: Mapping[str, Any]) -> list[str]:
    """Grids, options and values that there are not, or that are out of bounds at some point of a grid."""
    grids = tree["grids"] if isinstance(tree["grids"], Mapping) else {}
    experiments = tree["experiments"].values() if isinstance(tree["experiments"], Mapping) else ()
    tuned_by = {block.get("tune") for block in experiments if isinstance(block, Mapping)}
    # a grid of its own name is that of an experiment, so that a mistyped loss does not pass for one
    problems = [f"grids: {_unknown(name, LOSSES)}" for name in grids if name not in LOSSES and name not in tuned_by]
    for name, grid in grids.items():
        if (name not in LOSSES and name not in tuned_by) or not isinstance(grid, Mapping):
            continue
        dotted = {f"{block}.{option}" for block, model in _BLOCKS_OF_GRIDS.items() for option in model.model_fields}
        own = set() if name not in LOSSES else set(LOSSES[name].model_fields) - {"loss", "groups"}
        unknown = [option for option in grid if option not in dotted | own]
        # what is no option of a loss is left to the model of the loss, which says so
        problems += [
            f"grids.{name}: {_unknown(option, sorted(dotted | own))}"
            for option in unknown
            if name not in LOSSES or "." in option
        ]
        values = [value if isinstance(value, list) else [value] for value in grid.values()]
        if unknown and any("." in option or name not in LOSSES for option in unknown):
            continue
        for point in itertools.product(*values):
            problems += _point_errors(tree, name, dict(zip(grid, point, strict=True)))
    return list(dict.fromkeys(problems))


_BLOCKS_OF_GRIDS: dict[str, type[Model | Train]] = {"model": Model, "train": Train}


def _point_errors(tree: Mapping[str, Any], grid: str, point: Mapping[str, Any]) -> list[str]:
    problems = []
    blocks: dict[str, dict[str, Any]] = {}
    for name, value in point.items():
        block, _, option = name.rpartition(".")
        blocks.setdefault(block, {})[option] = value
    if grid in LOSSES:
        options = {**tree[grid], **blocks.pop("", {})}
        if grid in GROUP_DEPENDENT_LOSSES:
            options["groups"] = "none"  # which groups there are is another question
        problems += _errors(AnyObjective, options, f"grids.{grid}")
    for block, values in blocks.items():
        problems += _errors(_BLOCKS_OF_GRIDS[block], {**tree[block], **values}, f"grids.{grid}.{block}")
    return problems


def _experiment_errors(tree: Mapping[str, Any]) -> list[str]:
    """What there is not of the arms and grids that the experiments name."""
    experiments = tree["experiments"] if isinstance(tree["experiments"], Mapping) else {}
    problems = []
    if tree["experiment"] not in experiments:
        problems.append("experiment: " + _unknown(str(tree["experiment"]), experiments))
    for name, block in experiments.items():
        if _errors(Experiment, block):
            continue  # said by the model of all parameters
        experiment = Experiment.model_validate(block)
        where = f"experiments.{name}"
        if isinstance(experiment.tune, str) and experiment.tune not in tree["grids"]:
            problems.append(f"{where}.tune: " + _unknown(experiment.tune, ["true", "false", *tree["grids"]]))
        if experiment.arms == "all":
            continue
        repeated = {arm for arm in experiment.arms if experiment.arms.count(arm) > 1}
        problems += [f"{where}.arms: {arm} is named twice" for arm in sorted(repeated)]
        for arm in experiment.arms:
            loss, groups = parts_of_arm(arm)
            if loss not in LOSSES:
                problems.append(f"{where}.arms: {_unknown(loss, LOSSES)}")
            elif loss in GROUP_DEPENDENT_LOSSES and groups is None:
                problems.append(f"{where}.arms: {arm} needs groups, as in {arm}-pop33; {_group_names(tree)}")
            elif loss not in GROUP_DEPENDENT_LOSSES and groups is not None:
                problems.append(f"{where}.arms: {arm}: {loss} uses no groups; write {loss}")
            # the groups of an experiment that is not run may be attributes of another dataset
            elif name == tree["experiment"] and groups and groups not in _groups_of_tree(tree):
                problems.append(f"{where}.arms: {arm}: unknown groups {groups!r}; {_group_names(tree)}")
    return problems


def _plan(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen experiment as `parameters.Plan` has it."""
    experiment = Experiment.model_validate(tree["experiments"][tree["experiment"]])
    names = experiment.arms if experiment.arms != "all" else [arm_name(loss, tree["loss_groups"]) for loss in LOSSES]
    seeds = experiment.seeds
    if isinstance(seeds, int):
        seeds = tuple(range(tree["seed"], tree["seed"] + seeds))
    arms = []
    for name in names:
        loss, groups = parts_of_arm(name)
        grid = tree["grids"].get(loss if experiment.tune is True else experiment.tune)
        arms.append({"objective": {**tree[loss], **({"groups": groups} if groups else {})}, "grid": grid})
    return {"name": tree["experiment"], "arms": arms, "seeds": list(seeds)}


def _groups_of_tree(tree: Mapping[str, Any]) -> list[str]:
    return _groups_of(tree, Source.model_validate(tree["datasets"][tree["dataset"]]))


def _groups_of(tree: Mapping[str, Any], source: Source) -> list[str]:
    return [*tree["groups"]["splits"], "atomic", *source.root.attributes]


def _group_names(tree: Mapping[str, Any]) -> str:
    return "allowed: " + ", ".join(_groups_of_tree(tree))


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, dicts key by key."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _errors(model: type[BaseModel], value: Any, prefix: str = "") -> list[str]:
    """Messages of a failed validation, one a parameter; empty if it is valid."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        return [_message(problem, prefix) for problem in error.errors()]
    return []


def _message(problem: Any, prefix: str) -> str:
    # a discriminated union (that of the losses) adds its tag to the location, which no user has written
    where = [str(part) for part in problem["loc"] if not (prefix and part in LOSSES)]
    name = ".".join(filter(None, [prefix, *where]))
    if problem["type"] == "extra_forbidden":
        return f"unknown parameter {name}"
    text = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {text} (got {problem['input']!r})"


def _unknown(name: str, allowed: Iterable[str]) -> str:
    close = get_close_matches(name, list(allowed), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown {name!r}; {hint}allowed: {', '.join(sorted(allowed))}"


def _raise(problems: list[str]) -> None:
    if problems:
        message = "these parameters cannot be run:\n" + "\n".join(f"  - {problem}" for problem in problems)
        raise ParameterError(message + "\nNames and values: conf/base/parameters*.yml")
