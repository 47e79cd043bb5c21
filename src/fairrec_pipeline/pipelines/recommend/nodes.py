"""Node of the recommend pipeline."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ibis
import pandas as pd

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.histories import stream_histories
from fairrec_pipeline.interactions.sources.lists import read_histories, read_items
from fairrec_pipeline.parameters.blocks import Recommend
from fairrec_pipeline.serving.batch import recommend_in_frames
from fairrec_pipeline.serving.recommender import Recommender

logger = logging.getLogger(__name__)


def recommend_items(
    recommender: Recommender, interactions: ibis.Table, statistics: dict[str, Any], raw_folder: Path, options: Recommend
) -> Iterator[pd.DataFrame]:
    """Frames of the k best items of every user, from everything the user did, the test item included.

    Newer data than those of the training are the usual case in production, so they are allowed, and said.

    Raises:
        DataError: the model is of another dataset, or a file that `options` name cannot be used.
    """
    model = recommender.config
    if model.dataset != statistics["dataset"]:
        raise DataError(f"the model is of {model.dataset}, the interactions are of {statistics['dataset']}")
    if model.data_fingerprint != statistics["fingerprint"]:
        logger.warning("The model was trained on other data than the present ones; it cannot recommend newer items")
    logger.info("Recommending %d items a user with %s", options.k, model.label)
    exclude, allow = (
        None if file is None else _known_items(recommender, raw_folder, file)
        for file in (options.exclude, options.allow)
    )
    if options.users is None:
        histories = stream_histories(interactions)
    else:
        histories = read_histories(raw_folder, options.users, model.item_type)
    return recommend_in_frames(
        recommender, histories, options.k, exclude=exclude or (), allow=allow, filter_seen=options.filter_seen
    )


def _known_items(recommender: Recommender, folder: Path, file: str) -> list[Any]:
    items = read_items(folder, file, recommender.config.item_type)
    n_known = len(recommender.codes(items, file))
    if not n_known:
        message = f"{folder / file}: the model knows none of its {len(items)} items. Name items of the training data"
        raise DataError(message)
    if n_known < len(items):
        logger.warning("%s: the model knows %d of its %d items", folder / file, n_known, len(items))
    return items
