"""Pydantic models of the blocks of conf/*/parameters*.yml: the only place where a name or a bound is written.

Values live in conf/base, so that a user reads them where they are changed. A model has no defaults but for what a
dataset may leave out: a value missing there is an error and not a surprise.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import fsspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator


class Block(BaseModel):
    """A block of parameters: every name is known, no value changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


# Upper bounds are far beyond any use: what a typing error allocates or loops over ends, or is refused by
# `experiments.memory`; and single precision can calculate with every number within its bounds.
MOST = 10**9
"""Of anything that is counted."""
LARGEST_SIZE = 2**16
"""Of a dimension of a model."""
SMALLEST = 1e-6
"""Of a divisor: a temperature, a share, a width."""
LARGEST = 1e12
"""Of a factor: single precision can still add up what is multiplied with it."""

Count = Annotated[int, Field(strict=True, ge=1, le=MOST)]
Size = Annotated[int, Field(strict=True, ge=1, le=LARGEST_SIZE)]
Divisor = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]
Rate = Annotated[float, Field(gt=0, le=LARGEST)]
Factor = Annotated[float, Field(ge=0, le=LARGEST)]
Flag = Annotated[bool, Field(strict=True)]
Rounds = Annotated[int, Field(strict=True, ge=1, le=10**6)]
Steps = Annotated[int, Field(strict=True, ge=0, le=10**12)]
Window = Annotated[int, Field(strict=True, ge=0, le=LARGEST_SIZE)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]

LONGEST_NAME = 255
"""Of a file, in bytes."""
_OUTSIDE = re.compile(r"^([/\\~]|[A-Za-z]:|.*(^|[/\\])\.\.([/\\]|$)|[a-z0-9+]+://)")


def _below(name: str) -> str:
    if not name or _OUTSIDE.match(name):
        raise ValueError(f"a name below the data folder is expected, without `..` and not absolute, got {name!r}")
    longest = max(len(part.encode(errors="replace")) for part in re.split(r"[/\\]", name))
    if longest > LONGEST_NAME:
        raise ValueError(f"a file system has names of at most {LONGEST_NAME} bytes, this has one of {longest}")
    return name


FileName = Annotated[str, AfterValidator(_below)]


def _reachable(root: str) -> str:
    protocol, remote, rest = root.partition("://")
    if not root or root.endswith("/"):
        raise ValueError("a folder, or an address such as s3://bucket/prefix, is expected, without a slash at its end")
    if not remote:
        return root
    if re.match("[^/]*:[^/]*@", rest):
        raise ValueError("credentials do not belong into an address; write them into conf/local/credentials.yml")
    if protocol in _WITHOUT_HOST and not rest.startswith("/"):
        raise ValueError(f"{protocol}:// has no host: write {protocol}:///{rest}")
    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        message = f"{protocol}:// cannot be used: {error}. For s3://: pip install 'fairrec_pipeline[s3]'"
        raise ValueError(message) from error
    return root


_WITHOUT_HOST = ("file", "local", "memory")
DataRoot = Annotated[str, AfterValidator(_reachable)]


class Split(Block):
    """Core filter, and what is held out."""

    kind: Literal["leave_one_out", "temporal"] = Field(
        description="target of the test: everybody's last interaction, or the first one after a moment of the log"
    )
    train_share: float = Field(gt=0, lt=1, description="temporal: share of the interactions up to that moment")
    core: Count = Field(description="least number of distinct items per user and users per item")
    validation_users: Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)] = Field(
        gt=0, le=MOST, description="count (int) or share (float, at most 1) of the users"
    )
    seed: Seed = Field(description="draws the validation users, and the order of ties that is random")
    ties: Literal["item", "file", "random"] = Field(
        description="order of a user's interactions of the same time: by item id, as in the file, or drawn"
    )

    @field_validator("validation_users")
    @classmethod
    def _share(cls, value: int | float) -> int | float:
        if isinstance(value, float) and value > 1:
            raise ValueError(f"a share of the users lies in (0, 1], got {value}; a count is written without a point")
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


