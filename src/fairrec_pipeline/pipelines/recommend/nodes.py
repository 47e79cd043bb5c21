"""Node of the recommend pipeline."""

from __future__ import annotations

import ibis
import pandas as pd

from fairrec_pipeline.evaluation.top_k import top_k
from fairrec_pipeline.interactions.sequences import complete_histories
from fairrec_pipeline.parameters import Evaluate
from fairrec_pipeline.training.checkpoint import Snapshot
from fairrec_pipeline.training.fit import resolve_device
from fairrec_pipeline.training.scoring import model_scorer, restore_model


def recommend(model: Snapshot, interactions: ibis.Table, evaluate: Evaluate, device: str) -> pd.DataFrame:
    """Top-k of every user from everything the user did, the test item included."""
    trained = restore_model(model, resolve_device(device))
    histories = complete_histories(interactions.to_pandas(), trained.catalogue)
    scorer = model_scorer(trained.model, histories)
    return top_k(scorer, histories, evaluate.top_k, filter_seen=evaluate.filter_seen, device=trained.device)
