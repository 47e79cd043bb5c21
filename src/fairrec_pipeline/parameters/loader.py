"""The parameters of a run: merged, completed and checked before anything else happens.

Kedro checks neither the names given to --params nor anything at the top level, so a typing error would train the
wrong thing and succeed. This loader is the one gate that `kedro run`, `kedro viz` and a notebook all pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any

from click import ClickException
from kedro.config import MissingConfigException, OmegaConfigLoader
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError, safe_load

from fairrec_pipeline.errors import FairrecError
from fairrec_pipeline.parameters.blocks import Block, Execution, Model, Train
from fairrec_pipeline.parameters.experiments import Parameters, Tree, changes_backbone, message_of, plans, validated
from fairrec_pipeline.parameters.methods import CHAMPION, METHODS, VARIANT, parts_of_arm, variants_of_arm

NAMES_OF_FOLDERS = ("data_root", "dataset", "loss", "loss_groups", "seed", "recommend.arm")
_SECRET = re.compile("://[^/@]*:[^/]*@")  # user and password in an address


class ParameterError(FairrecError, ClickException):
    """Parameters that cannot be run; the message names all of them, what is allowed and what to do."""

    exit_code = 2


class ParameterLoader(OmegaConfigLoader):
    """Kedro's loader, with `parameters` completed by `complete`."""

    def __getitem__(self, key: str) -> dict[str, Any]:
        if key != "parameters" or key in self:
            with self._read(key):
                config: dict[str, Any] = super().__getitem__(key)
                return config
        runtime = dict(self.runtime_params or {})
        return complete([*self._files(), runtime], _laid(self["globals"], runtime))

    def _files(self) -> list[dict[str, Any]]:
        """Parameters of conf/base and of the environment, each by itself."""
        runtime, self.runtime_params = self.runtime_params, {}  # which Kedro would merge into every layer
        layers = []
        try:
            with self._read("parameters"):
                for folder in self._folders():
                    patterns = self.config_patterns["parameters"]
                    layers.append(dict(self.load_and_merge_dir_config(folder, patterns, "parameters", set())))
        except MissingConfigException as error:
            raise ParameterError(str(error)) from error
        finally:
            self.runtime_params = runtime
        return layers

    def _folders(self) -> list[str]:
        envs = dict.fromkeys([self.base_env, self.env or self.default_run_env])
        return [self._get_conf_env_path(env) for env in envs]

    @contextmanager
    def _read(self, key: str) -> Iterator[None]:
        """What goes wrong with the files of the user becomes one error that names them; there may be no files."""
        try:
            yield
        except (MissingConfigException, FairrecError):
            raise
        except (OmegaConfBaseException, YAMLError, ValueError, OSError, TypeError, AttributeError) as error:
            files = [
                path for folder in self._folders() for pattern in self.config_patterns.get(key, [])
                for path in sorted(Path(folder).glob(pattern)) if path.is_file() and not _holds_a_block(path)
            ]  # fmt: skip
            where = ", ".join(map(str, dict.fromkeys(files))) or f"conf/*/{key}*"
            message = f"{where} cannot be read: {error}\nA YAML file of names and values is expected; see conf/base"
            raise ParameterError(message) from error


def _holds_a_block(path: Path) -> bool:
    try:
        return isinstance(safe_load(path.read_text(encoding="utf-8")), Mapping | NoneType)
    except (YAMLError, ValueError, RecursionError):
        return False


