"""Iterative k-core filter of an interaction log (METHODS: data protocol)."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import FILE_ROW, ITEM, POSITION, TIMESTAMP, USER


def core_filter(events: ir.Table, core: int, ties: str = "item", seed: int = 0) -> ir.Table:
    """Keep the events of the core (see `core_events`), in order of time.

    Events of a user at the same instant are ties. They have one order whatever the order of the table's rows: by item
    id, by their row in the file, or by a hash of seed, user and item, which is random.

    Args:
        events: columns user_id, item_id, timestamp, and file_row if that orders ties; rows in any order.
        core: least number of distinct items of a user and of distinct users of an item.
        ties: `item`, `file` or `random`.
        seed: of the random order.

    Returns:
        Columns user_id, item_id, timestamp, position (0-based in the user's history), ordered by (user, position).

    Raises:
        DataError: nothing is left.
    """
    drawn = (ibis._[USER].cast("string") + ":" + ibis._[ITEM].cast("string") + f":{seed}").hexdigest("md5")
    order = {"item": [], "file": [ibis._[FILE_ROW]], "random": [drawn]}[ties]
    position = ibis.row_number().over(group_by=USER, order_by=[TIMESTAMP, *order, ITEM])
    kept = core_events(events, core).mutate(**{POSITION: position}).select(USER, ITEM, TIMESTAMP, POSITION)
    return kept.cache().order_by(USER, POSITION)


def core_events(events: ir.Table, core: int) -> ir.Table:
    """Keep the users and items with at least `core` distinct partners, until nothing changes.

    Counted on distinct (user, item) pairs; a kept pair keeps all its repeated events. Rows come in no order.

    Raises:
        DataError: nothing is left.
    """
    pairs = events.select(USER, ITEM).distinct().cache()
    n_before = n_pairs = pairs.count().execute()
    n_last = None
    while n_pairs != n_last:
        items_of_user, users_of_item = (ibis._.count().over(group_by=column) for column in (USER, ITEM))
        kept = pairs.filter(items_of_user >= core, users_of_item >= core).cache()
        pairs.release()
        pairs, n_last, n_pairs = kept, n_pairs, kept.count().execute()
    if n_pairs == 0:
        n_users, n_items = events[USER].nunique().execute(), events[ITEM].nunique().execute()
        message = (
            f"the log is empty after the filter: no user and no item of the {n_users} users, {n_items} items and "
            f"{n_before} distinct (user, item) pairs has {core} distinct partners (split.core={core}). "
            f"Set a smaller split.core (1 keeps everything) or bring more data"
        )
        raise DataError(message)
    return events.semi_join(pairs, [USER, ITEM])
