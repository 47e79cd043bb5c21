"""Pydantic models of conf/*/parameters*.yml: the only place where a bound or a name of a parameter is written.

Values live in conf/base, so that a user reads them where they are changed; a model has no defaults but for what a
dataset may leave out, so that a value missing there is an error and not a surprise. Kedro builds the block models from
the type hints of the nodes; the config loader (`config.py`) validates the whole tree as `Parameters` before any node
runs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator, model_validator


class Block(BaseModel):
    """A block of parameters: every name is known, no value changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


# --- data -----------------------------------------------------------------------------------------------------------


class Dataset(Block):
    """What every dataset says of itself."""

    parameters: dict[str, Any] = Field(default={}, description="parameters that differ for this dataset")

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the user attribute columns that the dataset brings."""
        return ()


class RetailRocket(Dataset):
    """Item views of a shop: events.csv, events.csv.gz or a zip that holds it."""

    adapter: Literal["retailrocket"]


class MovieLens(Dataset):
    """ratings and users of a GroupLens archive."""

    adapter: Literal["movielens-1m", "movielens-100k"]

    @property
    def attributes(self) -> tuple[str, ...]:
        return ("age", "gender")


class Synthetic(Dataset):
    """A generated world; see interactions/synthetic.py."""

    adapter: Literal["synthetic"]
    n_users: int = Field(strict=True, ge=10)
    n_items: int = Field(strict=True, ge=10)
    seed: int = Field(strict=True, ge=0)

    @property
    def attributes(self) -> tuple[str, ...]:
        return ("segment",)


# Names that tables and reports give to something else than an attribute.
TAKEN_NAMES = ("user_id", "train_length", "popularity_ratio", "overall", "target", "atomic")


class Table(Dataset):
    """The user's own log: a Parquet or CSV file, and a second one with attributes of the users."""

    adapter: Literal["table"]
    interactions: str = Field(description="file below data/01_raw/<dataset>/")
    user: str = Field(description="column of the user id")
    item: str = Field(description="column of the item id")
    timestamp: str = Field(description="column of the time: a number, a date or a timestamp")
    users: str | None = Field(default=None, description="file with one row per user, below data/01_raw/<dataset>/")
    user_attributes: tuple[str, ...] = Field(default=(), description="columns of that file to report by")

    @model_validator(mode="after")
    def _users_file(self) -> Table:
        if self.user_attributes and self.users is None:
            message = f"user_attributes {list(self.user_attributes)} are columns of the file `users`, which is not set"
            raise ValueError(message)
        taken = [name for name in self.user_attributes if name.casefold() in TAKEN_NAMES]
        if taken:
            message = f"the user attributes {taken} bear names that are taken: {', '.join(TAKEN_NAMES)}"
            raise ValueError(message)
        return self

    @property
    def attributes(self) -> tuple[str, ...]:
        return self.user_attributes


class Source(RootModel[Annotated[RetailRocket | MovieLens | Synthetic | Table, Field(discriminator="adapter")]]):
    """One dataset of parameters_datasets.yml."""


class Split(Block):
    """Core filter and leave-one-out."""

    core: int = Field(strict=True, ge=1, description="least number of distinct items per user and users per item")
    validation_users: Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)] = Field(
        gt=0, description="count (int) or share (float, at most 1) of the users"
    )
    seed: int = Field(strict=True, ge=0)

    @field_validator("validation_users")
    @classmethod
    def _share(cls, value: int | float) -> int | float:
        if isinstance(value, float) and value > 1:
            message = f"a share of the users lies in (0, 1], got {value}; a count is written without a point"
            raise ValueError(message)
        return value


class Groups(Block):
    """Quantile groups of users."""

    popular_quantile: float = Field(gt=0, lt=1)
    splits: dict[Annotated[str, Field(pattern="^(pop|seq)[a-z0-9_]+$")], tuple[float, float, float]]

    @field_validator("splits")
    @classmethod
    def _shares(cls, value: dict[str, tuple[float, float, float]]) -> dict[str, tuple[float, float, float]]:
        for name, shares in value.items():
            if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
                message = f"the shares of {name} must be above 0 and sum to 1, got {list(shares)} (sum {sum(shares):g})"
                raise ValueError(message)
        return value


# --- training -------------------------------------------------------------------------------------------------------