class Model(Block):
    """The SASRec backbone (METHODS: backbone)."""

    dim: Size
    feed_forward: Size
    blocks: int = Field(strict=True, ge=1, le=1000)
    heads: Size
    dropout: float = Field(ge=0, lt=1)
    max_length: int = Field(strict=True, ge=2, le=LARGEST_SIZE)
    init_std: float = Field(gt=0, le=1e6)
    tied_embeddings: Flag = Field(description="one table for input and output")
    copy_window: Window = Field(description="newest events whose items the copy mechanism scores; 0: none")

    @model_validator(mode="after")
    def _heads(self) -> Model:
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads, got dim {self.dim} and heads {self.heads}")
        return self


class Train(Block):
    """Budget and optimiser of one arm."""

    epochs: Rounds
    steps_per_epoch: Rounds
    batch_size: int = Field(strict=True, ge=1, le=2**20)
    learning_rate: Rate
    weight_decay: Factor = Field(description="decoupled (AdamW), of all parameters, times the learning rate")
    warm_up_steps: Steps = Field(description="steps over which the learning rate rises from 0")
    schedule: Literal["constant", "cosine"] = Field(description="of the learning rate after the warm-up")
    warm_start_steps: Steps = Field(description="steps of ERM before the method itself")
    patience: Rounds | None
    precision: Literal["auto", "fp32", "bf16"]
    cuda_graphs: Flag = Field(description="on CUDA, record the launches of a step and play them back")
    compile: Flag = Field(description="compile the steps that are recorded: fewer, larger kernels; needs Triton")
    item_chunk: Count | None = Field(description="items of the catalogue at a time; null: chosen")
    checkpoint_seconds: float = Field(ge=0)
    workers: int = Field(strict=True, ge=1, le=1024, description="processes that share every batch; on CUDA a GPU each")

    @model_validator(mode="after")
    def _workers(self) -> Train:
        if self.workers > self.batch_size:
            message = (
                f"each worker needs a user of every batch, got workers {self.workers} and batch_size {self.batch_size}"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _warm_start(self) -> Train:
        if self.warm_start_steps >= self.epochs * self.steps_per_epoch:
            message = f"warm_start_steps {self.warm_start_steps} leave no step of the budget to the method itself"
            raise ValueError(message)
        return self


class Evaluate(Block):
    """Ranking, intervals and tests."""

    filter_seen: bool
    confidence: float = Field(gt=0, lt=1)
    significance: float = Field(gt=0, lt=1)
    correction: Literal["holm", "fdr_bh"]
    other_data: Literal["refuse", "skip"]
    backbone: str | None = Field(description="variant of the backbone whose arms are compared; null: those of none")


class Recommend(Block):
    """What the recommend pipeline writes; files lie below data/01_raw/<dataset>/."""

    arm: str | None = Field(description="such as gdro-pop33, or champion; null: the arm of loss and loss_groups")
    k: Count = Field(description="items a user gets")
    exclude: FileName | None = Field(description="file of item ids never to recommend")
    allow: FileName | None = Field(description="file of the only item ids to recommend")
    users: FileName | None = Field(description="file of histories of users to recommend for; null: all users")
    filter_seen: Flag | None = Field(description="leave out a user's history; null: as the arm was evaluated")


class Promote(Block):
    """Which arm becomes the champion; validation alone decides."""

    rule: Literal["best_overall", "best_worst_group"] = Field(
        description="highest mean NDCG@20 over all users; or over the worst group, among arms that are good overall"
    )
    within: float = Field(ge=0, le=100, description="percent below the best overall that an arm may be, for the latter")


class Ray(Block):
    """The cluster of `executor: ray`, and what a training takes of it."""

    address: str = Field(
        min_length=1, description="local: a cluster of this machine for this run; auto: the one around; or host:port"
    )
    cpus: int = Field(strict=True, ge=1, le=1024, description="cores of a training, and its threads")
    gpus: float = Field(ge=0, le=1024, description="GPUs of a training; 0.5: two share one")
    retries: int = Field(
        strict=True, ge=0, le=1000, description="times that a training whose worker or node died goes on elsewhere"
    )


class Execution(Block):
    """Where and how many at once the trainings of a plan run."""

    executor: Literal["processes", "ray"] = Field(description="processes of this machine, or tasks of a Ray cluster")
    trials_at_once: int = Field(
        strict=True,
        ge=1,
        le=1024,
        description="processes: so many trainings of a plan at once; on a GPU by turns in one",
    )
    ray: Ray
