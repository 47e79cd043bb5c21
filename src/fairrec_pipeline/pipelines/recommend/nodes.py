"""Node of the recommend pipeline."""

from __future__ import annotations

import logging
from typing import Any

import ibis
import pandas as pd

from fairrec_pipeline.arms.record import SavedModel
from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.histories import complete_histories
from fairrec_pipeline.metrics.top_k import top_k
from fairrec_pipeline.parameters.blocks import Evaluate
from fairrec_pipeline.training.fit import resolve_device
from fairrec_pipeline.training.scoring import ModelScorer, restore_model

logger = logging.getLogger(__name__)


def recommend(
    model: SavedModel, interactions: ibis.Table, statistics: dict[str, Any], evaluate: Evaluate, device: str
) -> pd.DataFrame:
    """Top-k of every user from everything the user did, the test item included.

    Newer data than those of the training are the usual case in production, so they are allowed, and said.

    Raises:
        DataError: the model is of another dataset.
    """
    if model.config["dataset"] != statistics["dataset"]:
        message = f"the model is of {model.config['dataset']}, the interactions are of {statistics['dataset']}"
        raise DataError(message)
    if model.config["data_fingerprint"] != statistics["fingerprint"]:
        logger.warning("The model was trained on other data than the present ones; it cannot recommend newer items")
    trained = restore_model(model, resolve_device(device))
    histories = complete_histories(interactions.to_pandas(), trained.catalogue)
    scorer = ModelScorer(trained.model, histories)
    return top_k(scorer, histories, evaluate.top_k, filter_seen=evaluate.filter_seen, device=trained.device)