class Model(Block):
    """The SASRec backbone (METHODS: backbone)."""

    dim: int = Field(strict=True, ge=1)
    feed_forward: int = Field(strict=True, ge=1)
    blocks: int = Field(strict=True, ge=1)
    heads: int = Field(strict=True, ge=1)
    dropout: float = Field(ge=0, lt=1)
    max_length: int = Field(strict=True, ge=2)
    init_std: float = Field(gt=0)
    tied_embeddings: bool = Field(strict=True, description="one table for input and output")
    copy_window: int = Field(strict=True, ge=0, description="newest items that the copy mechanism scores; 0: none")

    @model_validator(mode="after")
    def _heads(self) -> Model:
        if self.dim % self.heads:
            message = f"dim must be a multiple of heads, got dim {self.dim} and heads {self.heads}"
            raise ValueError(message)
        return self


class Train(Block):
    """Budget and optimiser of one arm."""

    epochs: int = Field(strict=True, ge=1)
    steps_per_epoch: int = Field(strict=True, ge=1)
    batch_size: int = Field(strict=True, ge=1)
    learning_rate: float = Field(gt=0)
    warm_up_steps: int = Field(strict=True, ge=0, description="steps over which the learning rate rises from 0")
    schedule: Literal["constant", "cosine"] = Field(description="of the learning rate after the warm-up")
    warm_start_steps: int = Field(strict=True, ge=0, description="steps of ERM before the method itself")
    patience: int | None = Field(strict=True, ge=1)
    precision: Literal["auto", "fp32", "bf16"]
    cuda_graphs: bool = Field(strict=True, description="on CUDA, record the launches of a step and play them back")
    item_chunk: int | None = Field(strict=True, ge=1, description="items of the catalogue at a time; null: chosen")
    checkpoint_seconds: float = Field(ge=0)

    @model_validator(mode="after")
    def _warm_start(self) -> Train:
        if self.warm_start_steps >= self.epochs * self.steps_per_epoch:
            message = f"warm_start_steps {self.warm_start_steps} leave no step of the budget to the method itself"
            raise ValueError(message)
        return self


class Objective(Block):
    """What an arm trains; `loss` and `groups` are filled in from the top-level parameters of that name."""

    loss: str
    groups: str | None = None


class Erm(Objective):
    loss: Literal["erm"]


class ClassBalanced(Objective):
    loss: Literal["cb", "cb_log"]


class InversePropensity(Objective):
    loss: Literal["ipw", "ipw_log"]
    groups: str
    count: Literal["users", "interactions"] = Field(description="what f(g) counts; the published numbers: interactions")


class GroupDro(Objective):
    loss: Literal["gdro"]
    groups: str
    eta: float = Field(gt=0, description="step of the exponentiated gradient")
    absent_groups: Literal["keep", "decay"] = Field(description="weight of a group without a user in the batch")
    adjustment: float = Field(ge=0, description="C / sqrt(users of the group) is added to a group's loss, in nats")
    balanced_batches: bool = Field(strict=True, description="every group has an equal share of every batch")


class StreamingDro(Objective):
    loss: Literal["sdro"]
    groups: str
    eta: float = Field(gt=0)
    beta: float = Field(gt=0, le=1, description="step of the streaming loss")
    absent_groups: Literal["keep", "decay"]
    adjustment: float = Field(ge=0)
    balanced_batches: bool = Field(strict=True)


class CVaR(Objective):
    loss: Literal["cvar"]
    alpha: float = Field(gt=0, le=1, description="share of the worst users of a batch")


class CVaRDoro(Objective):
    loss: Literal["cvar_doro"]
    alpha: float = Field(gt=0, le=1, description="share of the worst users without the outliers")
    eps: float = Field(ge=0, lt=1, description="share of a batch that is taken for outliers")


class CVaRSmooth(Objective):
    loss: Literal["cvar_smooth"]
    alpha: float = Field(gt=0, le=1, description="share of the worst users of all")
    h: float = Field(gt=0, description="width of the threshold, in nats")


class Chi2(Objective):
    loss: Literal["chi2"]
    alpha: float = Field(gt=0, le=1, description="share of the smallest group that the ball is to hold")


class Kl(Objective):
    loss: Literal["kl"]
    tau: float = Field(gt=0, description="temperature, in nats")


class Arl(Objective):
    loss: Literal["arl"]
    adversary_learning_rate: float = Field(gt=0)


class _Rsr(Objective):
    clusters: int = Field(strict=True, ge=1)
    temperature: float = Field(gt=0, description="of the softmax that gives the clusters their weights")
    weight_learning_rate: float = Field(gt=0)


