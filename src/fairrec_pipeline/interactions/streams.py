"""Histories one after another, from tables that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import ibis.expr.types as ir

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import ITEM, USER

ROWS_AT_ONCE = 2**17


def stream_histories(table: ir.Table) -> Iterator[tuple[Any, list[Any]]]:
    """Every user with the items of the history, oldest first.

    Args:
        table: columns user_id and item_id; the rows of a user stand back to back in the order of time, and the users
            ascend. A row without an item adds nothing: it is there for a user without a history.

    Raises:
        DataError: the users do not ascend.
    """
    previous = None
    for user, rows in groupby(_rows(table), key=lambda row: row[0]):
        if previous is not None and not previous < user:
            message = (
                f"the interactions are not in the order of their users: {user} follows {previous}. Prepare them again: "
                "kedro run --pipeline=data"
            )
            raise DataError(message)
        yield user, [item for _, item in rows if item is not None]
        previous = user


def _rows(table: ir.Table) -> Iterator[tuple[Any, Any]]:
    for batch in table.select(USER, ITEM).to_pyarrow_batches(chunk_size=ROWS_AT_ONCE):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
