"""Histories as the rectangles of a padded model, built from lists in numpy."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np

from fairrec_pipeline.serving.model_folder import Backbone


def padded_inputs(items: np.ndarray, offsets: np.ndarray, backbone: Backbone) -> dict[str, np.ndarray]:
    """Inputs of `padded_scores.PaddedScores` and of its export, by name.

    Args:
        items: item codes, oldest first.
        offsets: (b + 1,) history u, which should be complete, is `items[offsets[u]:offsets[u + 1]]`.
        backbone: of the model.

    Returns:
        tokens (b, l) int64, padded on the left with the start token, which itself comes first in a history that fits;
        lengths (b,) int64, real tokens of each row;
        with a copy mechanism also items, counts (b, window) int64: of the distinct items among the newest `window` of
        the history, newest first, code and how often the history has it; 0 and 0 where there is none.
    """
    histories = [items[start:stop].tolist() for start, stop in pairwise(offsets.tolist())]
    cut = [(backbone.n_items, *history)[-backbone.max_length :] for history in histories]
    lengths = np.array([len(tokens) for tokens in cut])
    tokens = np.full((len(cut), int(lengths.max())), backbone.n_items)
    for row, of_user in zip(tokens, cut, strict=True):
        row[-len(of_user) :] = of_user
    if not backbone.copy_window:
        return {"tokens": tokens, "lengths": lengths}
    shape = (len(cut), backbone.copy_window)
    own, counts = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for number, history in enumerate(histories):
        times = Counter(history)
        newest = list(dict.fromkeys(reversed(history[-backbone.copy_window :])))
        own[number, : len(newest)], counts[number, : len(newest)] = newest, [times[item] for item in newest]
    return {"tokens": tokens, "lengths": lengths, "items": own, "counts": counts}
