"""The k best items of every user: what a trained arm recommends."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from fairrec_pipeline.interactions.columns import ITEM, USER
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.memory import available_memory, require_memory
from fairrec_pipeline.metrics.ranking import SCORES_AT_ONCE, Scorer, SeenItems


def top_k(scorer: Scorer, sequences: Histories, k: int, *, filter_seen: bool, device: str = "cpu") -> pd.DataFrame:
    """The k items with the highest scores of every user; fewer if fewer can be recommended.

    Args:
        filter_seen: leave out the items of a user's history.

    Returns:
        columns user_id, rank (1 is best), item_id, score; sorted by user and rank.

    Raises:
        OptionError: they would not fit into memory.
    """
    k = min(k, sequences.n_items)
    size = 80 * sequences.n_users * k
    require_memory({"recommendations [evaluate.top_k]": size}, "recommending", available=available_memory())
    seen = SeenItems(sequences, device) if filter_seen else None
    rows = max(1, SCORES_AT_ONCE // sequences.n_items)
    codes, scores = [], []
    for start in range(0, sequences.n_users, rows):
        stop = min(start + rows, sequences.n_users)
        of_users = scorer(torch.arange(start, stop, device=device))
        if seen is not None:
            of_users[seen.rows_and_items(start, stop)] = float("-inf")
        best = torch.topk(of_users, k, dim=1)
        codes.append(best.indices.cpu())
        scores.append(best.values.cpu())
    score = torch.cat(scores).numpy().ravel()
    columns = {
        USER: np.repeat(sequences.users, k),
        "rank": np.tile(np.arange(1, k + 1), sequences.n_users),
        ITEM: sequences.catalogue[torch.cat(codes).numpy().ravel()],
        "score": score,
    }
    rankable = np.isfinite(score)
    return pd.DataFrame({name: values[rankable] for name, values in columns.items()})
