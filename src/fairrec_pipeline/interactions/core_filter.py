"""Iterative k-core filter of an interaction log (METHODS: data protocol)."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import FILE_ROW, ITEM, POSITION, TIMESTAMP, USER


def core_filter(events: ir.Table, core: int, ties: str = "item", seed: int = 0) -> ir.Table:
    """The events of the core (see `find_core`), in order of time (see `in_order_of_time`).

    Raises:
        DataError: nothing is left.
    """
    return in_order_of_time(events_of_core(events, *find_core(events, core)), ties, seed)


def find_core(events: ir.Table, core: int) -> tuple[ir.Table, ir.Table]:
    """The users with at least `core` distinct items and the items with at least `core` distinct users, among these.

    Args:
        events: columns user_id, item_id; a row an event.

    Returns:
        The users (user_id), and the items (item_id).

    Raises:
        DataError: nothing is left.
    """
    pairs = events.select(USER, ITEM).distinct().cache()
    users, items, n_last, n = None, None, None, None
    while n is None or n != n_last:
        users = _frequent(pairs if items is None else pairs.semi_join(items, ITEM), USER, core)
        items = _frequent(pairs.semi_join(users, USER), ITEM, core)
        n_last, n = n, (_count(users), _count(items))
    if not all(n):
        n_users, n_items = events[USER].nunique().execute(), events[ITEM].nunique().execute()
        raise DataError(
            f"the log is empty after the filter: no user and no item of the {n_users} users, {n_items} items and "
            f"{_count(pairs)} distinct (user, item) pairs has {core} distinct partners (split.core={core}). "
            f"Set a smaller split.core (1 keeps everything) or bring more data"
        )
    return users, items


def _count(table: ir.Table) -> int:
    return int(table.count().execute())


def _frequent(pairs: ir.Table, column: str, core: int) -> ir.Table:
    return pairs.group_by(column).agg(n=ibis._.count()).filter(ibis._.n >= core).select(column).cache()


def events_of_core(events: ir.Table, users: ir.Table, items: ir.Table) -> ir.Table:
    """The events whose user and item are both in the core, repeated ones too; rows come in no order."""
    return events.semi_join(users, USER).semi_join(items, ITEM)


def in_order_of_time(events: ir.Table, ties: str, seed: int) -> ir.Table:
    """Number the events of a user.

    Events of a user at the same instant are ties. They have one order whatever the order of the table's rows: by item
    id, by their row in the file, or by a hash of seed, user and item, which is random.

    Args:
        events: columns user_id, item_id, timestamp, and file_row if that orders ties; rows in any order.
        ties: `item`, `file` or `random`.
        seed: of the random order.

    Returns:
        Columns user_id, item_id, timestamp, position (0-based in the user's history), ordered by (user, position).
    """
    drawn = (ibis._[USER].cast("string") + ":" + ibis._[ITEM].cast("string") + f":{seed}").hexdigest("md5")
    order = {"item": [], "file": [ibis._[FILE_ROW]], "random": [drawn]}[ties]
    position = ibis.row_number().over(group_by=USER, order_by=[TIMESTAMP, *order, ITEM])
    numbered = events.mutate(**{POSITION: position}).select(USER, ITEM, TIMESTAMP, POSITION)
    return numbered.order_by(USER, POSITION).cache()
