"""Experiments and plans: which arms a run trains, at which points, with which seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, Field, ValidationError, create_model

from fairrec_pipeline.parameters.blocks import (
    Block,
    DataRoot,
    Evaluate,
    Execution,
    Groups,
    Model,
    Promote,
    Recommend,
    Seed,
    Split,
    Train,
)
from fairrec_pipeline.parameters.datasets import DatasetName, Source
from fairrec_pipeline.parameters.methods import METHODS, VARIANT, Options, arm_name, parts_of_arm, variants_of_arm

M = TypeVar("M", bound=BaseModel)
MOST_POINTS = 10_000
"""Of a grid."""
_BACKBONE = ("model.", "train.")
_SHOWN = 200  # characters of a value in a message
_ONE_WORKER = "train.workers: {what} trains on one process only (got {workers}); set train.workers to 1"


class Experiment(Block):
    """A named list of arms, seeds and grids."""

    arms: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="names of arms; all: every loss there is, group-dependent ones with `loss_groups`"
    )
    variants: tuple[str, ...] = Field(default=(), description="every arm with each of these, such as `a` or `a@b`")
    seeds: (
        Annotated[int, Field(strict=True, ge=1, le=1000)]
        | Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000)]
    ) = Field(description="a list, or how many, from `seed` on; the first one tunes")
    tune: bool | str = Field(description="true: every arm whose loss has a grid; a name: by that grid of `grids`")


Grid = dict[str, Annotated[list[Any], Field(min_length=1)]]


class Parameters(Execution):
    """The whole tree, beside the blocks of the losses; see `Tree`."""

    data_root: DataRoot
    dataset: str
    loss: str
    loss_groups: str | None
    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    datasets: dict[DatasetName, Source]
    split: Split
    groups: Groups
    model: Model
    train: Train
    grids: dict[str, Grid] = Field(
        description="values that `tune` and `experiment` try, by loss and option; `model.<name>` and `train.<name>` too"
    )
    experiment: str
    experiments: dict[str, Experiment]
    variants: dict[Annotated[str, Field(pattern="^[a-z0-9_.]+$")], dict[str, Any]] = Field(
        description="values of `model.<name>`, `train.<name>`, `<loss>.<option>` that an arm's name asks for after an @"
    )
    evaluate: Evaluate
    recommend: Recommend
    promote: Promote

    @property
    def source(self) -> Source:
        return self.datasets[self.dataset]

    @property
    def group_names(self) -> list[str]:
        """What a loss can be told: the splits, their crossing, the attributes."""
        return [*self.groups.splits, "atomic", *self.source.root.attributes]

    def options(self, loss: str) -> Options:
        """The block of a loss, in a `Tree`."""
        return cast(Options, getattr(self, loss))


_OPTIONS: dict[str, Any] = {loss: (method.options, ...) for loss, method in METHODS.items()}
Tree: type[Parameters] = create_model("Tree", __base__=Parameters, **_OPTIONS)
"""The whole tree, with a block of options for every loss."""


def plans(parameters: Parameters) -> dict[str, Any]:
    """What every pipeline trains, as values of `arms.spec.Plan`.

    A grid that the run does not use need not fit the rest of the parameters. So a plan that cannot be run holds its
    `problems` instead, and is refused when it is wanted.

    Returns:
        `train`, `tune`, `experiment`, `default` (the methods of the paper), and `methods`: a plan for each of these.
    """
    experiment, groups = parameters.experiments[parameters.experiment], parameters.loss_groups
    arms = [arm_name(loss, groups) for loss in METHODS] if experiment.arms == "all" else experiment.arms
    if experiment.variants:
        arms = [f"{arm}{VARIANT}{variant}" for arm in arms for variant in experiment.variants]
    seeds = experiment.seeds
    if isinstance(seeds, int):
        seeds = tuple(range(parameters.seed, parameters.seed + seeds))
    chosen = [arm_name(parameters.loss, groups)]
    of_paper = {loss: arm_name(loss, groups) for loss, method in METHODS.items() if method.of_paper}

    def plan(
        name: str, arms: Iterable[str], seeds: Sequence[int] = (parameters.seed,), *, tune: bool | str = False
    ) -> dict[str, Any]:
        problems: list[str] = []
        specs = [spec for arm in arms for spec in _specs(arm, parameters, tune, problems)]
        if problems:
            return {"name": name, "problems": list(dict.fromkeys(problems))}
        return {"name": name, "specs": [{**spec, "seed": seeds[0]} for spec in specs], "seeds": list(seeds)}

    return {
        "train": plan("train", chosen),
        "tune": plan("tune", chosen, tune=True),
        "experiment": plan(f"experiment {parameters.experiment}", arms, seeds, tune=experiment.tune),
        "default": plan("methods", of_paper.values()),
        "methods": {loss: plan(loss, [arm]) for loss, arm in of_paper.items()},
    }


def _specs(arm: str, parameters: Parameters, tune: bool | str, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Every point of an arm's grid, as values of `arms.spec.ArmSpec` without the seed."""
    loss, groups = parts_of_arm(arm)
    variants = {name: parameters.variants[name] for name in variants_of_arm(arm)}
    of_backbone = [name for name, values in variants.items() if changes_backbone(values)]
    if METHODS[loss].needs_groups and groups not in parameters.group_names:
        problems.append(f"loss_groups: {loss} needs groups; allowed: {', '.join(parameters.group_names)}")
        return
    grid_name = tune if isinstance(tune, str) else loss
    grid = parameters.grids.get(grid_name, {}) if tune else {}
    if math.prod(map(len, grid.values())) > MOST_POINTS:
        problems.append(f"grids.{grid_name}: more than {MOST_POINTS} points; take fewer values")
        return
    blocks = {loss: parameters.options(loss), "model": parameters.model, "train": parameters.train}
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        asked = [*((f"variants.{name}", changed) for name, changed in variants.items()), (f"grids.{grid_name}", point)]
        valid: dict[str, Any] = {}
        for block, model in blocks.items():
            changes: dict[str, Any] = {}
            prefix = block
            for where, named in asked:
                new = {n.rpartition(".")[2]: v for n, v in named.items() if (n.rpartition(".")[0] or loss) == block}
                changes |= new
                prefix = (where if block == loss else f"{where}.{block}") if new else prefix
            found = validated(type(model), {**model.model_dump(), **changes}, prefix, problems)
            valid[block] = found and found.model_dump()
        if None in valid.values():
            continue
        on_ray = parameters.executor == "ray"
        if valid["train"]["workers"] > 1 and (on_ray or not METHODS[loss].workers):
            what = "a task of executor: ray" if on_ray else loss
            problems.append(_ONE_WORKER.format(workers=valid["train"]["workers"], what=what))
        yield {
            "objective": {"loss": loss, "groups": groups, "options": valid[loss]},
            "model": valid["model"],
            "train": valid["train"],
            "filter_seen": parameters.evaluate.filter_seen,
            "device": parameters.device,
            "point": point,
            "variants": list(variants),
            "backbone": VARIANT.join(of_backbone) or None,
        }


