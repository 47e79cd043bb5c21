"""Pandera schemas of the catalog's tables (key `validator`); they run in DuckDB, on saving and on loading.

Ids are int64 or string, so their type is not checked. Statistics, group and attribute columns that a dataset or a
parameter adds are let through.
"""

from __future__ import annotations

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
from pandera.api.ibis.types import IbisData
from pandera.ibis import Check, Column, DataFrameSchema

from fairrec_pipeline.interactions.columns import (
    FILE_ROW,
    ITEM,
    N_HELD_OUT,
    N_INTERACTIONS,
    POPULARITY_RATIO,
    POSITION,
    ROLE,
    TEST,
    TIMESTAMP,
    TRAIN,
    TRAIN_LENGTH,
    USER,
    VALIDATION,
)


def _one_row_per_user(data: IbisData) -> ir.BooleanScalar:
    return data.table.count() == data.table[USER].nunique()


def _at_most_one_target(data: IbisData) -> ir.BooleanScalar:
    targets = data.table.filter(data.table[ROLE] != TRAIN).group_by(USER, ROLE).agg(n=ibis._.count())
    return ~(targets["n"] > 1).any().fill_null(False)


def _positions_are_complete(data: IbisData) -> ir.BooleanScalar:
    expected = ibis.row_number().over(group_by=USER, order_by=POSITION)
    return data.table.select(matches=data.table[POSITION] == expected)["matches"].all()


_EVENT = {USER: Column(nullable=False), ITEM: Column(nullable=False), TIMESTAMP: Column(dt.int64, nullable=False)}
_POSITION = Column(dt.int64, Check.ge(0), nullable=False)

events = DataFrameSchema({**_EVENT, FILE_ROW: Column(dt.int64, nullable=False)}, name="events", strict=True)

user_attributes = DataFrameSchema(
    {USER: Column(nullable=False)}, checks=Check(_one_row_per_user, error="one row per user"), name="user_attributes"
)

core_interactions = DataFrameSchema({**_EVENT, POSITION: _POSITION}, name="core_interactions", strict=True)

held_out = DataFrameSchema(
    {
        USER: Column(nullable=False),
        N_INTERACTIONS: Column(dt.int64, Check.ge(1), nullable=False),
        N_HELD_OUT: Column(dt.int64, Check.isin([0, 1, 2]), nullable=False),
    },
    checks=Check(_one_row_per_user, error="one row per user"),
    name="held_out",
    strict=True,
)

interactions = DataFrameSchema(
    {**_EVENT, POSITION: _POSITION, ROLE: Column(str, Check.isin([TRAIN, VALIDATION, TEST]), nullable=False)},
    checks=[
        Check(_at_most_one_target, error="at most one test and one validation interaction per user"),
        Check(_positions_are_complete, error="positions 0 .. n-1 for a user with n interactions"),
    ],
    name="interactions",
    strict=True,
)

user_groups = DataFrameSchema(
    {
        USER: Column(nullable=False),
        TRAIN_LENGTH: Column(dt.int64, Check.ge(1), nullable=False),
        POPULARITY_RATIO: Column(dt.float64, Check.in_range(0, 1), nullable=False),
        # The splits of the parameters and the attributes of the users.
        "^(?!user_id$|train_length$|popularity_ratio$).*$": Column(str, nullable=False, regex=True, required=False),
    },
    checks=Check(_one_row_per_user, error="one row per user"),
    name="user_groups",
)
