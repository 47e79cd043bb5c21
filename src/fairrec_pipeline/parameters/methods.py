"""The one table of methods: options, whether a method needs groups, whether it is of the paper, and what builds it.

To add a method: write its file in objectives/, give it a row here, and a block of values in
conf/base/parameters_methods.yml. See docs/adding_a_method.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, SerializeAsAny, field_validator

from fairrec_pipeline.parameters.blocks import SMALLEST, Block, Count, Divisor, Factor, Flag, Rate, Rounds, Size, Window


class Options(Block):
    """The options of a method; this one has none."""


class InversePropensity(Options):
    count: Literal["users", "interactions"] = Field(description="what f(g) counts; the published numbers: interactions")


class GroupDro(Options):
    eta: Rate = Field(description="step of the exponentiated gradient")
    absent_groups: Literal["climb", "keep", "decay"] = Field(description="weight of a group without a user in a batch")
    adjustment: Factor = Field(description="C / sqrt(users of the group) is added to a group's loss, in nats")
    balanced_batches: Flag = Field(description="every group has an equal share of every batch")


class StreamingDro(GroupDro):
    beta: float = Field(gt=0, le=1, description="step of the streaming loss")


class CVaR(Options):
    alpha: float = Field(ge=SMALLEST, le=1, description="share of the worst users of a batch")


class CVaRDoro(CVaR):
    eps: float = Field(ge=0, lt=1, description="share of a batch that is taken for outliers")


class CVaRSmooth(CVaR):
    h: Divisor = Field(description="width of the threshold, in nats")


class Chi2(Options):
    alpha: float = Field(ge=SMALLEST, le=1, description="share of the smallest group that the ball is to hold")


class Kl(Options):
    tau: Divisor = Field(description="temperature, in nats")


class Arl(Options):
    adversary_learning_rate: Rate


class _Rsr(Options):
    clusters: Size
    temperature: Divisor = Field(description="of the softmax that gives the clusters their weights")
    weight_learning_rate: Rate


class RsrHard(_Rsr):
    refresh_steps: Count = Field(description="optimiser steps between two clusterings")


class RsrSoft(_Rsr):
    prototype_learning_rate: Rate
    clustering_weight: Factor = Field(description="of the clustering loss of the prototypes")


class Causald(Options):
    weight: float = Field(ge=0, le=1, description="of the causal target in the loss; 0 is erm")
    temperature: Divisor = Field(description="of target and student")
    teachers: Literal["activity", "random", "seeds"] = Field(description="what the teachers differ by")
    n_teachers: int = Field(strict=True, ge=1, le=1000)
    samples: Window = Field(description="x' a position and teacher; 0 is plain distillation")
    positions: Size | None = Field(description="of each user, distilled in a step; null: all")
    predictor_epochs: Rounds


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        objective: what makes its objective, as `<module of objectives>:<name>`. It is called with the options, and with
            the `Population` if it has a parameter of that name.
        options: model of its block of values.
        arguments: further arguments of the objective, which are not options.
        needs_groups: its loss is told a group of every user.
        of_paper: it is one of the paper's eight, which `__default__` compares.
        colour: in every figure.
        workers: whether several processes may share a training of it: equal to one process, by test.
        trainer: what trains it instead of `training.fit.fit`, as `<module of the package>:<name>`. The options are then
            its own and not the objective's.
    """

    objective: str
    options: type[Options] = Options
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs_groups: bool = False
    of_paper: bool = False
    colour: str | None = None
    workers: bool = False
    trainer: str = "training.fit:fit"


