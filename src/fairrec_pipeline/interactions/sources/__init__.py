"""Raw files to events: one module a format, and one way to check and normalise what they read."""

from __future__ import annotations

from pathlib import Path

import ibis

from fairrec_pipeline.interactions.columns import FILE_ROW
from fairrec_pipeline.interactions.sources.published import read_movielens_1m, read_movielens_100k, read_retailrocket
from fairrec_pipeline.interactions.sources.raw_files import RawData, Step
from fairrec_pipeline.interactions.sources.synthetic import generate
from fairrec_pipeline.interactions.sources.table import read_own_table
from fairrec_pipeline.parameters.datasets import MovieLens, RetailRocket, Source, Synthetic, Table


def read_source(folder: Path, source: Source) -> RawData:
    """Read the raw files of a dataset from `data/01_raw/<dataset>`; a synthetic dataset does not need the folder.

    Returns:
        The events have the columns user_id, item_id, timestamp and file_row, in no order. Ids are int64 where every id
        is a whole number, else text. The timestamp is int64, and only its order is used: dates are microseconds since
        1970 (UTC where they name no zone), whole numbers have the unit of the file, numbers with fractions are counted
        in millionths of it.
        User attributes have user_id (typed as in the events) and one column of text per attribute, "unknown" where the
        source has no value.

    Raises:
        DataError: a file or a column is missing, a file cannot be read, the log is empty, an id or a timestamp is
            null, a timestamp cannot be read, a user has two rows of attributes, or none of the users has one.
    """
    block = source.root
    match block:
        case RetailRocket():
            return read_retailrocket(folder)
        case MovieLens():
            return read_movielens_1m(folder) if block.adapter == "movielens-1m" else read_movielens_100k(folder)
        case Table():
            return read_own_table(folder, block)
        case Synthetic():
            events, users = generate(block.n_users, block.n_items, block.seed)
            events[FILE_ROW] = range(len(events))
            return RawData(ibis.memtable(events), ibis.memtable(users), steps=(Step("generated", len(events)),))
