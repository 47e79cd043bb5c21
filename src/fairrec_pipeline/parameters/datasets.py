"""Pydantic models of conf/*/parameters_datasets/: where the interactions of a dataset come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel, model_validator

from fairrec_pipeline.parameters.blocks import Block, Seed


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
    """A generated world; see interactions/sources/synthetic.py."""

    adapter: Literal["synthetic"]
    n_users: int = Field(strict=True, ge=10)
    n_items: int = Field(strict=True, ge=10)
    seed: Seed

    @property
    def attributes(self) -> tuple[str, ...]:
        return ("segment",)


RESERVED_NAMES = ("user_id", "train_length", "popularity_ratio", "overall", "target", "atomic")
"""What tables and reports call by these names is not an attribute."""


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
        reserved = [name for name in self.user_attributes if name.casefold() in RESERVED_NAMES]
        if reserved:
            message = f"the user attributes {reserved} bear names that are reserved: {', '.join(RESERVED_NAMES)}"
            raise ValueError(message)
        return self

    @property
    def attributes(self) -> tuple[str, ...]:
        return self.user_attributes


class Source(RootModel[Annotated[RetailRocket | MovieLens | Synthetic | Table, Field(discriminator="adapter")]]):
    """One dataset, by its adapter."""