METHODS: dict[str, Method] = {
    "erm": Method("erm:Erm", of_paper=True, workers=True, colour="#222222"),
    "cb": Method(
        "class_balanced:class_balanced", arguments={"log": False}, of_paper=True, workers=True, colour="#56b4e9"
    ),
    "cb_log": Method(
        "class_balanced:class_balanced", arguments={"log": True}, of_paper=True, workers=True, colour="#0072b2"
    ),
    "ipw": Method(
        "inverse_propensity:InversePropensity", InversePropensity, {"log": False}, needs_groups=True, of_paper=True,
        workers=True, colour="#e6a532",
    ),
    "ipw_log": Method(
        "inverse_propensity:InversePropensity", InversePropensity, {"log": True}, needs_groups=True, of_paper=True,
        workers=True, colour="#a06a00",
    ),
    "gdro": Method("group_dro:GroupDro", GroupDro, needs_groups=True, of_paper=True, workers=True, colour="#009e73"),
    "sdro": Method(
        "group_dro:GroupDro", StreamingDro, needs_groups=True, of_paper=True, workers=True, colour="#aa4499"
    ),
    "cvar": Method("cvar:CVaR", CVaR, of_paper=True, workers=True, colour="#d5301f"),
    "erm_positions": Method("erm:ErmPositions", workers=True),
    "chi2": Method("chi2:Chi2", Chi2, workers=True),
    "kl": Method("kl:Kl", Kl, workers=True),
    "cvar_doro": Method("cvar:CVaRDoro", CVaRDoro, workers=True),
    "cvar_smooth": Method("cvar:CVaRSmooth", CVaRSmooth, workers=True),
    "arl": Method("arl:Arl", Arl, workers=True),
    "rsr_hard": Method("rsr:RsrHard", RsrHard, workers=True),
    "rsr_soft": Method("rsr:RsrSoft", RsrSoft, workers=True),
    "causald": Method("erm:Erm", Causald, trainer="training.distillation.causald:fit_distilled"),
}  # fmt: skip
"""Every method by the name of its loss, in the order of all tables: the paper's first."""


class Objective(Block):
    """What an arm minimises: a loss, the groups that it is told, its options."""

    loss: str
    groups: str | None = Field(description="column of user_groups, or atomic; None for a group-agnostic loss")
    options: SerializeAsAny[Options]

    @field_validator("options", mode="before")
    @classmethod
    def _of_the_loss(cls, value: Any, info: Any) -> Any:
        method = METHODS.get(info.data.get("loss", ""))
        return value if method is None or isinstance(value, Options) else method.options.model_validate(value)

    @property
    def method(self) -> Method:
        return METHODS[self.loss]


VARIANT = "@"
"""Comes before each variant in the name of an arm."""


def arm_name(loss: str, groups: str | None) -> str:
    """Name of an arm: the loss, with its groups where it uses them (`cvar`, `gdro-pop33`)."""
    return f"{loss}-{groups}" if METHODS[loss].needs_groups else loss


def parts_of_arm(name: str) -> tuple[str, str | None]:
    """Loss and groups of an arm's name; the groups are None where it names none."""
    loss, _, groups = name.partition(VARIANT)[0].partition("-")
    return loss, groups or None


def variants_of_arm(name: str) -> list[str]:
    """The variants that an arm's name ends in: `worst30` and `separate` of `cvar@worst30@separate`."""
    return name.split(VARIANT)[1:]


def training_command(arm: str, seed: int) -> str:
    """What trains an arm and seed, but for the parameters that its name does not say."""
    loss, groups = parts_of_arm(arm)
    pipeline, asked = "train", f"loss={loss}" + (f",loss_groups={groups}" if groups else "")
    if variants_of_arm(arm):
        pipeline, asked = "experiment", f"experiment=<one that names {arm}>"
    return f"kedro run --pipeline={pipeline} --params {asked},seed={seed}"


CHAMPION = "champion"
"""What `recommend.arm` calls the arm that was promoted last; also the alias of its registered model."""
_LONGEST_NAME = 200  # file systems take 255 bytes


def arm_folder(name: str, seed: int) -> str:
    """`<arm>/seed-<n>`, the name of the arm made fit for one folder: `gdro-a/b` is `gdro-a%2Fb`."""
    return f"{folder_name(name)}/seed-{seed}"


def recommended_folder(arm: str | None, chosen: str, seed: int) -> str:
    """Folder of recommendations: that of `recommend.arm`, or of the arm that loss and loss_groups name."""
    return CHAMPION if arm == CHAMPION else arm_folder(arm or chosen, seed)


def folder_name(name: str) -> str:
    """A name for one folder; different names stay different."""
    quoted = quote(name, safe=" +,=@")
    if not quoted.strip("."):
        return quoted.replace(".", "%2E")
    if len(quoted) > _LONGEST_NAME:
        return f"{quoted[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return quoted