def changes_backbone(variant: Iterable[str]) -> bool:
    """Whether a variant has values of `model` or `train`."""
    return any(name.startswith(_BACKBONE) for name in variant)


def validated(model: type[M], value: Any, prefix: str, problems: list[str]) -> M | None:
    """The block, or None and one problem a parameter, named with the prefix."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems += [message_of(problem, prefix) for problem in error.errors()]
        return None


def message_of(problem: Any, prefix: str) -> str:
    """What one problem of a validation says."""
    parts = [str(part) for part in problem["loc"]]
    if parts[:1] == ["datasets"]:
        del parts[2:3]  # the adapter, by which pydantic has chosen the model
    parts = [part for part in parts if not part.startswith(("constrained-", "tuple[", "literal["))]  # kinds of a union
    name = ".".join(filter(None, [prefix, *parts]))
    if problem["type"] == "extra_forbidden":
        instead = {"loss": "loss", "groups": "loss_groups"}.get(parts[-1]) if parts[0] in METHODS else None
        return f"{name}: set {instead} instead" if instead else f"unknown parameter {name}"
    shown = repr(problem["input"])
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + " ..."
    if problem["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return f"{name}: a block is expected, got {shown}"
    text = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {text}" if isinstance(problem["input"], Mapping) else f"{name}: {text} (got {shown})"
