"""The robust objectives, one file a family. `parameters.methods.METHODS` is the table of them by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from fairrec_pipeline.objectives.base import Objective, Population


def build_objective(loss: str, population: Population, options: Mapping[str, Any]) -> Objective:
    """The objective of a method.

    Args:
        loss: a name of `METHODS`.
        population: frequencies in the training data.
        options: those of the method, such as `alpha`. Where a method has a trainer, they are the trainer's.

    Raises:
        ValueError: an unknown name, or a group-dependent loss without groups.
    """
    from fairrec_pipeline.parameters.methods import METHODS, Method  # the table needs pydantic, an objective does not

    if loss not in METHODS:
        raise ValueError(f"unknown loss {loss!r}; allowed: {', '.join(METHODS)}")
    method = METHODS[loss]
    if method.needs_groups and population.group_users is None:
        raise ValueError(f"{loss} needs groups: set loss_groups (pop33, seq33, ..., atomic or a user attribute)")
    of_objective = options if method.trainer == Method.trainer else {}
    return make_objective(method.objective, population, {**of_objective, **method.arguments})


def make_objective(path: str, population: Population, options: Mapping[str, Any]) -> Objective:
    """An objective from where it is written.

    Args:
        path: `<module of objectives>:<name>`, such as `cvar:CVaR`.
        population: handed over if there is a parameter of that name.
        options: all other arguments.
    """
    make = resolve_name(f"{__name__}.{path}")
    arguments = {"population": population} if "population" in inspect.signature(make).parameters else {}
    objective: Objective = make(**arguments, **options)
    return objective
