"""Recommendations of other systems as arms: a file of lists is judged on the same users, targets and groups."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairrec_pipeline.arms.record import FOREIGN, ArmRecord
from fairrec_pipeline.comparison.baselines import BASELINES
from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.columns import ITEM, USER
from fairrec_pipeline.interactions.histories import UNKNOWN
from fairrec_pipeline.interactions.prepared import PreparedHistories
from fairrec_pipeline.metrics.item_side import LENGTH, item_metrics
from fairrec_pipeline.metrics.ranking import user_metrics
from fairrec_pipeline.parameters.methods import METHODS, parts_of_arm
from fairrec_pipeline.storage import sha256

logger = logging.getLogger(__name__)


def foreign_arms(
    folder: Path, histories: PreparedHistories, user_groups: pd.DataFrame, *, filter_seen: bool
) -> list[ArmRecord]:
    """One arm for every Parquet or CSV file of a folder, named by the file; none if there is no such folder.

    A file has columns user (or user_id), item (or item_id), and rank (1 is best) or score (higher is better); rank
    counts if it has both. Ids match those of the log as texts, numbers as they are written without a point. The rank of
    a target is its place in the user's list, ties against it; a target that is not in the list is a miss, and so is
    every target of a user without a list. As for every other arm, a target that training never saw is a miss, and seen
    items are taken out of the lists where the evaluation leaves them out. An item outside of the catalogue fills its
    place in the list. Lists for users who are not tested are passed over.

    Args:
        folder: of the files.
        histories: of the prepared data.
        user_groups: see `by_group.membership`.
        filter_seen: leave the items of a user's history out of the lists.

    Raises:
        DataError: a file cannot be read, lacks a column, has missing values, an item twice for a user, a user that the
            data do not know, or no item of the catalogue; or its name is that of another arm.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix in (".parquet", ".csv"))
    names = [file.stem for file in files]
    arms = []
    for file in files:
        if names.count(file.stem) > 1 or parts_of_arm(file.stem)[0] in METHODS or file.stem in BASELINES:
            message = f"{file} would be an arm called {file.stem}, which is the name of another arm. Rename the file"
            raise DataError(message)
        lists = _placed(_read(file), file, histories, filter_seen=filter_seen)
        arms.append(_judged(lists, file, histories, user_groups))
    return arms


def _read(file: Path) -> pd.DataFrame:
    """Columns user_id and item_id as text, and order: lower is better."""
    try:
        table = (
            pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])
            if file.suffix == ".csv"
            else pd.read_parquet(file)
        )
    except Exception as error:  # whatever the parser says, it is the file
        message = f"{file} cannot be read: {str(error).partition(chr(10))[0]}. Allowed: Parquet, or CSV in UTF-8"
        raise DataError(message) from error
    table = table.rename(columns={"user": USER, "item": ITEM})
    given = next((name for name in ("rank", "score") if name in table), None)
    missing = [name for name in (USER, ITEM) if name not in table] + ([] if given else ["rank or score"])
    if missing or given is None:
        raise DataError(
            f"{file} has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}. Needed: user, "
            "item, and rank or score"
        )
    order = pd.to_numeric(table[given], errors="coerce").astype(np.float64)
    bad = table[[USER, ITEM]].isna().any(axis=1) | ~np.isfinite(order)
    if bad.any():
        raise DataError(
            f"{file} has {bad.sum()} rows without a user, an item or a number in {given}; the first is row "
            f"{np.argmax(bad) + 1}. Leave such rows out"
        )
    ids = {name: _text(table[name]) for name in (USER, ITEM)}
    return pd.DataFrame({**ids, "order": order if given == "rank" else -order})


def _placed(table: pd.DataFrame, file: Path, histories: PreparedHistories, *, filter_seen: bool) -> pd.DataFrame:
    """Columns user and item (codes in the test), place: the place in the user's list, ties last."""
    twice = table.duplicated([USER, ITEM])
    if twice.any():
        first = table[twice].iloc[0]
        raise DataError(
            f"{file} has {twice.sum()} items twice in a list, first item {first[ITEM]} of user {first[USER]}. Give "
            "every user an item once"
        )
    test, known = histories.test, _index(histories.train.users)
    users, items = pd.Index(table[USER]), pd.Index(table[ITEM])
    strangers = users[known.get_indexer(users) < 0].unique()
    if len(strangers):
        raise DataError(
            f"{file} has {len(strangers)} users that the data do not have, such as {strangers[0]!r}; the data have "
            f"{known[0]!r}. Ids are those of the log, and users are those after split.core"
        )
    user, item = _index(test.users).get_indexer(users), _index(test.catalogue).get_indexer(items)
    codes = pd.DataFrame({"user": user, "item": item, "order": table["order"].to_numpy()})
    outside = float(np.mean(item == UNKNOWN)) if len(item) else 1.0
    if outside == 1:
        message = (
            f"{file} has no item that training knows, such as {str(test.catalogue[0])!r}. Ids are those of the log"
        )
        raise DataError(message)
    if outside > 0:
        logger.warning("%.1f %% of the items in the lists of %s are not in the catalogue", 100 * outside, file)
    codes = codes[codes["user"] >= 0]
    if filter_seen:
        seen = np.unique(test.event_users * test.n_items + test.items)
        pair = (codes["user"] * test.n_items + codes["item"]).where(codes["item"] != UNKNOWN, -1)
        codes = codes[~pair.isin(seen)]
    return codes.assign(place=codes.groupby("user")["order"].rank(method="max").astype(np.int64))


def _judged(lists: pd.DataFrame, file: Path, histories: PreparedHistories, user_groups: pd.DataFrame) -> ArmRecord:
    test = histories.test
    assert test.targets is not None  # histories of the test have some
    hit = lists[(lists["item"] == test.targets[lists["user"]]) & (lists["item"] != UNKNOWN)]
    ranks = np.zeros(test.n_users, dtype=np.int64)
    ranks[hit["user"]] = hit["place"]
    metrics = user_metrics(test, ranks, None)
    shown = np.full((test.n_users, LENGTH), UNKNOWN, dtype=np.int64)
    within = lists[lists["place"] <= LENGTH].sort_values(["user", "order"], kind="stable")
    shown[within["user"], within.groupby("user").cumcount()] = within["item"]
    sizes = np.bincount(lists["user"], minlength=test.n_users)
    card: dict[str, Any] = {
        **{"arm": file.stem, "loss": FOREIGN, "loss_groups": None, "seed": None},
        **{"data_fingerprint": histories.fingerprint, "file": file.name, "file_sha256": sha256(file)},
        **{"users_with_a_list": int(np.count_nonzero(sizes)), "shortest_list": int(sizes.min())},
    }
    by_group = item_metrics(shown, histories.train, test, metrics, user_groups)
    return ArmRecord.of(card, user_metrics=metrics, item_metrics=by_group)


def _text(ids: pd.Series[Any]) -> pd.Series[str]:
    """Ids as text; a whole number is written without a point."""
    whole = pd.api.types.is_float_dtype(ids) and bool((ids == ids.round()).all())
    text: pd.Series[str] = (ids.astype(np.int64) if whole else ids).astype(str)
    return text


def _index(ids: np.ndarray) -> pd.Index[Any]:
    return pd.Index(pd.Series(ids).astype(str))