class RsrHard(_Rsr):
    loss: Literal["rsr_hard"]
    refresh_steps: int = Field(strict=True, ge=1, description="optimiser steps between two clusterings")


class RsrSoft(_Rsr):
    loss: Literal["rsr_soft"]
    prototype_learning_rate: float = Field(gt=0)
    clustering_weight: float = Field(ge=0, description="of the clustering loss of the prototypes")


class Causald(Objective):
    loss: Literal["causald"]
    weight: float = Field(ge=0, le=1, description="of the causal target in the loss; 0 is erm")
    temperature: float = Field(gt=0, description="of target and student")
    teachers: Literal["activity", "random", "seeds"] = Field(description="what the teachers differ by")
    n_teachers: int = Field(strict=True, ge=1)
    samples: int = Field(strict=True, ge=0, description="x' a position and teacher; 0 is plain distillation")
    positions: int | None = Field(strict=True, ge=1, description="of each user, distilled in a step; null: all")
    predictor_epochs: int = Field(strict=True, ge=1)


_Objectives = (
    Erm
    | ClassBalanced
    | InversePropensity
    | GroupDro
    | StreamingDro
    | CVaR
    | CVaRDoro
    | CVaRSmooth
    | Chi2
    | Kl
    | Arl
    | RsrHard
    | RsrSoft
    | Causald
)


class AnyObjective(RootModel[Annotated[_Objectives, Field(discriminator="loss")]]):
    """The block of one loss of parameters_objectives.yml."""


LOSSES: dict[str, type[Objective]] = {
    name: model for model in get_args(_Objectives) for name in get_args(model.model_fields["loss"].annotation)
}
GROUP_DEPENDENT_LOSSES = tuple(name for name, model in LOSSES.items() if model.model_fields["groups"].is_required())


# --- evaluation -----------------------------------------------------------------------------------------------------


class Evaluate(Block):
    """Ranking, intervals and tests."""

    filter_seen: bool
    confidence: float = Field(gt=0, lt=1)
    significance: float = Field(gt=0, lt=1)
    correction: Literal["holm", "fdr_bh"]
    other_data: Literal["refuse", "skip"]
    top_k: int = Field(strict=True, ge=1)


# --- arms and experiments --------------------------------------------------------------------------------------------


def arm_name(loss: str, loss_groups: str | None) -> str:
    """Name of an arm: the loss, with its groups where it uses them (`cvar`, `gdro-pop33`)."""
    return f"{loss}-{loss_groups}" if loss in GROUP_DEPENDENT_LOSSES else loss


def parts_of_arm(name: str) -> tuple[str, str | None]:
    """Loss and groups of an arm's name; the groups are None where it names none."""
    loss, _, loss_groups = name.partition("-")
    return loss, loss_groups or None


class Experiment(Block):
    """One entry of parameters_experiments.yml: a grid of arms and seeds."""

    arms: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="names of arms; all: every loss there is, group-dependent ones with `loss_groups`"
    )
    seeds: (
        Annotated[int, Field(strict=True, ge=1)]
        | Annotated[tuple[Annotated[int, Field(strict=True, ge=0)], ...], Field(min_length=1)]
    ) = Field(description="a list, or how many, from `seed` on; the first one tunes")
    tune: bool | str = Field(description="true: every arm whose loss has a grid; a name: by that grid of `grids`")


class PlannedArm(Block):
    """An arm of the chosen experiment, with all that follows from its name."""

    objective: AnyObjective
    grid: dict[str, list[Any]] | None = Field(description="None: not tuned")


class Plan(Block):
    """The chosen experiment, worked out by the config loader."""

    name: str
    arms: tuple[PlannedArm, ...]
    seeds: tuple[int, ...]


class Parameters(Block):
    """The whole tree, beside the blocks of the losses."""

    dataset: str
    loss: str
    loss_groups: str | None
    seed: int = Field(strict=True, ge=0)
    device: Literal["auto", "cpu", "cuda"]
    datasets: dict[str, Source]
    split: Split
    groups: Groups
    model: Model
    train: Train
    grids: dict[str, dict[str, Annotated[list[Any], Field(min_length=1)]]] = Field(
        description="values that `tune` and `experiment` try, by loss and option; `model.<name>` and `train.<name>` too"
    )
    experiment: str
    experiments: dict[str, Experiment]
    trials_at_once: int = Field(
        strict=True, ge=1, description="trainings of a grid or experiment that run side by side"
    )
    evaluate: Evaluate
