"""The robust objectives, one file a family, and the one place that names them.

To add a method: write its file, name it here, give it a block in parameters.py and in parameters_objectives.yml.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fairrec_pipeline.objectives.arl import Arl
from fairrec_pipeline.objectives.base import Objective, Population
from fairrec_pipeline.objectives.chi2 import Chi2
from fairrec_pipeline.objectives.class_balanced import class_balanced
from fairrec_pipeline.objectives.cvar import CVaR, CVaRDoro, CVaRSmooth
from fairrec_pipeline.objectives.erm import Erm
from fairrec_pipeline.objectives.group_dro import GroupDro
from fairrec_pipeline.objectives.inverse_propensity import InversePropensity
from fairrec_pipeline.objectives.kl import Kl
from fairrec_pipeline.objectives.rsr import RsrHard, RsrSoft

GROUP_AGNOSTIC: dict[str, Callable[..., Objective]] = {
    "erm": lambda _population: Erm(),
    "cb": partial(class_balanced, log=False),
    "cb_log": partial(class_balanced, log=True),
    "cvar": lambda _population, **options: CVaR(**options),
    "cvar_doro": lambda _population, **options: CVaRDoro(**options),
    "cvar_smooth": CVaRSmooth,
    "chi2": lambda _population, **options: Chi2(**options),
    "kl": lambda _population, **options: Kl(**options),
    "arl": Arl,
    "rsr_hard": RsrHard,
    "rsr_soft": RsrSoft,
    "causald": lambda _population, **_options: Erm(),  # its options are those of training/distillation.py
}
GROUP_DEPENDENT: dict[str, Callable[..., Objective]] = {
    "ipw": partial(InversePropensity, log=False),
    "ipw_log": partial(InversePropensity, log=True),
    "gdro": GroupDro,
    "sdro": GroupDro,
}
OBJECTIVES = GROUP_AGNOSTIC | GROUP_DEPENDENT


def build_objective(loss: str, population: Population, options: dict[str, Any]) -> Objective:
    """The objective of that name.

    Args:
        loss: a name of `OBJECTIVES`.
        population: frequencies in the training data.
        options: the method's own options, such as `alpha`.

    Raises:
        ValueError: an unknown name, or a group-dependent loss without groups.
    """
    if loss not in OBJECTIVES:
        message = f"unknown loss {loss!r}; allowed: {', '.join(OBJECTIVES)}"
        raise ValueError(message)
    if loss in GROUP_DEPENDENT and population.group_users is None:
        message = f"{loss} needs groups: set loss_groups (pop33, seq33, ..., atomic or a user attribute)"
        raise ValueError(message)
    return OBJECTIVES[loss](population, **options)
