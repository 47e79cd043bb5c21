"""Raw files to events: one module a format, and one way to check and normalise what they read."""

from __future__ import annotations

from pathlib import Path

import ibis

from fairrec_pipeline.interactions.sources.movielens import read_movielens_1m, read_movielens_100k
from fairrec_pipeline.interactions.sources.raw_files import RawData
from fairrec_pipeline.interactions.sources.retailrocket import read_retailrocket
from fairrec_pipeline.interactions.sources.synthetic import generate
from fairrec_pipeline.interactions.sources.table import read_own_table
from fairrec_pipeline.parameters.datasets import MovieLens, RetailRocket, Source, Synthetic, Table


def read_source(folder: Path, source: Source) -> RawData:
    """Read the raw files of a dataset.

    Args:
        folder: `data/01_raw/<dataset>`; a synthetic dataset does not need it.
        source: the dataset's block of parameters_datasets.yml.

    Returns:
        events: columns user_id, item_id, timestamp, rows in no particular order. Ids are int64 where every id is a
            whole number, else strings. The timestamp is int64: a date becomes microseconds since 1970 (UTC where it
            names no zone), a whole number keeps its own unit, numbers with fractions are counted in millionths of
            their unit. Only its order is used.
        user_attributes: user_id (typed as in the events), and one string column per attribute with "unknown" where
            the source has no value. One row per user of the events.
        files: that were read.

    Raises:
        DataError: a file or a column is missing, a file cannot be read, the log is empty, an id or a timestamp is
            null, a timestamp is neither a number nor a date, or a user has two rows of attributes.
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
            return RawData(ibis.memtable(events), ibis.memtable(users))
