"""Pydantic models of conf/*/parameters_datasets/: where the interactions of a dataset come from."""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, RootModel, model_validator

from fairrec_pipeline.parameters.blocks import Block, FileName, Seed


class Dataset(Block):
    """What every dataset says of itself; `attributes` are the columns of user attributes that it brings."""

    parameters: dict[str, Any] = Field(default={}, description="parameters that differ for this dataset")


class RetailRocket(Dataset):
    """Item views of a shop: events.csv, events.csv.gz or a zip that holds it."""

    adapter: Literal["retailrocket"]
    attributes: ClassVar[tuple[str, ...]] = ()


class MovieLens(Dataset):
    """ratings and users of a GroupLens archive."""

    adapter: Literal["movielens-1m", "movielens-100k"]
    attributes: ClassVar[tuple[str, ...]] = ("age", "gender")


class Synthetic(Dataset):
    """A generated world; see interactions/sources/synthetic.py."""

    adapter: Literal["synthetic"]
    attributes: ClassVar[tuple[str, ...]] = ("segment",)
    n_users: int = Field(strict=True, ge=10, le=10**6)
    n_items: int = Field(strict=True, ge=10, le=10**7)
    seed: Seed


RESERVED_NAMES = ("user_id", "train_length", "popularity_ratio", "overall", "target", "atomic")
"""What tables and reports call by these names is not an attribute."""


Value = str | int | float | bool


def _known_encoding(name: str) -> str:
    try:
        "".encode(name)  # not every codec is of text
        return codecs.lookup(name).name
    except LookupError as error:
        message = f"no encoding is called {name!r}; known are utf-8, latin-1, cp1252, utf-16 and all others of Python"
        raise ValueError(message) from error


_NAME = re.compile(r"[^./\\*?\[\]{}\s~][^/\\*?\[\]{}]*")


def _of_a_folder(name: str) -> str:
    if not (_NAME.fullmatch(name) and name.isprintable()):
        message = (
            "the name of a dataset is that of a folder: it has none of / \\ * ? [ ] { }, nothing that is not printed "
            "(such as a tab), and begins with no dot, ~ or blank"
        )
        raise ValueError(message)
    return name


DatasetName = Annotated[str, Field(max_length=200, coerce_numbers_to_str=True), AfterValidator(_of_a_folder)]
"""Name of a dataset, and so of a folder: no separators, no patterns. Numbers are names too."""


class Csv(Block):
    """How a text file is written."""

    separator: str | None = Field(
        default=None, min_length=1, max_length=1, description="null: the one of , tab ; | that gives the columns"
    )
    encoding: Annotated[str, AfterValidator(_known_encoding)] = "utf-8"


class Table(Dataset):
    """A log of the user: a Parquet or CSV file, and a second one with attributes of the users."""

    adapter: Literal["table"]
    interactions: FileName = Field(description="file, or folder of Parquet files, below data/01_raw/<dataset>/")
    user: str = Field(description="column of the user id")
    item: str = Field(description="column of the item id")
    timestamp: str = Field(description="column of the time: a number, a date or a timestamp")
    timestamp_format: str | None = Field(default=None, description="of dates, such as %d/%m/%Y %H:%M")
    timestamp_unit: Literal["s", "ms", "us", "ns"] | None = Field(default=None, description="of numbers, since 1970")
    where: dict[str, Value | tuple[Value, ...]] = Field(
        default={}, description="rows to keep, by column: a value, a list of values, or a comparison such as '>=4'"
    )
    csv: Csv = Field(default=Csv(), description="of text files")
    malformed: float = Field(default=0.0, ge=0, lt=1, description="share of the rows that may be left out as malformed")
    users: FileName | None = Field(default=None, description="file with one row per user, beside the interactions")
    user_attributes: tuple[str, ...] = Field(default=(), description="columns of that file to report by")

    @model_validator(mode="after")
    def _fit_together(self) -> Table:
        for names in ((self.user, self.item, self.timestamp), (self.user, *self.user_attributes)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"the column {', '.join(twice)} is named twice among {', '.join(names)}")
        if self.timestamp_format and self.timestamp_unit:
            raise ValueError("timestamp_format is for dates and timestamp_unit for numbers; set one of them")
        if self.user_attributes and self.users is None:
            message = f"user_attributes {list(self.user_attributes)} are columns of the file `users`, which is not set"
            raise ValueError(message)
        if self.users is not None and not self.user_attributes:
            raise ValueError(
                f"users is {self.users}, but user_attributes names no column of it; name some or leave it out"
            )
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