def complete(layers: Sequence[Mapping[str, Any]], folders: Mapping[str, Any]) -> dict[str, Any]:
    """Merge, check the whole tree, and add what follows from it.

    Later layers win: conf/base, the environment, the command line. What a layer says of the chosen dataset
    (`datasets.<name>.parameters`) wins over what it says in general. Added are `source` (the block of the chosen
    dataset), `plans` (see `experiments.plans`) and `execution` (where they are trained).

    Args:
        layers: trees of parameters.
        folders: the values that the catalog's paths use, from globals.yml and --params.

    Raises:
        ParameterError: unknown names, values out of bounds; all of them in one message.
    """
    problems: list[str] = []
    tree = _merged(layers, problems)
    for name, allowed in (("dataset", _block(tree, "datasets")), ("loss", METHODS)):
        if str(tree.get(name)) not in allowed:
            problems.append(f"{name}: " + _unknown(str(tree.get(name)), allowed))
    for name in NAMES_OF_FOLDERS:
        here, there = (_at(values, *name.split(".")) for values in (tree, folders))
        if str(here) != str(there):
            in_both = "in the folders of the catalog; set it in globals.yml or with --params"
            problems.append(f"{name}: {here!r} here but {there!r} {in_both}")
    are_known = not problems
    parameters = validated(Tree, {name: tree[name] for name in Tree.model_fields if name in tree}, "", problems)
    if parameters is not None and are_known:
        problems += [*_group_errors(parameters), *_grid_errors(parameters)]
        problems += [*_variant_errors(parameters), *_experiment_errors(parameters)]
        if (arm := parameters.recommend.arm) not in (None, CHAMPION):
            problems += _arm_errors(parameters, "recommend.arm", [arm])
            problems += _unknown_variants("recommend.arm", variants_of_arm(arm), parameters.variants)
    _raise(problems)
    assert parameters is not None  # else there was a problem
    found = plans(parameters)
    _raise(found["train"].get("problems", []))
    execution = {name: tree[name] for name in Execution.model_fields}
    return {**tree, "source": tree["datasets"][parameters.dataset], "plans": found, "execution": execution}


def _merged(layers: Sequence[Mapping[str, Any]], problems: list[str]) -> dict[str, Any]:
    """One tree of all layers; unknown names are problems."""
    layers = [_with_text_keys(layer) for layer in layers]
    dataset = str(next((layer["dataset"] for layer in reversed(layers) if "dataset" in layer), None))
    known, where = set(Tree.model_fields), f"datasets.{dataset}.parameters: "
    special_names = known - {"dataset", "datasets"}
    tree: dict[str, Any] = {}
    for layer in layers:
        special = _block(layer, "datasets", dataset, "parameters")
        problems += [_unknown(name, known) for name in layer if name not in known]
        problems += [where + _unknown(name, special_names) for name in special if name not in special_names]
        tree = _laid(_laid(tree, layer), special)
    return {**tree, "dataset": dataset}


def _laid(tree: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """A layer over a tree, block by block."""
    blocks = {
        name for name, value in layer.items() if isinstance(value, Mapping) and isinstance(tree.get(name), Mapping)
    }
    return {**tree, **layer, **{name: _laid(tree[name], layer[name]) for name in blocks}}


def _with_text_keys(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The same with names that are text: YAML reads `2024:` as a number."""
    return {str(name): _with_text_keys(value) if isinstance(value, Mapping) else value for name, value in tree.items()}


def _group_errors(parameters: Parameters) -> Iterable[str]:
    source = parameters.source
    names = {name.casefold() for name in parameters.groups.splits}
    clashes = sorted({name.casefold() for name in source.root.attributes} & names)
    if clashes:
        yield f"datasets.{parameters.dataset}.user_attributes: {', '.join(clashes)} is a split of groups.splits"
    groups, allowed = parameters.loss_groups, f"allowed: {', '.join(parameters.group_names)}"
    if not groups and METHODS[parameters.loss].needs_groups:
        yield f"loss_groups: {parameters.loss} needs groups, got {groups!r}; {allowed}"
    if groups and groups not in parameters.group_names:
        yield f"loss_groups: unknown groups {groups!r}; {allowed}"
    elif groups and VARIANT in groups:
        yield f"loss_groups: {groups!r} has an {VARIANT}, which begins a variant; rename the attribute"


def _grid_errors(parameters: Parameters) -> Iterable[str]:
    """Grids and options that there are not, and values that are out of bounds by themselves.

    How a value goes with others is asked of the grid that a run uses, by `experiments.plans`.
    """
    tuned_by = {experiment.tune for experiment in parameters.experiments.values()}
    for name, grid in parameters.grids.items():
        # a grid of another name is that of an experiment, so that a mistyped loss does not pass for one
        if name not in METHODS and name not in tuned_by:
            yield f"grids: {_unknown(name, METHODS)}"
            continue
        blocks = {"model.": parameters.model, "train.": parameters.train}
        if name in METHODS:
            blocks[""] = parameters.options(name)
        known = {
            prefix + field: (prefix, field) for prefix, block in blocks.items() for field in type(block).model_fields
        }
        for option, values in grid.items():
            if option not in known:
                yield f"grids.{name}: {_unknown(option, known)}"
                continue
            prefix, field = known[option]
            for value in values:
                yield from _value_errors(blocks[prefix], field, value, f"grids.{name}.{prefix}".rstrip("."))


def _value_errors(block: Block, field: str, value: Any, where: str) -> list[str]:
    """What is wrong with one value of a block by itself."""
    try:
        type(block).model_validate({**block.model_dump(), field: value})
    except ValidationError as error:
        # without a location it is about several values
        return [message_of(problem, where) for problem in error.errors() if problem["loc"]]
    return []


def _variant_errors(parameters: Parameters) -> Iterable[str]:
    """What a variant changes that there is not; its values are checked with the plan of an arm that has it.

    And a backbone to compare that no variant makes: no arm would be of it.
    """
    options = {loss: method.options for loss, method in METHODS.items()}
    blocks: dict[str, type[Block]] = {"model": Model, "train": Train, **options}
    known = {f"{block}.{name}" for block, model in blocks.items() for name in model.model_fields}
    for variant, values in parameters.variants.items():
        yield from (f"variants.{variant}: {_unknown(name, known)}" for name in values if name not in known)
    if (backbone := parameters.evaluate.backbone) is not None:
        of_backbone = [variant for variant, values in parameters.variants.items() if changes_backbone(values)]
        yield from _unknown_variants("evaluate.backbone", backbone.split(VARIANT), of_backbone)


def _unknown_variants(where: str, names: Iterable[str], allowed: Iterable[str]) -> Iterable[str]:
    return (f"{where}: variant {_unknown(name, allowed)}" for name in dict.fromkeys(names) if name not in allowed)


def _experiment_errors(parameters: Parameters) -> Iterable[str]:
    """What there is not of the arms and grids that the experiments name."""
    if parameters.experiment not in parameters.experiments:
        yield "experiment: " + _unknown(parameters.experiment, parameters.experiments)
    for name, experiment in parameters.experiments.items():
        if isinstance(experiment.tune, str) and experiment.tune not in parameters.grids:
            yield f"experiments.{name}.tune: " + _unknown(experiment.tune, ["true", "false", *parameters.grids])
        asked = [f"{VARIANT}{variant}" for variant in experiment.variants] + [*experiment.arms]
        named = [part for each in asked for part in variants_of_arm(each)]
        yield from _unknown_variants(f"experiments.{name}", named, parameters.variants)
        if experiment.arms != "all":
            # the groups of an experiment that is not run may be attributes of another dataset
            is_run = name == parameters.experiment
            yield from _arm_errors(parameters, f"experiments.{name}.arms", experiment.arms, know_groups=is_run)
        elif name == parameters.experiment and not parameters.loss_groups:
            yield f"loss_groups: experiment {name} has every loss, and some need groups"


def _arm_errors(parameters: Parameters, where: str, arms: Sequence[str], *, know_groups: bool = True) -> Iterable[str]:
    allowed = f"allowed: {', '.join(parameters.group_names)}"
    for arm in sorted({arm for arm in arms if arms.count(arm) > 1}):
        yield f"{where}: {arm} is named twice"
    for arm in arms:
        loss, groups = parts_of_arm(arm)
        if loss not in METHODS:
            yield f"{where}: {_unknown(loss, METHODS)}"
        elif METHODS[loss].needs_groups and groups is None:
            yield f"{where}: {arm} needs groups, as in {arm}-pop33; {allowed}"
        elif not METHODS[loss].needs_groups and groups is not None:
            yield f"{where}: {arm}: {loss} uses no groups; write {loss}"
        elif know_groups and groups and groups not in parameters.group_names:
            yield f"{where}: {arm}: unknown groups {groups!r}; {allowed}"


def _block(tree: Any, *names: str) -> Mapping[str, Any]:
    """The block of nested names; empty if there is none."""
    block = _at(tree, *names)
    return block if isinstance(block, Mapping) else {}


def _at(tree: Any, *names: str) -> Any:
    """The value of nested names; None if there is none."""
    for name in names:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def _unknown(name: str, allowed: Iterable[str]) -> str:
    close = get_close_matches(name, list(allowed), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown {name!r}; {hint}allowed: {', '.join(sorted(allowed))}"


def _raise(problems: list[str]) -> None:
    if problems:
        listed = "\n".join(f"  - {_SECRET.sub('://...@', problem)}" for problem in dict.fromkeys(problems))
        raise ParameterError(f"these parameters cannot be run:\n{listed}\nNames and values: conf/base/parameters*.yml")
